//! Declaring deaths and settling the jobs of the dead: for the sweeper, for `rgrid_sweep()`, and for a worker
//! that comes back.
//!
//! What orders a sweep and a returning worker is the lock on the worker's row in `worker_heartbeats`: a sweep
//! holds it from the judgement until the jobs are settled and the ledger is written; a heartbeat takes it before
//! it reads the ledger. Jobs left over from a death that is already in the ledger are settled under the lock on
//! the ledger's row, which a returning worker must change.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::ledger::{self, Death, Reason};
use crate::liveness::Hold;
use crate::pg;
use crate::settle::{Settlement, running, settle, settle_now};
use crate::workers::{HeartbeatTable, Worker};
use crate::{buffer, databases, liveness, mass_death, notify, settings};

mod by_hand;
mod log_lines;
mod report;

pub use log_lines::printable;
use log_lines::{counted, epitaph, log_at_commit, return_of};
pub use report::{Leftovers, Report};

/// Whom a sweep has to deal with, as it is at the first look: nothing is locked.
pub struct Seen {
    /// The workers in the ledger as dead, whom the future has not reached.
    pub dead: Vec<Worker>,
    /// Those that are to be declared dead.
    pub silent: Vec<Worker>,
    /// Those who have beaten later than the clock says. What else is to be said of them is said when they have been
    /// pulled back.
    pub future: Vec<Worker>,
}

/// A sweep of the present database, made anew for each transaction.
pub struct Sweep {
    installation: Installation,
    heartbeats: HeartbeatTable,
    now: DateTime<Utc>,
    /// Workers last heard of before it are silent.
    recent: DateTime<Utc>,
    /// The same, for who is dead; `None` while nobody can be judged.
    cutoff: Option<DateTime<Utc>>,
}

impl Sweep {
    /// Reads the clock and the settings.
    pub fn new(installation: Installation) -> Result<Self> {
        let heartbeats = HeartbeatTable::open(&installation)?;
        let now = databases::watch_clocks().wall;
        let threshold = settings::stale_threshold();
        let cutoff = liveness::cutoff(now, databases::observing_since(), threshold);
        Ok(Self { installation, heartbeats, now, recent: now - liveness::delta(threshold), cutoff })
    }

    /// Looks at the ledger, the rows, and for those who seem silent or too early, in memory.
    pub fn look(&self) -> Result<Seen> {
        let dead = ledger::dead(&self.installation)?;
        let limit = liveness::future(self.now);
        let mut seen = self.heartbeats.silent_or_future(self.cutoff, &ids(&dead), limit)?;
        seen.iter_mut().for_each(Worker::renew);
        let is_early = |worker: &Worker| worker.last_heartbeat_at > limit;
        let (mut future, mut silent): (Vec<_>, Vec<_>) = seen.into_iter().partition(is_early);
        silent.retain(|worker| self.cutoff.is_some_and(|cutoff| worker.last_heartbeat_at < cutoff));
        let early: Vec<Worker> = dead.iter().filter(|worker| is_early(worker)).cloned().collect();
        let known: Vec<String> = ids(&future);
        future.extend(early.into_iter().filter(|worker| !known.contains(&worker.id)));
        let apart: HashSet<&str> = future.iter().map(|worker| worker.id.as_str()).collect();
        let dead = dead.into_iter().filter(|worker| !apart.contains(worker.id.as_str())).collect();
        Ok(Seen { dead, silent, future })
    }

    /// Has workers who have beaten later than the clock says have beaten now: in their rows, in memory, and in the
    /// ledger. So nobody lives on because of a clock that was wrong.
    pub fn pull_back(&self, early: &[String]) -> Result<()> {
        let limit = liveness::future(self.now);
        self.heartbeats.pull_back(early, limit, self.now)?;
        ledger::pull_back(&self.installation, early, limit, self.now)?;
        early.iter().for_each(|id| buffer::pull_back(id, limit, self.now));
        Ok(())
    }

    /// Takes note of workers that have beaten later than the clock says. Returns what to say of them, and whether it
    /// is news.
    pub fn note_future(&self, early: &[Worker]) -> Option<(Error, bool)> {
        let example = early.first()?;
        let warning = Error::FutureHeartbeats {
            workers: early.len(),
            example: printable(&example.id),
            ahead: liveness::silence(example.last_heartbeat_at, self.now),
        };
        Some((warning, databases::note_future(early.len(), self.now)))
    }

    /// Whether so many are silent that they are held back; takes note of it and tells who should know.
    pub fn held_back(&self, seen: &Seen) -> Result<Option<Hold>> {
        mass_death::held_back(&self.mass_death(seen))
    }

    fn mass_death<'a>(&'a self, seen: &'a Seen) -> mass_death::Look<'a> {
        mass_death::Look {
            heartbeats: &self.heartbeats,
            silent: seen.silent.len(),
            dead: &seen.dead,
            now: self.now,
        }
    }

    /// Writes down the return of those of these dead workers whose rows others have renewed since. Returns the ones
    /// that are still dead.
    pub fn close_returned(&self, dead: Vec<Worker>) -> Result<Vec<Worker>> {
        let back = self.returned(&dead)?;
        if back.is_empty() {
            return Ok(dead);
        }
        let ids: Vec<&str> = back.iter().map(|worker| worker.id.as_str()).collect();
        let closed = ledger::close(&self.installation, &ids, self.now)?;
        log_at_commit(closed.iter().map(|worker| return_of(worker)).collect());
        Ok(dead.into_iter().filter(|worker| !ids.contains(&worker.id.as_str())).collect())
    }

    fn returned(&self, dead: &[Worker]) -> Result<Vec<Worker>> {
        match dead {
            [] => Ok(Vec::new()),
            dead => self.heartbeats.heard_since(self.recent, dead),
        }
    }

    /// Frees the places in memory of those who are silent: their rows tell as much.
    pub fn forget_silent(&self) {
        if let Some(cutoff) = self.cutoff {
            buffer::forget_silent(cutoff);
        }
    }

    /// Declares these workers dead, those that have beaten meanwhile or that others are at work on apart.
    pub fn declare_dead(&self, silent: &[String]) -> Result<Report> {
        let mut report = Report::default();
        let Some(cutoff) = self.cutoff else { return Ok(report) };
        let mut workers = self.heartbeats.lock_silent(silent, cutoff)?;
        // Another sweep may have been faster: with the rows locked, the ledger tells for good.
        let known = ledger::dead_among(&self.installation, &ids(&workers))?;
        workers.iter_mut().for_each(Worker::renew);
        // The second look: who has beaten meanwhile is alive; the others' heartbeats wait for the row from here on.
        workers.retain(|worker| !known.contains(&worker.id) && buffer::remove_silent(&worker.id, cutoff));
        if workers.is_empty() {
            return Ok(report);
        }
        let settlement = settle(&self.installation, &ids(&workers), self.now)?;
        let deaths: Vec<Death> =
            workers.iter().map(|worker| death(worker, Reason::Stale, self.now, &settlement)).collect();
        record(&self.installation, &deaths, &settlement)?;
        // A trigger may have beaten for its worker while the death was not written yet.
        ids(&workers).iter().for_each(|id| buffer::remove(id));
        report.add(workers, settlement, true);
        Ok(report)
    }

    /// Of these dead workers, the ones that have running jobs: claimed after their death, or locked at the time. As
    /// many workers as `most`, in the order of their ids.
    pub fn with_leftovers(&self, dead: &[Worker], most: usize) -> Result<Leftovers> {
        let found = running(&self.installation, &ids(dead))?;
        let mut workers: Vec<String> = found.by_worker.keys().cloned().collect();
        workers.sort_unstable();
        workers.truncate(most);
        let mut jobs = BTreeMap::new();
        for (table, found) in workers.iter().filter_map(|worker| found.by_worker.get(worker)).flatten() {
            *jobs.entry(table.clone()).or_insert(0) += found.failed + found.requeued;
        }
        Ok(Leftovers { workers, jobs, problems: found.problems })
    }

    /// Settles what these workers still run, those that have come back meanwhile apart.
    pub fn settle_leftovers(&self, dead: &[String]) -> Result<Report> {
        let mut report = Report::default();
        let mut workers = ledger::lock_dead(&self.installation, dead)?;
        // Who writes its own row may be back without having asked for this lock.
        let back = ids(&self.returned(&workers)?);
        workers.retain(|worker| !back.contains(&worker.id));
        if workers.is_empty() {
            return Ok(report);
        }
        let settlement = settle(&self.installation, &ids(&workers), self.now)?;
        let mut lines = Vec::new();
        for worker in &workers {
            let (failed, requeued) = settlement.totals(&worker.id);
            if failed + requeued > 0 {
                ledger::add_jobs(&self.installation, &worker.id, failed, requeued)?;
                lines.push(format!(
                    "jobs that dead worker \"{}\" still ran were settled: {}",
                    printable(&worker.id),
                    counted(failed, requeued)
                ));
            }
        }
        log_at_commit(lines);
        report.add(workers, settlement, false);
        Ok(report)
    }
}

/// Settles what a worker in the ledger still runs and writes down that it is back. Its row is locked.
pub fn welcome_back(installation: &Installation, worker: &str) -> Result<()> {
    let now = pg::now();
    let settlement = settle_now(installation, worker, now)?;
    let (failed, requeued) = settlement.totals(worker);
    if failed + requeued > 0 {
        ledger::add_jobs(installation, worker, failed, requeued)?;
    }
    let closed = ledger::close(installation, &[worker], now)?;
    buffer::close(worker);
    log_at_commit(closed.iter().map(|worker| return_of(worker)).collect());
    Ok(())
}

/// Gives up the earlier incarnation of a worker, for a reason of the worker's own. Its row is locked, when it
/// has one. Without `always`, only when it still ran something. Says whether there was a death.
pub fn give_up(installation: &Installation, worker: &Worker, reason: Reason, always: bool) -> Result<bool> {
    let now = pg::now();
    let settlement = settle_now(installation, &worker.id, now)?;
    if !always && settlement.totals(&worker.id) == (0, 0) {
        return Ok(false);
    }
    let mut death = death(worker, reason, now, &settlement);
    death.returned_at = (reason == Reason::Restarted).then_some(now);
    record(installation, &[death], &settlement)?;
    buffer::close(&worker.id);
    Ok(true)
}

/// Adds what a dead worker still runs to its death. Its row is locked.
pub fn settle_dead(installation: &Installation, worker: &str) -> Result<()> {
    let (failed, requeued) = settle_now(installation, worker, pg::now())?.totals(worker);
    if failed + requeued > 0 {
        ledger::add_jobs(installation, worker, failed, requeued)?;
    }
    Ok(())
}

fn death(worker: &Worker, reason: Reason, now: DateTime<Utc>, settlement: &Settlement) -> Death {
    let (jobs_failed, jobs_requeued) = settlement.totals(&worker.id);
    Death {
        worker: worker.clone(),
        reason,
        declared_dead_at: now,
        jobs_failed,
        jobs_requeued,
        returned_at: None,
    }
}

/// Writes deaths into the ledger and, once they are committed, into the log, and tells those who listen.
fn record(installation: &Installation, deaths: &[Death], settlement: &Settlement) -> Result<()> {
    let new = ledger::record(installation, deaths)?;
    let (mut notices, mut lines) = (Vec::new(), Vec::new());
    for death in deaths {
        if let Some(incarnation) = new.get(&death.worker.id) {
            notices.push(notify::of_death(death, *incarnation, settlement)?);
            lines.push(epitaph(death));
        }
    }
    log_at_commit(lines);
    notify::send(&notices)
}

fn ids(workers: &[Worker]) -> Vec<String> {
    workers.iter().map(|worker| worker.id.clone()).collect()
}
