//! The steps of a sweep, each in one transaction. What the first look found is checked again under the locks.

use chrono::{DateTime, Utc};

use super::log_lines::{changed_line, counted, left_behind_line, log_at_commit};
use super::{Mode, Step, death, of_following};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::following;
use crate::jobs::pauses::Occasion;
use crate::jobs::settle::{self, Outcome, totals};
use crate::jobs::settlers;
use crate::jobs::unsettled::{self, Settlement};
use crate::rules::liveness;
use crate::rules::text::printable;
use crate::settings;
use crate::shmem::problems::{Place, Problem};
use crate::shmem::{buffer, connections, observation, quarantine};
use crate::tables;
use crate::tables::deaths::{self, Reason};
use crate::tables::heartbeats::{HeartbeatTable, Worker};
use crate::tables::unsettled::Noted;
use crate::tables::unsettled_calls::Unsettled;

/// A sweep of the current database, created anew for each transaction.
pub struct Sweep {
    pub(super) installation: Installation,
    pub(super) heartbeats: HeartbeatTable,
    pub(super) mode: Mode,
    pub(super) now: DateTime<Utc>,
    /// Workers whose last heartbeat is before it are silent, and so dead; `None` while no worker can be judged.
    pub(super) cutoff: Option<DateTime<Utc>>,
    /// A dead worker with a heartbeat since then has returned. That can be judged at any time.
    recent: DateTime<Utc>,
}

impl Sweep {
    /// Reads the clock and the settings.
    pub fn new(installation: Installation, mode: Mode) -> Result<Self> {
        let heartbeats = HeartbeatTable::open(&installation)?;
        let now = observation::watch_clocks().wall;
        let threshold = settings::stale_threshold();
        let excuse = connections::excuse(now, threshold);
        let cutoff = liveness::cutoff(now, observation::observing_since(), threshold, excuse);
        Ok(Self { installation, heartbeats, mode, now, cutoff, recent: now - liveness::delta(threshold) })
    }

    /// Notes which tables the entries of the registry mean, and says in the log what has changed.
    pub fn follow(&self) -> Result<Option<Problem>> {
        if self.mode.is_dry_run() {
            return Ok(None);
        }
        let (lines, error) = following::follow(&self.installation, self.now)?;
        log_at_commit(lines);
        Ok(error.as_ref().map(of_following))
    }

    /// Sets the last heartbeat of workers ahead of the clock to the current time: in their rows, in memory, and in the
    /// ledger. So no worker stays alive because of a clock that was wrong.
    pub fn clamp_to_now(&self, ahead: &[Worker]) -> Result<()> {
        if self.mode.is_dry_run() {
            return Ok(());
        }
        let (limit, ids) = (liveness::latest_credible(self.now), ids(ahead));
        let clamp = || self.heartbeats.clamp_to_now(&ids, limit, self.now);
        // A trigger of an adopted table may end the process.
        quarantine::at_work_unless_left_out(self.heartbeats.oid, clamp)?;
        deaths::clamp_to_now(&self.installation, &ids, limit, self.now)?;
        ids.iter().for_each(|id| buffer::clamp_to_now(id, limit, self.now));
        Ok(())
    }

    /// Declares these workers dead, except those that have sent a heartbeat meanwhile and those that another session
    /// has locked.
    pub fn declare_dead(&self, silent: &[Worker]) -> Result<Step> {
        let (silent, problem) = self.with_numbers(silent)?;
        if self.mode.is_dry_run() {
            return self.would_settle(&silent, true);
        }
        let workers = match self.cutoff {
            Some(cutoff) => self.lock_silent(&silent, cutoff)?,
            None => Vec::new(),
        };
        let mut jobs = self.settle(&workers, Occasion::Death)?;
        jobs.problems.extend(problem);
        death::declare(&self.installation, &workers, |_| Reason::Stale, self.now, &jobs)?;
        Ok(Step { workers, are_new: true, jobs })
    }

    /// The workers whose deaths can be recorded, and what is wrong with the others. A number that was put into a table
    /// by hand must not stop the deaths of a whole batch.
    pub(super) fn with_numbers(&self, silent: &[Worker]) -> Result<(Vec<Worker>, Option<Problem>)> {
        let without = deaths::out_of_range(&self.installation, &ids(silent))?;
        let (refused, able): (Vec<_>, Vec<_>) =
            silent.iter().cloned().partition(|worker| without.contains(&worker.id));
        let problem = refused.first().map(|worker| {
            let error = Error::IncarnationOutOfRange { worker: printable(&worker.id) };
            Problem::new(Place::Incarnations, format!("declare workers dead ({})", refused.len()), &error)
        });
        Ok((able, problem))
    }

    /// The second look, with the rows locked: a worker that has sent a heartbeat meanwhile is alive; the heartbeats of
    /// the others wait for the row from here on.
    fn lock_silent(&self, silent: &[Worker], cutoff: DateTime<Utc>) -> Result<Vec<Worker>> {
        let mut workers = self.heartbeats.lock_silent(&ids(silent), cutoff)?;
        // Another sweep may have been faster. With the rows locked, what the ledger says stays true.
        let known = deaths::dead_among(&self.installation, &ids(&workers))?;
        workers.iter_mut().for_each(Worker::renew);
        workers.retain(|worker| !known.contains(&worker.id) && buffer::remove_silent(&worker.id, cutoff));
        Ok(workers)
    }

    /// Settles the running jobs of these dead workers, except those that have returned meanwhile.
    pub fn settle_orphans(&self, dead: &[Worker]) -> Result<Step> {
        if self.mode.is_dry_run() {
            return self.would_settle(dead, false);
        }
        let mut workers = deaths::lock_dead(&self.installation, &ids(dead))?;
        // A client that writes its own row may be back without having taken this lock.
        let returned = ids(&self.returned(&workers)?);
        workers.retain(|worker| !returned.contains(&worker.id));
        let jobs = self.settle(&workers, Occasion::Orphans)?;
        self.add_to_deaths(&jobs)?;
        Ok(Step { workers, are_new: false, jobs })
    }

    /// Settles what workers have left behind that have returned since, and forgets what is done with.
    pub fn settle_noted(&self, noted: &[Noted]) -> Result<Step> {
        let step = |jobs| Step { workers: workers_of(noted), are_new: false, jobs };
        if self.mode.is_dry_run() {
            return unsettled::running(&self.installation, noted, self.mode.deadline()).map(step);
        }
        let Settlement { outcome, settled, done, changed } =
            unsettled::settle(&self.installation, noted, self.now)?;
        let mut lines = Vec::new();
        for (Noted { worker, incarnation, .. }, jobs) in settled {
            deaths::add_jobs(&self.installation, worker, Some(*incarnation), jobs)?;
            lines.push(left_behind_line(worker, &counted(jobs.0, jobs.1)));
        }
        lines.extend(changed.iter().map(|(one, keys)| changed_line(&one.worker, one.table, keys)));
        log_at_commit(lines);
        tables::unsettled::forget(&self.installation, &done)?;
        Ok(step(outcome))
    }

    /// Has queues settle the jobs of dead workers for which they could not be called before.
    pub fn settle_calls(&self, noted: &[Unsettled]) -> Result<Step> {
        let mut jobs = Outcome::default();
        let done = settlers::settle_noted(&self.installation, noted, self.now, &mut jobs)?;
        self.add_to_deaths(&jobs)?;
        let workers = named(done.iter().map(|one| &one.worker).collect());
        Ok(Step { workers, are_new: false, jobs })
    }

    /// Adds jobs of workers that were dead before to their deaths, and says so in the log.
    fn add_to_deaths(&self, jobs: &Outcome) -> Result<()> {
        let mut lines = Vec::new();
        for (worker, settled) in jobs.by_worker() {
            let (failed, requeued) = totals(settled);
            deaths::add_jobs(&self.installation, worker, None, (failed, requeued))?;
            let (worker, jobs) = (printable(worker), counted(failed, requeued));
            lines.push(format!("jobs that dead worker \"{worker}\" still ran were settled: {jobs}"));
        }
        lines.sort_unstable();
        log_at_commit(lines);
        Ok(())
    }

    pub(super) fn settle(&self, workers: &[Worker], occasion: Occasion) -> Result<Outcome> {
        match workers {
            [] => Ok(Outcome::default()),
            workers => settle::settle(&self.installation, &ids(workers), self.now, occasion),
        }
    }

    pub(super) fn would_settle(&self, workers: &[Worker], are_new: bool) -> Result<Step> {
        let jobs = settle::running(&self.installation, &ids(workers), self.mode.deadline())?;
        Ok(Step { workers: workers.to_vec(), are_new, jobs })
    }

    /// Of these dead workers, the ones whose rows clients have renewed since.
    pub(super) fn returned(&self, dead: &[Worker]) -> Result<Vec<Worker>> {
        match dead {
            [] => Ok(Vec::new()),
            dead => self.heartbeats.heard_since(self.recent, dead),
        }
    }
}

/// The workers that have left something behind. What else there was to know of them is in the ledger.
fn workers_of(noted: &[Noted]) -> Vec<Worker> {
    named(noted.iter().map(|one| &one.worker).collect())
}

fn named(mut ids: Vec<&String>) -> Vec<Worker> {
    ids.sort_unstable();
    ids.dedup();
    let worker =
        |id: &String| Worker { id: id.clone(), hostname: None, last_heartbeat_at: DateTime::<Utc>::MIN_UTC };
    ids.into_iter().map(worker).collect()
}

/// The ids of workers.
pub fn ids(workers: &[Worker]) -> Vec<String> {
    workers.iter().map(|worker| worker.id.clone()).collect()
}
