//! The workers as operators read them: the silent ones, and all of them. Both read rows and memory, lock nothing,
//! and work on a standby. They run in the caller's backend.

use std::collections::HashSet;

use pgrx::datum::Interval;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::{seconds, time};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{self, sql};
use crate::rules::liveness;
use crate::settings;
use crate::shmem::buffer::ties;
use crate::tables::deaths;
use crate::tables::heartbeats::{HeartbeatTable, Worker};

/// The workers silent for longer than a threshold, the configured one when NULL, the longest silence first.
///
/// Only the clock counts: a worker is listed as 'stale' as soon as its last heartbeat is older than the threshold, even
/// while a sweep would not judge it yet, and as 'dead' from its death until it comes back.
///
/// # Errors
///
/// `invalid_parameter_value` for a threshold of zero or less.
#[pg_extern]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn rgrid_stale_workers(
    threshold: default!(Option<Interval>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(worker_id, String),
            name!(hostname, Option<String>),
            name!(last_heartbeat_at, Option<TimestampWithTimeZone>),
            name!(seconds_since_heartbeat, f64),
            name!(state, String),
        ),
    >,
    ErrorReport,
> {
    let now = pg::now();
    let (workers, dead) = stale_workers(now, threshold)?;
    Ok(TableIterator::new(workers.into_iter().map(move |worker| {
        let state = if dead.contains(&worker.id) { "dead" } else { "stale" };
        (
            worker.id,
            worker.hostname,
            pg::timestamptz(worker.last_heartbeat_at),
            seconds(liveness::silence(now, worker.last_heartbeat_at)),
            state.to_owned(),
        )
    })))
}

/// Every worker that has a row in the table of heartbeats, with its state; for the view `rgrid_workers`.
///
/// A worker is 'dead' from its death until it comes back, 'stale' when it is not dead and its last heartbeat is older
/// than the threshold, and 'alive' otherwise. `incarnation` is the number that its heartbeats return; of a dead worker,
/// the one that it gets when it comes back.
#[pg_extern]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn rgrid_worker_states() -> Result<
    TableIterator<
        'static,
        (
            name!(worker_id, String),
            name!(hostname, Option<String>),
            name!(state, String),
            name!(incarnation, i64),
            name!(last_heartbeat_at, Option<TimestampWithTimeZone>),
            name!(seconds_since_heartbeat, f64),
            name!(declared_dead_at, Option<TimestampWithTimeZone>),
            name!(attached_at, Option<TimestampWithTimeZone>),
            name!(disconnected_at, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    let now = pg::now();
    let installation = Installation::of_caller()?;
    let mut workers = HeartbeatTable::open(&installation)?.all()?;
    workers.iter_mut().for_each(Worker::renew);
    let records = deaths::views::worker_records(&installation)?;
    let stale = now - liveness::delta(settings::stale_threshold());
    Ok(TableIterator::new(workers.into_iter().map(move |worker| {
        let (incarnation, died_at) = records.of(&worker.id);
        let (attached_at, disconnected_at) = ties::since(&worker.id);
        let state = match died_at {
            Some(_) => "dead",
            None if worker.last_heartbeat_at < stale => "stale",
            None => "alive",
        };
        (
            worker.id,
            worker.hostname,
            state.to_owned(),
            incarnation,
            pg::timestamptz(worker.last_heartbeat_at),
            seconds(liveness::silence(now, worker.last_heartbeat_at)),
            died_at.and_then(pg::timestamptz),
            time(attached_at),
            time(disconnected_at),
        )
    })))
}

/// The silent workers, and the ids of all dead ones.
fn stale_workers(
    now: chrono::DateTime<chrono::Utc>,
    threshold: Option<Interval>,
) -> Result<(Vec<Worker>, HashSet<String>)> {
    let cutoff = match threshold {
        Some(threshold) => cutoff(now, threshold)?,
        None => now - liveness::delta(settings::stale_threshold()),
    };
    let installation = Installation::of_caller()?;
    let mut workers = HeartbeatTable::open(&installation)?.silent_since(cutoff, &[])?;
    workers.iter_mut().for_each(Worker::renew);
    workers.retain(|worker| worker.last_heartbeat_at < cutoff);
    workers.sort_by_key(|worker| worker.last_heartbeat_at);
    let dead = deaths::dead(&installation)?.into_iter().map(|worker| worker.id).collect();
    Ok((workers, dead))
}

/// The time an interval ago. Months and days are calendar months and days.
fn cutoff(now: chrono::DateTime<chrono::Utc>, threshold: Interval) -> Result<chrono::DateTime<chrono::Utc>> {
    let cutoffs = sql::read(
        "SELECT $1 OPERATOR(pg_catalog.-) $2",
        &[pg::timestamptz(now).into(), threshold.into()],
        |row| Ok(pg::time_of(row.required(1, "cutoff")?)),
    )?;
    match cutoffs.first() {
        Some(cutoff) if *cutoff < now => Ok(*cutoff),
        _ => Err(Error::ThresholdNotPositive),
    }
}
