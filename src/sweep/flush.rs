//! Write-behind of heartbeats: from shared memory to the rows of `worker_heartbeats`. Done by the sweeper, before each
//! sweep and once a flush interval where there are heartbeats to write.

use std::collections::HashSet;
use std::time::Instant;

use super::disconnected;
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{self, process, report, row_versions, scope, version};
use crate::rules::bisection::{RetryBudget, bisect};
use crate::rules::liveness::silence;
use crate::rules::schedule;
use crate::rules::throttle::Throttle;
use crate::settings;
use crate::shmem::buffer::{self, table::PendingHeartbeat};
use crate::shmem::{counters, databases};
use crate::shmem::{observation, quarantine};
use crate::tables::heartbeats::{Beats, HeartbeatTable};

/// Rows written in one transaction. Few enough that a worker which must write its own row does not wait long, and that
/// a processor is soon free again for heartbeats that arrive meanwhile. Many enough that the cost of a transaction
/// hardly matters.
const BATCH: usize = 5_000;

/// Writes heartbeats to their rows, unless that pauses.
///
/// While somebody holds a snapshot, no version of a row can be removed, and each flush goes through all that the ones
/// before it have left. The rows are not needed as long as the heartbeats are in memory: whoever asks takes the newer
/// of both. After a crash they are all there is, and may be as old as the pause. That kills nobody: silence counts from
/// the start of the server then.
///
/// # Errors
///
/// [`Error::SnapshotHeld`] in a pause that is worth knowing: rows look older than the threshold to those who read them
/// alone.
pub fn flush() -> Result<()> {
    let (now, known) = (pg::now(), databases::current());
    // A table that cannot be used is met again below.
    let horizon = scope::transaction(horizon).unwrap_or(None);
    match known.zip(horizon).and_then(|(state, horizon)| state.standing(horizon)) {
        Some((since, last)) if !schedule::is_flushed_again(since, last, now) => {
            return match silence(now, last) > settings::stale_threshold() {
                true => Err(Error::SnapshotHeld),
                false => Ok(()),
            };
        }
        _ => {}
    }
    let rows = |state: databases::State| state.counters.rows_flushed;
    let outcome = write_all();
    // What has written nothing has left nothing.
    if let Some(horizon) = horizon.filter(|_| databases::current().map(rows) != known.map(rows)) {
        databases::flushed(horizon, now);
    }
    outcome
}

fn horizon() -> Result<Option<u32>> {
    let Some(installation) = Installation::find()? else { return Ok(None) };
    Ok(row_versions::oldest_needed(HeartbeatTable::open(&installation)?.oid))
}

/// Writes all heartbeats of the current database that are not in their rows, each batch in a transaction of its
/// own, with delays between them. A heartbeat whose row is locked stays for the next flush.
fn write_all() -> Result<()> {
    let mut heartbeats = buffer::unwritten();
    let mut budget = RetryBudget::new(settings::statement_timeout());
    let delays = settings::flush_interval().min(settings::check_interval()) / 2;
    let mut throttle = Throttle::new(delays, Instant::now());
    // A sweep may be waiting for this, and triggers of an adopted table may be slow.
    let limit = settings::statement_timeout().max(settings::check_interval());
    let delaying = version::wait_event(c"RgridHeartbeatFlushDelay");
    let mut outcome = Ok(());
    let mut count = 0;
    loop {
        let batch: Vec<PendingHeartbeat> = heartbeats.by_ref().take(BATCH).collect();
        count += batch.len();
        let is_worth_it = |error: &Error| !matches!(error, Error::InQuarantine);
        let result = bisect(&batch, &mut budget, is_worth_it, &mut flush_batch);
        let has_failed = result.is_err();
        outcome = outcome.and(result);
        let delay = throttle.work_ends(Instant::now());
        if batch.len() < BATCH || budget.is_spent() {
            break;
        }
        if throttle.worked() > limit {
            outcome = outcome.and(Err(Error::TimedOut { limit }));
            break;
        }
        disconnected::judge_those_due();
        if !has_failed {
            process::delay(delay, delaying);
        }
        throttle.delay_ends(Instant::now());
    }
    if count > 0 {
        databases::count(|counters| counters.flushes += 1);
        report::debug(&format!("flushed {count} heartbeats in {throttle}"));
    }
    outcome
}

/// Workers whose intervals are sampled in one flush.
const SAMPLE: usize = 10_000;

/// Records how long the intervals between heartbeats are: of each worker with a heartbeat since the last look, how long
/// it had been silent at that look.
pub fn sample_intervals() {
    let now = pg::now();
    let Some(last) = databases::flush_begins(now) else { return };
    // Memory may have been filled from rows: while the server was away, no worker was silent.
    let silences = buffer::silences(observation::observing_since(), last, SAMPLE);
    databases::change(pg::current_database(), |state| state.intervals.add(&silences, pg::to_postgres(now)));
}

/// Writes a batch in a transaction, and marks in memory what was written.
fn flush_batch(batch: &[PendingHeartbeat]) -> Result<()> {
    let written = scope::transaction(|| write(batch))?;
    match written.left.is_empty() {
        true => buffer::written(batch),
        false => {
            buffer::written(batch.iter().filter(|heartbeat| !written.left.contains(&heartbeat.key.id())))
        }
    }
    for id in &written.gone {
        buffer::remove(id);
    }
    let rows = counters::number(batch.len() - written.left.len() - written.gone.len());
    databases::count(|counters| counters.rows_flushed += rows);
    Ok(())
}

/// What became of a batch.
#[derive(Default)]
struct BatchResult {
    /// Workers whose rows were locked.
    left: HashSet<String>,
    /// Workers whose rows are gone, deleted by hand or by a cascade. Their entries go, so the next heartbeat makes a
    /// new row.
    gone: HashSet<String>,
}

fn write(batch: &[PendingHeartbeat]) -> Result<BatchResult> {
    let Some(installation) = Installation::find()? else { return Ok(BatchResult::default()) };
    let table = HeartbeatTable::open(&installation)?;
    // An adopted table has an owner whose code may end the sweeper. The sweep after this looks into memory, too.
    let written = quarantine::at_work_unless_left_out(table.oid, || write_to(&table, batch))?;
    quarantine::settled(table.oid);
    Ok(written)
}

fn write_to(table: &HeartbeatTable, batch: &[PendingHeartbeat]) -> Result<BatchResult> {
    let beats = Beats::new(batch);
    // Nearly always no row is locked, and finding that out first would cost as much as writing.
    match scope::subtransaction(|| table.write_all(&beats)) {
        Ok(count) if count == batch.len() => return Ok(BatchResult::default()),
        Ok(_) => {}
        Err(error) if error.is_lock_not_available() => {
            table.write_unlocked(&beats)?;
        }
        Err(error) => return Err(error),
    }
    table.unwritten(&beats).map(|(left, gone)| BatchResult { left, gone })
}
