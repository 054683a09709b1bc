//! The numbers that were given whatever becomes of the ledger, in `rgrid_incarnations`.
//!
//! A worker's number is one more than that of its last death. With each death the next number is noted here, too: rows of
//! the ledger can be removed by hand. When the last row of a worker is pruned from the ledger, so is its number here, which
//! would then start again at 1. So unknown workers get the floor, a number that is higher than that of any death that was
//! pruned. Workers that are alive and have never died must keep the number that they were given before, so they have rows
//! of their own. The floor rises seldom: first from 1 to 2, and then only when a pruned worker has died more often than
//! any before it.
//!
//! A session that gives a worker its number has read this table, and so holds a share lock on it until its transaction
//! ends. A session that changes the numbers, or removes the last row of a worker from the ledger, locks it exclusively:
//! then no uncommitted transaction has given out a number. That lock is taken only if it is free, so no session waits
//! for it.

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{catalog, sql};
use crate::rules::text::printable;
use crate::tables::heartbeats::HeartbeatTable;

/// The number of an unknown worker, as an SQL expression. The row with the empty id has it; without that row it is 1.
pub const FLOOR: &str =
    "coalesce((SELECT f.incarnation FROM @extschema@.rgrid_incarnations f WHERE f.worker_id = ''), 1)";

/// The highest number that is given. Whatever reads JSON keeps whole numbers up to this one. A higher one in a table
/// was put there by hand.
pub const HIGHEST: i64 = (1 << 53) - 1;

/// The number of a worker after the death of this one.
///
/// # Errors
///
/// `numeric_value_out_of_range` when there is none.
pub fn after(number: i64, worker: &str) -> Result<i64> {
    checked(number.saturating_add(1), worker)
}

/// A worker's number.
///
/// # Errors
///
/// `numeric_value_out_of_range` when it is higher than any that is given.
pub fn checked(number: i64, worker: &str) -> Result<i64> {
    if number <= HIGHEST {
        Ok(number)
    } else {
        Err(Error::IncarnationOutOfRange { worker: printable(worker) })
    }
}

/// Locks the numbers until the transaction ends, so that no worker is given one; false when one is being given out.
pub fn try_lock(installation: &Installation) -> bool {
    catalog::relation_named(installation.schema, "rgrid_incarnations")
        .is_some_and(|table| catalog::try_lock_exclusively(table.oid))
}

/// The number of a worker as an SQL expression, from its last death in the ledger, which may be NULL, and its row here, `i`.
pub fn number(last: &str) -> String {
    format!("coalesce(greatest({last} + 1, i.incarnation), {FLOOR})")
}

/// Raises the floor above this number, so that unknown workers get a higher one. No other worker's number changes. The
/// caller has locked the numbers.
pub fn raise_floor(installation: &Installation, pruned: i64, heartbeats: &HeartbeatTable) -> Result<()> {
    if floor(installation)? > pruned {
        return Ok(());
    }
    let pruned = keep(installation, &heartbeats.ids()?)?.map_or(pruned, |gone| gone.max(pruned));
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_incarnations AS n (worker_id, incarnation) VALUES ('', $1) \
         ON CONFLICT (worker_id) DO UPDATE SET incarnation = EXCLUDED.incarnation",
    );
    installation.as_owner(|| sql::write(&statement, &[(pruned + 1).into()]))?;
    Ok(())
}

/// Removes the numbers of these workers, which have died since they got a row here and whose deaths were pruned. From
/// now on they are unknown workers. The caller has locked the numbers.
pub fn forget(installation: &Installation, workers: &[String]) -> Result<()> {
    let statement =
        installation.sql("DELETE FROM @extschema@.rgrid_incarnations n WHERE n.worker_id = ANY ($1)");
    installation.as_owner(|| sql::write(&statement, &[workers.to_vec().into()]))?;
    Ok(())
}

/// Reads the floor.
fn floor(installation: &Installation) -> Result<i64> {
    let statement = installation.sql(&format!("SELECT {FLOOR}"));
    let numbers =
        installation.as_owner(|| sql::read_latest(&statement, &[], |row| row.required(1, "incarnation")))?;
    Ok(numbers.into_iter().next().unwrap_or(1))
}

/// Stores the numbers of those of these workers that have no death in the ledger, and removes those of workers that have
/// neither a death nor a row. Returns the highest of the latter.
fn keep(installation: &Installation, workers: &[String]) -> Result<Option<i64>> {
    let statement = installation.sql(
        "DELETE FROM @extschema@.rgrid_incarnations n \
         WHERE n.worker_id <> '' AND n.worker_id <> ALL ($1) \
           AND NOT EXISTS (SELECT FROM @extschema@.rgrid_worker_deaths d WHERE d.worker_id = n.worker_id) \
         RETURNING least(n.incarnation, $2)",
    );
    let arguments = [workers.to_vec().into(), (HIGHEST - 1).into()];
    let gone: Vec<i64> = installation
        .as_owner(|| sql::write_returning(&statement, &arguments, |row| row.required(1, "incarnation")))?;
    let number = floor(installation)?;
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_incarnations (worker_id, incarnation) \
         SELECT w.id, $2 FROM unnest($1::text[]) AS w (id) \
         WHERE NOT EXISTS (SELECT FROM @extschema@.rgrid_worker_deaths d WHERE d.worker_id = w.id) \
         ON CONFLICT DO NOTHING",
    );
    installation.as_owner(|| sql::write(&statement, &[workers.to_vec().into(), number.into()]))?;
    Ok(gone.into_iter().max())
}
