//! The numbers of the incarnations that the ledger no longer tells, in `rgrid_incarnations`.
//!
//! A worker's number is one more than that of its last death. When the last row of a worker is pruned from the
//! ledger, its number would start again at 1; so from then on every worker of whom nothing is known gets a number that
//! is higher than that of any death that was pruned. Workers that are alive and have never died must keep the number
//! that they were told before: they are written down by name. The common number grows seldom: at first from 1 to 2,
//! and then only when a worker is pruned that has died more often than any before it.
//!
//! Whoever tells a worker its number has read this table, and so holds a share lock on it until its transaction
//! ends. Whoever changes the numbers, or removes the last row of a worker from the ledger, holds it exclusively: then no
//! number is on its way to anybody, and nobody waits, because the lock is taken only if it is free.

use crate::error::Result;
use crate::installation::Installation;
use crate::pg::{catalog, sql};
use crate::tables::heartbeats::HeartbeatTable;

/// Keeps everybody from being told a number until the transaction ends; false when somebody is being told one.
pub fn try_lock(installation: &Installation) -> bool {
    catalog::relation_named(installation.schema, "rgrid_incarnations")
        .is_some_and(|table| catalog::try_lock_exclusively(table.oid))
}

/// Sees to it that workers of whom nothing is known get a higher number than this one, and that nobody else's
/// changes. The numbers are locked.
pub fn raise_floor(installation: &Installation, pruned: i64, heartbeats: &HeartbeatTable) -> Result<()> {
    if floor(installation)? > pruned {
        return Ok(());
    }
    keep(installation, &heartbeats.ids()?)?;
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_incarnations AS n (worker_id, incarnation) VALUES ('', $1) \
         ON CONFLICT (worker_id) DO UPDATE SET incarnation = EXCLUDED.incarnation",
    );
    installation.as_owner(|| sql::write(&statement, &[(pruned + 1).into()]))?;
    Ok(())
}

/// Forgets the numbers of these workers, who have died since they were written down and whose deaths were pruned: from
/// now on nothing is known of them. The numbers are locked.
pub fn forget(installation: &Installation, workers: &[String]) -> Result<()> {
    let statement =
        installation.sql("DELETE FROM @extschema@.rgrid_incarnations n WHERE n.worker_id = ANY ($1)");
    installation.as_owner(|| sql::write(&statement, &[workers.to_vec().into()]))?;
    Ok(())
}

/// The number of a worker of whom nothing is known.
fn floor(installation: &Installation) -> Result<i64> {
    let statement = installation.sql(
        "SELECT coalesce((SELECT n.incarnation FROM @extschema@.rgrid_incarnations n WHERE n.worker_id = ''), 1)",
    );
    let numbers =
        installation.as_owner(|| sql::read_latest(&statement, &[], |row| row.required(1, "incarnation")))?;
    Ok(numbers.into_iter().next().unwrap_or(1))
}

/// Writes down the present numbers of these workers, as far as the ledger does not tell them, and forgets those of
/// others.
fn keep(installation: &Installation, workers: &[String]) -> Result<()> {
    let statement = installation.sql(
        "DELETE FROM @extschema@.rgrid_incarnations n \
         WHERE n.worker_id <> '' AND n.worker_id <> ALL ($1) \
            OR EXISTS (SELECT FROM @extschema@.rgrid_worker_deaths d WHERE d.worker_id = n.worker_id)",
    );
    installation.as_owner(|| sql::write(&statement, &[workers.to_vec().into()]))?;
    let number = floor(installation)?;
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_incarnations (worker_id, incarnation) \
         SELECT w.id, $2 FROM unnest($1::text[]) AS w (id) \
         WHERE NOT EXISTS (SELECT FROM @extschema@.rgrid_worker_deaths d WHERE d.worker_id = w.id) \
         ON CONFLICT DO NOTHING",
    );
    installation.as_owner(|| sql::write(&statement, &[workers.to_vec().into(), number.into()]))?;
    Ok(())
}
