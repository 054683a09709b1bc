//! The numbers of each database, from shared memory: for the view `pg_stat_rgrid_heartbeat`, which documents the
//! columns. They run in the caller's backend and read no table.

use chrono::{DateTime, Utc};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::workers::seconds;
use crate::counters::Counters;
use crate::databases::{self, State};
use crate::error::Error;
use crate::gaps::Histogram;
use crate::liveness::Presence;
use crate::{buffer, pg, settings};

/// What is known of every database that the launcher has seen, and counted in it since the last reset.
///
/// # Errors
///
/// `object_not_in_prerequisite_state` when the library was not preloaded.
#[pg_extern]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn rgrid_stat_databases() -> Result<
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
            name!(flushes, i64),
            name!(rows_flushed, i64),
            name!(deaths, i64),
            name!(false_deaths, i64),
            name!(jobs_failed, i64),
            name!(jobs_requeued, i64),
            name!(workers_pruned, i64),
            name!(deaths_pruned, i64),
            name!(typical_gap_seconds, Option<f64>),
            name!(longest_gap_seconds, Option<f64>),
            name!(errors, i64),
            name!(failures_in_a_row, i64),
            name!(last_error, Option<String>),
            name!(last_error_at, Option<TimestampWithTimeZone>),
            name!(buffer_entries, i64),
            name!(buffer_capacity, i64),
            name!(stats_reset, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    if !databases::is_preloaded() {
        return Err(Error::NotPreloaded.into());
    }
    let entries = buffer::entries();
    Ok(TableIterator::new(databases::states().into_iter().map(move |state| {
        let Counters { since, .. } = state.counters;
        let gaps = state.gaps.gaps(settings::flush_interval());
        let (last_error, last_error_at) = state.last_problem().unzip();
        (
            state.oid,
            has_extension(&state),
            pg::timestamptz(state.observing_since()),
            number(state.counters.sweeps),
            time(state.sweep_started()),
            time(state.sweep_finished()),
            sweep_seconds(&state),
            number(state.counters.heartbeats_in_row),
            number(state.counters.flushes),
            number(state.counters.rows_flushed),
            number(state.counters.deaths),
            number(state.counters.false_deaths),
            number(state.counters.jobs_failed),
            number(state.counters.jobs_requeued),
            number(state.counters.workers_pruned),
            number(state.counters.deaths_pruned),
            gaps.map(|gaps| seconds(gaps.typical)),
            gaps.map(|gaps| seconds(gaps.longest)),
            number(state.counters.errors),
            i64::from(state.failures),
            last_error,
            time(last_error_at),
            number(entries.get(&state.oid).copied().unwrap_or(0)),
            i64::try_from(settings::max_workers()).unwrap_or(i64::MAX),
            pg::timestamptz(pg::from_postgres(since)),
        )
    })))
}

/// Starts counting anew in the present database. What is known of the last sweep and the last error stays.
///
/// # Errors
///
/// As [`rgrid_stat_databases`].
#[pg_extern]
fn rgrid_stat_reset() -> Result<(), ErrorReport> {
    if !databases::is_preloaded() {
        return Err(Error::NotPreloaded.into());
    }
    let now = pg::to_postgres(pg::now());
    databases::change(pg::current_database(), |state| {
        state.counters = Counters::since(now);
        state.gaps = Histogram::EMPTY;
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

fn time(time: Option<DateTime<Utc>>) -> Option<TimestampWithTimeZone> {
    time.and_then(pg::timestamptz)
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
