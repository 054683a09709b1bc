//! The numbers that were given whatever becomes of the ledger, in `rgrid_incarnations`, and the bases of those that are
//! given anew, in `rgrid_incarnation_bases`.
//!
//! A worker's number is one more than that of its last death. With each death the next number is noted here, too: rows
//! of the ledger can be removed by hand. A worker that has never died has the number 1 without a row here, if it was
//! known before. One that is unknown gets the floor, and a row if that is higher than 1. The floor is above all numbers
//! that were pruned.
//!
//! What happened after the moment to which a database went back, by a failover or a restore, is lost, and with it
//! numbers that were given. So each row of the bases names its origin. When the highest is of another origin than this
//! database, a new one is added: the seconds since 1970, above all that is known. Numbers after a death, and those of
//! unknown workers, are not below it. A living worker keeps its number.
//!
//! Rows of the bases are only ever added, and several sessions may do so at once: each is above those before. So nobody
//! waits for the transaction of another worker.
//!
//! A session that gives a worker its number has read `rgrid_incarnations`, and so holds a share lock on it until its
//! transaction ends. A session that raises the floor, or removes the last row of a worker from the ledger, locks it
//! exclusively: then no uncommitted transaction has given out a number. That lock is taken only if it is free, so no
//! session waits for it.

use chrono::{DateTime, Utc};

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{self, arrays, catalog, commit, report, scope, sql};
use crate::rules::text::printable;
use crate::tables::heartbeats::HeartbeatTable;

/// The lowest number after a death, as an SQL expression.
pub const BASE: &str =
    "coalesce((SELECT pg_catalog.max(b.base) FROM @extschema@.rgrid_incarnation_bases b), 1)";

/// The number of an unknown worker, as an SQL expression. The row with the empty id has what pruning has made of it.
const FLOOR: &str = "greatest((SELECT f.incarnation FROM @extschema@.rgrid_incarnations f WHERE f.worker_id = ''), \
     (SELECT pg_catalog.max(b.base) FROM @extschema@.rgrid_incarnation_bases b), 1)";

/// The highest number that is given. Whatever reads JSON keeps whole numbers up to this one. A higher one in a table
/// was put there by hand.
pub const HIGHEST: i64 = (1 << 53) - 1;

/// A number above this one was put into a table by hand. No base is raised above it: half of the numbers stay.
const HIGHEST_BASE: i64 = HIGHEST / 2;

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

/// The number that a worker is told: `known` is what is known of it, and of a worker that is not living, or new, the
/// base and the floor count, too.
///
/// # Errors
///
/// As [`checked`].
pub fn told(known: Option<i64>, is_living: bool, (base, floor): (i64, i64), worker: &str) -> Result<i64> {
    let number = match known {
        Some(number) if is_living => number,
        Some(number) => number.max(base),
        None if is_living => 1,
        None => floor,
    };
    checked(number, worker)
}

/// The base and the floor of this database at this moment; a base of its own is added first where there is none.
pub fn base_and_floor(installation: &Installation) -> Result<(i64, i64)> {
    raise_base(installation)?;
    scope::with_latest_snapshot(|| Ok(numbers(installation, true)?.0))
}

/// The base and, if `with_floor`, the floor, as the active snapshot sees them, and whether the base is this database's
/// own.
pub fn numbers(installation: &Installation, with_floor: bool) -> Result<((i64, i64), bool)> {
    let origin = origin(installation);
    let bases = installation.all_stored("rgrid_incarnation_bases", |row| {
        Ok((row.required::<i64>(c"base")?, row.required::<String>(c"origin")? == origin))
    })?;
    let highest = |is_own: bool| bases.iter().filter(|base| base.1 == is_own).map(|base| base.0).max();
    let is_current = highest(true) > highest(false).or(Some(0));
    let base = highest(true).max(highest(false)).unwrap_or(1);
    let floor = if with_floor { noted(installation, "")? } else { None };
    Ok(((base, floor.map_or(base, |floor| floor.max(base))), is_current))
}

/// The number that was noted for a worker, as the active snapshot sees it; that of the empty id is what pruning has
/// made of the floor.
pub fn noted(installation: &Installation, worker: &str) -> Result<Option<i64>> {
    let numbers = installation
        .stored("rgrid_incarnations", (c"worker_id", worker), |row| row.required(c"incarnation"))?;
    Ok(numbers.into_iter().next())
}

/// Locks the numbers until the transaction ends, so that no worker is given one; false when one is being given out.
pub fn try_lock(installation: &Installation) -> bool {
    catalog::relation_named(installation.schema, "rgrid_incarnations")
        .is_some_and(|table| catalog::try_lock_exclusively(table.oid))
}

/// Keeps the numbers from being locked by [`try_lock`] until the transaction ends; false when they are.
pub fn try_lock_for_reading(installation: &Installation) -> bool {
    catalog::relation_named(installation.schema, "rgrid_incarnations")
        .is_some_and(|table| catalog::try_lock_for_reading(table.oid))
}

/// The number of a known worker as an SQL expression, from its last death in the ledger, which may be NULL, and its row
/// here, `i`.
pub fn number(last: &str) -> String {
    format!("coalesce(greatest({last} + 1, i.incarnation), 1)")
}

/// Whether the highest base is of an origin, as an SQL expression.
fn is_current(origin: &str) -> String {
    format!(
        "(SELECT coalesce(pg_catalog.max(b.base) FILTER (WHERE b.origin = {origin}) \
                          > coalesce(pg_catalog.max(b.base) FILTER (WHERE b.origin <> {origin}), 0), false) \
          FROM @extschema@.rgrid_incarnation_bases b)"
    )
}

/// The origin of the bases that this database adds; empty while the extension is being dropped.
pub fn origin(installation: &Installation) -> String {
    let table = catalog::relation_named(installation.schema, "rgrid_incarnation_bases");
    table.map_or(String::new(), |table| pg::origin(table.oid))
}

/// Adds a base if the highest is of another origin than this database, as after a failover or a restore. In a database
/// in which no number was ever given, it is 1.
pub fn raise_base(installation: &Installation) -> Result<()> {
    let origin = origin(installation);
    if scope::with_latest_snapshot(|| numbers(installation, false))?.1 {
        return Ok(());
    }
    // Looked at again by the snapshot that reads what is known: another session may have added the base meanwhile.
    let statement = installation.sql(&format!(
        "WITH known AS ( \
             SELECT pg_catalog.max(k.number) AS highest FROM ( \
                 SELECT pg_catalog.max(b.base) AS number FROM @extschema@.rgrid_incarnation_bases b \
                 UNION ALL \
                 SELECT pg_catalog.max(n.incarnation) FROM @extschema@.rgrid_incarnations n \
                 WHERE n.incarnation < {HIGHEST_BASE} \
                 UNION ALL \
                 SELECT pg_catalog.max(d.incarnation) FROM @extschema@.rgrid_worker_deaths d \
                 WHERE d.incarnation < {HIGHEST_BASE}) k) \
         INSERT INTO @extschema@.rgrid_incarnation_bases (base, origin, since, transaction) \
         SELECT CASE WHEN k.highest IS NULL THEN 1 \
                     ELSE greatest(k.highest + 1, pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())::bigint) END, \
                $1, pg_catalog.clock_timestamp(), pg_catalog.pg_current_xact_id() FROM known k \
         WHERE NOT {} RETURNING base",
        is_current("$1")
    ));
    let added: Vec<i64> = installation
        .as_owner(|| sql::write_returning(&statement, &[origin.into()], |row| row.required(1, "base")))?;
    if let Some(base) = added.first().copied().filter(|base| *base > 1) {
        commit::at_commit(move || {
            report::log_to_server(format!(
                "this database went on from a copy or an earlier moment: new incarnations begin at {base}"
            ));
        });
    }
    Ok(())
}

/// When this database last went on from a copy or an earlier moment, and the transaction that noticed; `None` if it
/// never did. Its first base is no sign of that: a database that was updated gets one, too.
pub fn last_raised(installation: &Installation) -> Result<Option<(DateTime<Utc>, u64)>> {
    let statement = installation.sql(
        "SELECT b.since, b.transaction::text::bigint FROM @extschema@.rgrid_incarnation_bases b \
         WHERE EXISTS (SELECT FROM @extschema@.rgrid_incarnation_bases e WHERE e.base < b.base) \
         ORDER BY b.base DESC LIMIT 1",
    );
    let found: Vec<(DateTime<Utc>, i64)> = installation.as_owner(|| {
        sql::read(&statement, &[], |row| {
            Ok((pg::time_of(row.required(1, "time")?), row.required(2, "transaction")?))
        })
    })?;
    Ok(found.into_iter().next().map(|(since, transaction)| (since, transaction.unsigned_abs())))
}

/// Notes the number that a worker is told. The caller has locked its row of `worker_heartbeats`.
pub fn note(installation: &Installation, worker: &str, number: i64) -> Result<()> {
    let statement = sql::SavedPlan::new(installation.sql(
        "INSERT INTO @extschema@.rgrid_incarnations AS n (worker_id, incarnation) VALUES ($1, $2) \
         ON CONFLICT (worker_id) DO UPDATE SET incarnation = EXCLUDED.incarnation",
    ));
    installation.as_owner(|| statement.write(&[worker.into(), number.into()]))?;
    Ok(())
}

/// Notes the numbers that workers are told. The caller has locked their rows of `worker_heartbeats`.
pub fn note_all(installation: &Installation, told: &[(&str, i64)]) -> Result<()> {
    if told.is_empty() {
        return Ok(());
    }
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_incarnations AS n (worker_id, incarnation) \
         SELECT u.id, u.number FROM unnest($1::text[], $2::bigint[]) AS u (id, number) \
         ON CONFLICT (worker_id) DO UPDATE SET incarnation = EXCLUDED.incarnation",
    );
    let numbers: Vec<i64> = told.iter().map(|(_, number)| *number).collect();
    let arguments = [arrays::texts(told.iter().map(|(id, _)| *id)), numbers.into()];
    installation.as_owner(|| sql::write(&statement, &arguments))?;
    Ok(())
}

/// Lifts the noted numbers of dead workers that return to the base.
pub fn lift(installation: &Installation, workers: &[&str]) -> Result<()> {
    raise_base(installation)?;
    let statement = installation.sql(&format!(
        "UPDATE @extschema@.rgrid_incarnations n SET incarnation = {BASE} \
         WHERE n.worker_id = ANY ($1) AND n.incarnation < {BASE}"
    ));
    installation.as_owner(|| sql::write(&statement, &[workers.to_vec().into()]))?;
    Ok(())
}

/// Raises the floor above this number, so that unknown workers get a higher one. The caller has locked the numbers.
pub fn raise_floor(installation: &Installation, pruned: i64) -> Result<()> {
    let statement = installation.sql(&format!(
        "INSERT INTO @extschema@.rgrid_incarnations AS n (worker_id, incarnation) \
         SELECT '', $1 + 1 WHERE {FLOOR} <= $1 \
         ON CONFLICT (worker_id) DO UPDATE SET incarnation = EXCLUDED.incarnation",
    ));
    installation.as_owner(|| sql::write(&statement, &[pruned.into()]))?;
    Ok(())
}

/// Removes the numbers of these workers, whose deaths were pruned. From now on they are unknown workers. The caller has
/// locked the numbers.
pub fn forget(installation: &Installation, workers: &[String]) -> Result<()> {
    let statement =
        installation.sql("DELETE FROM @extschema@.rgrid_incarnations n WHERE n.worker_id = ANY ($1)");
    installation.as_owner(|| sql::write(&statement, &[workers.to_vec().into()]))?;
    Ok(())
}

/// Removes the numbers of workers of which nothing else is known, as many as `limit`, and raises the floor above them.
/// The caller has locked the numbers.
pub fn forget_unknown(installation: &Installation, heartbeats: &HeartbeatTable, limit: usize) -> Result<()> {
    let statement = installation.sql(&format!(
        "DELETE FROM @extschema@.rgrid_incarnations n WHERE n.worker_id = ANY (ARRAY( \
             SELECT u.worker_id FROM @extschema@.rgrid_incarnations u \
             WHERE u.worker_id <> '' AND {} LIMIT $1)) RETURNING least(n.incarnation, $2)",
        unknown(heartbeats)
    ));
    let arguments = [i64::try_from(limit).unwrap_or(i64::MAX).into(), HIGHEST_BASE.into()];
    let gone: Vec<i64> = installation.as_owner_with(heartbeats.oid, || {
        sql::write_returning(&statement, &arguments, |row| row.required(1, "incarnation"))
    })?;
    gone.into_iter().max().map_or(Ok(()), |highest| raise_floor(installation, highest))
}

/// Whether there are numbers of workers of which nothing else is known.
pub fn has_unknown(installation: &Installation, heartbeats: &HeartbeatTable) -> Result<bool> {
    let statement = installation.sql(&format!(
        "SELECT EXISTS (SELECT FROM @extschema@.rgrid_incarnations u WHERE u.worker_id <> '' AND {})",
        unknown(heartbeats)
    ));
    let found: Vec<bool> = installation.as_owner_with(heartbeats.oid, || {
        sql::read_latest(&statement, &[], |row| row.required(1, "existence"))
    })?;
    Ok(found.first() == Some(&true))
}

fn unknown(heartbeats: &HeartbeatTable) -> String {
    format!(
        "NOT EXISTS (SELECT FROM {} h WHERE h.worker_id = u.worker_id) \
         AND NOT EXISTS (SELECT FROM @extschema@.rgrid_worker_owners o WHERE o.worker_id = u.worker_id) \
         AND NOT EXISTS (SELECT FROM @extschema@.rgrid_worker_deaths d WHERE d.worker_id = u.worker_id)",
        heartbeats.name
    )
}
