//! Removing old deaths from the ledger, for the sweeper. Rows that another session has locked are skipped.

use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::installation::Installation;
use crate::pg::{self, sql};
use crate::shmem::{counters, databases};
use crate::tables::incarnations::HIGHEST;

/// Removes at most `limit` deaths that were over before the horizon and were not the last of their worker. Returns how
/// many.
pub fn prune_superseded(installation: &Installation, horizon: DateTime<Utc>, limit: usize) -> Result<usize> {
    let statement = installation.sql(
        "DELETE FROM @extschema@.rgrid_worker_deaths d WHERE d.ctid = ANY (ARRAY( \
             SELECT o.ctid FROM @extschema@.rgrid_worker_deaths o \
             WHERE o.declared_dead_at < $1 AND o.returned_at < $1 \
               AND EXISTS (SELECT FROM @extschema@.rgrid_worker_deaths n \
                           WHERE n.worker_id = o.worker_id AND n.incarnation > o.incarnation) \
             LIMIT $2 FOR UPDATE OF o SKIP LOCKED))",
    );
    let arguments = [pg::timestamptz(horizon).into(), i64::try_from(limit).unwrap_or(i64::MAX).into()];
    let pruned = installation.as_owner(|| sql::write(&statement, &arguments))?;
    count_pruned(pruned);
    Ok(pruned)
}

/// The workers whose last death, and return if there was one, is before the horizon. Not those with a number that has
/// no successor: the floor of all others would be raised above it.
pub fn last_died_before(installation: &Installation, horizon: DateTime<Utc>) -> Result<Vec<String>> {
    let statement = installation.sql(&format!(
        "SELECT DISTINCT d.worker_id FROM @extschema@.rgrid_worker_deaths d \
         WHERE d.declared_dead_at < $1 AND (d.returned_at IS NULL OR d.returned_at < $1) \
           AND d.incarnation < {HIGHEST} AND NOT EXISTS (SELECT FROM @extschema@.rgrid_worker_deaths y \
                           WHERE y.worker_id = d.worker_id AND y.incarnation > d.incarnation) \
         ORDER BY 1",
    ));
    let horizon = [pg::timestamptz(horizon).into()];
    installation.as_owner(|| sql::read(&statement, &horizon, |row| row.required(1, "worker id")))
}

/// Removes the only death of each of these workers, unless it or the return is later than the horizon, or another
/// session has locked the row. Returns the numbers of the removed deaths.
pub fn prune_last(
    installation: &Installation,
    workers: &[String],
    horizon: DateTime<Utc>,
) -> Result<Vec<i64>> {
    let statement = installation.sql(
        "DELETE FROM @extschema@.rgrid_worker_deaths d WHERE d.ctid = ANY (ARRAY( \
             SELECT o.ctid FROM @extschema@.rgrid_worker_deaths o \
             WHERE o.worker_id = ANY ($1) \
               AND o.declared_dead_at < $2 AND (o.returned_at IS NULL OR o.returned_at < $2) \
               AND NOT EXISTS (SELECT FROM @extschema@.rgrid_worker_deaths a \
                               WHERE a.worker_id = o.worker_id AND a.incarnation <> o.incarnation) \
             FOR UPDATE OF o SKIP LOCKED)) RETURNING d.incarnation",
    );
    let arguments = [workers.to_vec().into(), pg::timestamptz(horizon).into()];
    let numbers: Vec<i64> = installation
        .as_owner(|| sql::write_returning(&statement, &arguments, |row| row.required(1, "incarnation")))?;
    count_pruned(numbers.len());
    Ok(numbers)
}

fn count_pruned(deaths: usize) {
    if deaths > 0 {
        databases::count_at_commit(move |counters| counters.deaths_pruned += counters::number(deaths));
    }
}
