//! Writing heartbeats behind: from shared memory to the rows of `worker_heartbeats`. Done by the sweeper, before
//! each sweep and once a flush interval where somebody has beaten.

use std::collections::HashSet;
use std::time::Instant;

use pgrx::prelude::*;

use crate::buffer::{self, table::Unwritten};
use crate::error::{Error, Result};
use crate::halving::{Patience, in_halves};
use crate::installation::Installation;
use crate::jobs::is_locked;
use crate::pace::Pace;
use crate::pg::{self, process, scope, version};
use crate::workers::{Beats, HeartbeatTable};
use crate::{counters, databases, settings};

/// Rows written in one transaction. So few that a worker which must write its own row does not wait long, and that a
/// processor is soon free again for those who beat meanwhile; so many that what a transaction costs is hardly seen.
const BATCH: usize = 5_000;

/// Writes all heartbeats of the present database that are not in their rows, each batch in a transaction of its
/// own, with rests between them. What cannot be written now, because its row is locked, stays for the next time.
pub fn flush() -> Result<()> {
    watch_gaps();
    let mut heartbeats = buffer::unwritten();
    let mut patience = Patience::new(settings::statement_timeout());
    let mut pace = Pace::new(settings::flush_interval().min(settings::check_interval()) / 2, Instant::now());
    // A sweep may be waiting for this, and a table of somebody else's may take its time.
    let limit = settings::statement_timeout().max(settings::check_interval());
    let resting = version::wait_event(c"RgridHeartbeatFlushRest");
    let mut outcome = Ok(());
    let mut count = 0;
    loop {
        let batch: Vec<Unwritten> = heartbeats.by_ref().take(BATCH).collect();
        count += batch.len();
        let result = in_halves(&batch, &mut patience, &mut flush_batch);
        let has_failed = result.is_err();
        outcome = outcome.and(result);
        let rest = pace.work_ends(Instant::now());
        if batch.len() < BATCH || patience.is_over() {
            break;
        }
        if pace.worked() > limit {
            outcome = outcome.and(Err(Error::TimedOut { limit }));
            break;
        }
        if !has_failed {
            process::rest(rest, resting);
        }
        pace.rest_ends(Instant::now());
    }
    if count > 0 {
        databases::count(|counters| counters.flushes += 1);
        debug1!("flushed {count} heartbeats in {pace}");
    }
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
