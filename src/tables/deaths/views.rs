//! What the views and health checks read from the ledger. With the caller's snapshot: nothing is decided by it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::Reason;
use crate::error::Result;
use crate::installation::Installation;
use crate::pg::{self, sql};
use crate::tables::incarnations::{BASE, HIGHEST};

/// A worker's number, and when it died if it is dead.
type Record = (i64, Option<DateTime<Utc>>);

/// What the ledger, and the numbers that outlive it, say about every worker.
pub struct WorkerRecords {
    /// Of the workers that have died or have a number of their own. All others have the number 1.
    known: HashMap<String, Record>,
}

impl WorkerRecords {
    /// A worker's number, and when it died if it is dead.
    pub fn of(&self, worker: &str) -> Record {
        self.known.get(worker).copied().unwrap_or((1, None))
    }
}

/// Reads what is known about every worker.
pub fn worker_records(installation: &Installation) -> Result<WorkerRecords> {
    let statement = installation.sql(&format!(
        "SELECT w.worker_id, pg_catalog.max(w.incarnation), pg_catalog.max(w.died_at) FROM ( \
             SELECT d.worker_id, \
                    greatest(least(d.incarnation, {HIGHEST}) + 1, CASE WHEN d.returned_at IS NULL THEN {BASE} END) \
                        AS incarnation, \
                    CASE WHEN d.returned_at IS NULL THEN d.declared_dead_at END AS died_at \
             FROM @extschema@.rgrid_worker_deaths d \
             UNION ALL \
             SELECT n.worker_id, n.incarnation, NULL FROM @extschema@.rgrid_incarnations n WHERE n.worker_id <> '' \
             ) w GROUP BY w.worker_id",
    ));
    let known = installation.as_owner(|| {
        sql::read(&statement, &[], |row| {
            let died_at = row.optional(3)?.map(pg::time_of);
            Ok((row.required(1, "worker id")?, (row.required(2, "incarnation")?, died_at)))
        })
    })?;
    Ok(WorkerRecords { known: known.into_iter().collect() })
}

/// How many deaths for this reason since this time turned out false, because the worker returned. With the worker that
/// died last among them, and the seconds that it had been silent for.
pub fn false_deaths_since(
    installation: &Installation,
    reason: Reason,
    time: DateTime<Utc>,
) -> Result<(i64, Option<(String, f64)>)> {
    let statement = installation.sql(
        "SELECT pg_catalog.count(*) OVER (), d.worker_id, \
                pg_catalog.date_part('epoch', d.declared_dead_at - d.last_heartbeat_at) \
         FROM @extschema@.rgrid_worker_deaths d \
         WHERE d.declared_dead_at > $1 AND d.reason = $2 AND d.returned_at IS NOT NULL \
         ORDER BY d.declared_dead_at DESC, d.worker_id LIMIT 1",
    );
    let arguments = [pg::timestamptz(time).into(), reason.as_str().into()];
    let found = installation.as_owner(|| {
        sql::read(&statement, &arguments, |row| {
            let silence = row.optional(3)?.unwrap_or(0.0);
            Ok((row.required(1, "count")?, Some((row.required(2, "worker id")?, silence))))
        })
    })?;
    Ok(found.into_iter().next().unwrap_or((0, None)))
}

/// How many deaths since this time were declared without a notification.
pub fn untold_since(installation: &Installation, time: DateTime<Utc>) -> Result<i64> {
    let statement = installation.sql(
        "SELECT pg_catalog.count(*) FROM @extschema@.rgrid_worker_deaths d \
         WHERE d.declared_dead_at > $1 AND NOT d.notified",
    );
    let arguments = [pg::timestamptz(time).into()];
    let counts =
        installation.as_owner(|| sql::read(&statement, &arguments, |row| row.required(1, "count")))?;
    Ok(counts.first().copied().unwrap_or(0))
}
