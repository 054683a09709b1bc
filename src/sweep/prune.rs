//! Removing what is older than the retention: rows of the ledger, rows of dead workers in the table of heartbeats, and
//! owners of ids. Done by the sweeper, after a sweep, every few minutes.
//!
//! Four things stay, however old they are: the last death of a worker that has a row in the table of heartbeats,
//! because its number is needed; a dead worker that still has running jobs in a watched table or queue, because
//! otherwise they would never be settled; rows that another session has locked; and rows of an adopted table, unless
//! `rgrid_heartbeat.prune_adopted` is on.
//!
//! A batch is one transaction. Locks: the rows of the table of heartbeats, the numbers of the incarnations (see
//! [`incarnations`]), the rows of the ledger. It waits for none of them.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::replicated;
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::{attempts, settle};
use crate::pg::{constraints, scope};
use crate::rules::bisection::{RetryBudget, bisect};
use crate::settings;
use crate::shmem::{buffer, counters, databases, quarantine};
use crate::tables::heartbeats::HeartbeatTable;
use crate::tables::{deaths, incarnations, unsettled_calls, worker_owners};

/// A batch that takes longer than this is rolled back.
const LIMIT: Duration = Duration::from_secs(10);

/// Removes what happened before the horizon.
pub fn prune(horizon: DateTime<Utc>) -> Result<()> {
    while prune_superseded(horizon)? {}
    let candidates = scope::transaction(|| with_tables(|tables| tables.candidates(horizon)))?;
    let mut outcome = Ok(());
    let mut budget = RetryBudget::new(settings::statement_timeout());
    for batch in candidates.unwrap_or_default().chunks(settings::batch_size()) {
        let pruned = bisect(batch, &mut budget, |_| true, &mut |batch| {
            scope::transaction(|| with_tables(|tables| tables.prune(batch, horizon))).map(|_| ())
        });
        outcome = outcome.and(pruned);
    }
    outcome.and(free_unknown(horizon)).and(forget_attempts())
}

/// Forgets the attempts of jobs that are no longer there, whatever the retention.
fn forget_attempts() -> Result<()> {
    scope::transaction(|| match replicated::judging()? {
        Some(installation) => attempts::forget_gone(&installation),
        None => Ok(()),
    })
}

/// Frees a batch of ids of which nothing but the owner or the number is known, and has not been since the horizon: a
/// server that was started since may have been restored from a dump.
fn free_unknown(horizon: DateTime<Utc>) -> Result<()> {
    if databases::current().is_none_or(|state| state.observing_since() >= horizon) {
        return Ok(());
    }
    scope::transaction(|| with_tables(|tables| tables.free_unknown())).map(|_| ())
}

/// Removes a batch of deaths that were not the last of their worker. Returns whether there may be more.
fn prune_superseded(horizon: DateTime<Utc>) -> Result<bool> {
    let batch = settings::batch_size();
    let pruned = scope::transaction(|| match replicated::judging()? {
        Some(installation) => deaths::prune::prune_superseded(&installation, horizon, batch),
        None => Ok(0),
    })?;
    Ok(pruned == batch)
}

/// The tables, looked up anew for each transaction.
struct Tables {
    installation: Installation,
    heartbeats: HeartbeatTable,
    /// Whether rows may be removed from the table of heartbeats.
    prunes_rows: bool,
}

/// Runs `work`; nothing where nobody is judged, and when the extension was dropped meanwhile.
fn with_tables<T>(work: impl FnOnce(Tables) -> Result<T>) -> Result<Option<T>> {
    let Some(installation) = replicated::judging()? else { return Ok(None) };
    let heartbeats = HeartbeatTable::open(&installation)?;
    let prunes_rows = settings::prune_adopted() || heartbeats.is_own;
    work(Tables { installation, heartbeats, prunes_rows }).map(Some)
}

impl Tables {
    fn free_unknown(self) -> Result<()> {
        let Self { installation, heartbeats, .. } = &self;
        let limit = settings::batch_size();
        let owned = || match heartbeats.is_own {
            true => worker_owners::unknown(installation, heartbeats, limit),
            false => Ok(Vec::new()),
        };
        // Who uses an id for the first time reads the numbers before the owner. Most often there is nobody to lock out.
        let is_idle = owned()?.is_empty() && !incarnations::has_unknown(installation, heartbeats)?;
        if is_idle || !incarnations::try_lock(installation) {
            return Ok(());
        }
        worker_owners::remove(installation, &owned()?)?;
        incarnations::forget_unknown(installation, heartbeats, limit)
    }

    /// The workers whose last death is old enough, and that have no row which must keep it.
    fn candidates(self, horizon: DateTime<Utc>) -> Result<Vec<String>> {
        let old = deaths::prune::last_died_before(&self.installation, horizon)?;
        if old.is_empty() {
            return Ok(old);
        }
        let keeping = self.heartbeats.kept(&old, self.prunes_rows.then_some(horizon))?;
        Ok(old.into_iter().filter(|worker| !keeping.contains(worker)).collect())
    }

    /// Removes those of these workers from both tables that have no running jobs.
    fn prune(self, workers: &[String], horizon: DateTime<Utc>) -> Result<()> {
        let running = settle::running_anywhere(&self.installation, workers)?;
        let busy = running.by_worker();
        let unsettled: HashSet<String> =
            unsettled_calls::all(&self.installation)?.into_iter().map(|one| one.worker).collect();
        let is_busy = |worker: &String| busy.contains_key(worker.as_str()) || unsettled.contains(worker);
        let is_idle = |worker: &&String| running.problems.is_empty() && !is_busy(worker);
        let idle: Vec<String> = workers.iter().filter(is_idle).cloned().collect();
        if idle.is_empty() {
            return Ok(());
        }
        match scope::subtransaction_within(LIMIT, || self.remove(idle, horizon)) {
            // A worker is being given a number, or another session was faster: a later round prunes these.
            Err(error) if error.is_rollback() => Ok(()),
            result => result,
        }
    }

    /// Removes those of these workers from both tables that may still be removed.
    ///
    /// The rows go first, because a trigger of an adopted table may take long. A worker that returns meanwhile has
    /// locked its row, or finds it gone and makes a new one; then it waits for the numbers.
    fn remove(&self, workers: Vec<String>, horizon: DateTime<Utc>) -> Result<()> {
        let rows = match self.prunes_rows {
            true => self.remove_rows(&workers, horizon)?,
            false => 0,
        };
        if !incarnations::try_lock(&self.installation) {
            return Err(Error::SerializationFailure);
        }
        let kept = self.heartbeats.kept(&workers, None)?;
        let gone: Vec<String> =
            workers.into_iter().filter(|id| !kept.contains(id) && buffer::beat_at(id).is_none()).collect();
        let numbers = deaths::prune::prune_last(&self.installation, &gone, horizon)?;
        if self.heartbeats.is_own {
            worker_owners::remove(&self.installation, &gone)?;
        }
        if let Some(highest) = numbers.iter().max() {
            incarnations::forget(&self.installation, &gone)?;
            incarnations::raise_floor(&self.installation, *highest)?;
        }
        databases::count_at_commit(move |counters| counters.workers_pruned += counters::number(rows));
        Ok(())
    }

    /// Removes the rows of those workers that are dead. One that came back after the ledger was read has a newer row,
    /// which stays.
    fn remove_rows(&self, workers: &[String], horizon: DateTime<Utc>) -> Result<usize> {
        constraints::set_immediate()?;
        let dead: Vec<String> = deaths::dead_among(&self.installation, workers)?.into_iter().collect();
        let prune = || self.heartbeats.prune(&dead, horizon);
        quarantine::at_work_unless_left_out(self.heartbeats.oid, prune)
    }
}
