//! The numbers of each database, from shared memory: for the view `pg_stat_rgrid_heartbeat`, which documents the
//! columns. They run in the caller's backend and read no table.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::{number, seconds, time};
use crate::error::Error;
use crate::pg;
use crate::rules::intervals::Histogram;
use crate::rules::schedule::Presence;
use crate::settings;
use crate::shmem::counters::Counters;
use crate::shmem::databases::{self, State};
use crate::shmem::problems::{self, KnownProblem};
use crate::shmem::{buffer, connections, is_preloaded};
use crate::sweep::mass_death;

/// The state of every database that the launcher knows, and its counters since the last reset. The Rust name has the
/// version in which the function got its present columns.
///
/// # Errors
///
/// `object_not_in_prerequisite_state` when the library was not preloaded.
#[pg_extern(name = "rgrid_stat_databases")]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn rgrid_stat_databases_0_3() -> Result<
    TableIterator<
        'static,
        (
            name!(datid, pg_sys::Oid),
            name!(has_extension, Option<bool>),
            name!(observing_since, Option<TimestampWithTimeZone>),
            name!(sweeps, i64),
            name!(last_sweep_started_at, Option<TimestampWithTimeZone>),
            name!(last_sweep_finished_at, Option<TimestampWithTimeZone>),
            name!(last_sweep_seconds, Option<f64>),
            name!(heartbeats_in_row, i64),
            name!(calls_refused, i64),
            name!(flushes, i64),
            name!(rows_flushed, i64),
            name!(deaths, i64),
            name!(false_deaths, i64),
            name!(held_workers, i64),
            name!(held_until, Option<TimestampWithTimeZone>),
            name!(jobs_failed, i64),
            name!(jobs_requeued, i64),
            name!(locked_jobs, i64),
            name!(workers_from_the_future, i64),
            name!(workers_pruned, i64),
            name!(deaths_pruned, i64),
            name!(median_interval_seconds, Option<f64>),
            name!(p99_interval_seconds, Option<f64>),
            name!(errors, i64),
            name!(failures_in_a_row, i64),
            name!(last_error, Option<String>),
            name!(last_error_at, Option<TimestampWithTimeZone>),
            name!(buffer_entries, i64),
            name!(buffer_capacity, i64),
            name!(connections_full_since, Option<TimestampWithTimeZone>),
            name!(stats_reset, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    if !is_preloaded() {
        return Err(Error::NotPreloaded.into());
    }
    let (entries, problems) = (buffer::entries(), problems::all());
    Ok(TableIterator::new(databases::states().into_iter().map(move |state| {
        let last = problems.iter().find(|problem| problem.database == state.oid);
        row(&state, last, entries.get(&state.oid).copied().unwrap_or(0))
    })))
}

type Time = Option<TimestampWithTimeZone>;
/// The columns of the result, in their order.
#[rustfmt::skip]
type Row = (
    pg_sys::Oid, Option<bool>, Time, i64, Time, Time, Option<f64>, i64, i64, i64, i64, i64, i64, i64, Time, i64, i64, i64,
    i64, i64, i64, Option<f64>, Option<f64>, i64, i64, Option<String>, Time, i64, i64, Time, Time,
);

fn row(state: &State, last: Option<&KnownProblem>, entries: u64) -> Row {
    let counters = &state.counters;
    let hold = state.hold.filter(|hold| !hold.is_over);
    let intervals = state.intervals.intervals(settings::flush_interval());
    (
        state.oid,
        has_extension(state),
        pg::timestamptz(state.observing_since()),
        number(counters.sweeps),
        time(state.sweep_started()),
        time(state.sweep_finished()),
        sweep_seconds(state),
        number(counters.heartbeats_in_row),
        number(counters.calls_refused),
        number(counters.flushes),
        number(counters.rows_flushed),
        number(counters.deaths),
        number(counters.false_deaths),
        hold.map_or(0, |hold| i64::try_from(hold.workers).unwrap_or(i64::MAX)),
        time(hold.map(|hold| mass_death::until(&hold))),
        number(counters.jobs_failed),
        number(counters.jobs_requeued),
        number(state.locked_jobs),
        number(state.ahead_of_clock),
        number(counters.workers_pruned),
        number(counters.deaths_pruned),
        intervals.map(|intervals| seconds(intervals.median)),
        intervals.map(|intervals| seconds(intervals.p99)),
        number(counters.errors),
        i64::from(state.failures),
        last.map(KnownProblem::message),
        time(last.map(KnownProblem::last)),
        number(entries),
        i64::try_from(settings::max_workers()).unwrap_or(i64::MAX),
        time(connections::known().and_then(|hearing| hearing.full_since())),
        pg::timestamptz(pg::from_postgres(counters.since)),
    )
}

/// Resets the counters and intervals of the current database. The state of the last sweep and the last error stays.
///
/// # Errors
///
/// As [`rgrid_stat_databases_0_3`].
#[pg_extern]
fn rgrid_stat_reset() -> Result<(), ErrorReport> {
    if !is_preloaded() {
        return Err(Error::NotPreloaded.into());
    }
    let now = pg::to_postgres(pg::now());
    databases::change(pg::current_database(), |state| {
        state.counters = Counters::since(now);
        state.refusal = None;
        state.intervals = Histogram::EMPTY;
    });
    Ok(())
}

fn has_extension(state: &State) -> Option<bool> {
    match state.presence {
        Presence::Unknown => None,
        Presence::Absent => Some(false),
        Presence::Present => Some(true),
    }
}

/// How long the last finished sweep took, unless another one has begun since.
fn sweep_seconds(state: &State) -> Option<f64> {
    let (started, finished) = state.sweep_started().zip(state.sweep_finished())?;
    (finished >= started).then(|| (finished - started).to_std().map(seconds).ok()).flatten()
}
