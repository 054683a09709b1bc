//! Writing heartbeats behind: from shared memory to the rows of `worker_heartbeats`. Done by the sweeper, before
//! each sweep and once a flush interval where somebody has beaten.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use crate::buffer::{self, table::Unwritten};
use crate::error::Result;
use crate::halving::{Patience, in_halves};
use crate::installation::Installation;
use crate::jobs::is_locked;
use crate::pg::{self, scope};
use crate::workers::{Beats, HeartbeatTable};
use crate::{counters, databases, settings};

/// Rows written in one transaction: few enough that a worker which must write its own row does not wait long,
/// and enough that reading the whole table for each batch, as the planner will with many workers, pays.
const BATCH: usize = 250_000;

/// Writes all heartbeats of the present database that are not in their rows, each batch in a transaction of its
/// own. What cannot be written now, because its row is locked, stays for the next time.
pub fn flush() -> Result<()> {
    let started = Instant::now();
    watch_gaps();
    let heartbeats = buffer::unwritten();
    if heartbeats.is_empty() {
        return Ok(());
    }
    let mut outcome = Ok(());
    let mut patience = Patience::new(settings::statement_timeout());
    for batch in heartbeats.chunks(BATCH) {
        outcome = outcome.and(in_halves(batch, &mut patience, &mut flush_batch));
    }
    databases::count(|counters| counters.flushes += 1);
    let count = heartbeats.len();
    debug1!("flushed {count} heartbeats in {:.1} ms", milliseconds(started.elapsed()));
    outcome
}

/// Workers whose gaps are looked at in one flush.
const WATCHED: usize = 10_000;

/// Takes note of how long workers pause: those who have beaten since somebody last looked had been silent then.
fn watch_gaps() {
    let now = pg::now();
    let Some(last) = databases::flush_begins(now) else { return };
    let silences = buffer::silences(last, WATCHED);
    databases::change(pg::current_database(), |state| state.gaps.add(&silences, pg::to_postgres(now)));
}

/// Writes a batch in a transaction, and takes note of what became of it.
fn flush_batch(batch: &[Unwritten]) -> Result<()> {
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
struct Written {
    /// Workers whose rows were locked.
    left: HashSet<String>,
    /// Workers whose rows are gone, deleted by hand or by a cascade: they are to register anew.
    gone: HashSet<String>,
}

fn write(batch: &[Unwritten]) -> Result<Written> {
    let Some(installation) = Installation::find()? else { return Ok(Written::default()) };
    let table = HeartbeatTable::open(&installation)?;
    let beats = Beats::new(batch);
    // Nobody has locked any of the rows, nearly always; finding that out first would cost as much as writing.
    match scope::subtransaction(|| table.write_all(&beats)) {
        Ok(count) if count == batch.len() => return Ok(Written::default()),
        Ok(_) => {}
        Err(error) if is_locked(&error) => {
            table.write_unlocked(&beats)?;
        }
        Err(error) => return Err(error),
    }
    table.unwritten(&beats).map(|(left, gone)| Written { left, gone })
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
