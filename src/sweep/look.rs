//! The first look of a sweep: which workers it has to deal with. Nothing is locked. Whatever it finds is checked again
//! before it is acted on.

use std::collections::HashSet;

use pgrx::pg_sys;

use super::log_lines::{log_at_commit, return_line};
use super::steps::{Sweep, ids};
use super::{Mode, local_time, mass_death};
use crate::error::{Error, Result};
use crate::jobs::entries::LeftOut;
use crate::jobs::table::TableName;
use crate::jobs::watched::{self, Registry};
use crate::jobs::{Outcome, settle};
use crate::pg::{report, row_versions};
use crate::rules::liveness::{self, Hold};
use crate::rules::local_time::Mark;
use crate::rules::text::printable;
use crate::settings;
use crate::shmem::problems::{Place, Problem};
use crate::shmem::{buffer, databases};
use crate::tables::heartbeats::Worker;
use crate::tables::unsettled::Noted;
use crate::tables::unsettled_calls::Unsettled;
use crate::tables::{deaths, incarnations, unsettled, unsettled_calls};

/// What a sweep has to deal with.
pub struct WorkToDo {
    /// Workers with a heartbeat ahead of the clock. They are judged after that is corrected.
    pub ahead: Vec<Worker>,
    /// Workers that are to be declared dead.
    pub silent: Vec<Worker>,
    /// Jobs that were not settled with the death of their worker.
    pub orphans: Orphans,
    /// Jobs that workers have left behind that have returned since.
    pub noted: Vec<Noted>,
    /// Workers whose jobs a queue has not settled yet. Only sweepers call queues.
    pub calls: Vec<Unsettled>,
}

/// Running jobs of workers that are dead in the ledger: skipped when the worker was declared dead, or claimed by a
/// process that does not know that it was.
#[derive(Default)]
pub struct Orphans {
    /// The workers.
    pub workers: Vec<Worker>,
    /// Tables that could not be read.
    pub problems: Vec<Problem>,
    /// How many of their jobs in each table are not settled yet.
    jobs: Vec<(TableName, i64)>,
}

impl Orphans {
    /// Subtracts the jobs that were settled.
    pub fn subtract(&mut self, settled: &Outcome) {
        for jobs in &settled.settled {
            let of_table = self.jobs.iter_mut().filter(|(table, _)| *table == jobs.table);
            of_table.for_each(|(_, left)| *left -= jobs.failed + jobs.requeued);
        }
    }

    /// Jobs that are still there although their tables did not fail: other sessions have locked them.
    pub fn locked(&self, failed: &[Problem]) -> Vec<(TableName, u64)> {
        let is_of = |place, table: &TableName| matches!(place, Place::JobTable { table: oid, .. } if oid == table.oid);
        let has_failed = |table: &TableName| failed.iter().any(|problem| is_of(problem.place, table));
        let left = self.jobs.iter().filter(|(table, left)| *left > 0 && !has_failed(table));
        left.filter_map(|(table, left)| Some((table.clone(), u64::try_from(*left).ok()?))).collect()
    }
}

/// The silent and the dead workers, before it is known which are held back or have returned.
struct Candidates {
    ahead: Vec<Worker>,
    silent: Vec<Worker>,
    /// Some seem silent, but write local time.
    in_local_time: Option<Problem>,
    dead: Vec<Worker>,
}

impl Sweep {
    /// Reads the registry, the ledger, the rows and, for workers that seem silent or ahead of the clock, memory.
    pub fn look(&self) -> Result<WorkToDo> {
        let Registry { watched, idle, .. } = watched::registry(&self.installation)?;
        let Candidates { ahead, mut silent, in_local_time, dead } = self.candidates()?;
        self.warn_of_ahead(&ahead);
        if let Some(hold) = self.hold(silent.len(), &dead)? {
            self.mode.tell_of_hold(&hold);
            silent.clear();
        }
        self.end_hold(silent.len());
        self.mode.tell_of_more(silent.len());
        let dead = self.still_dead(dead)?;
        let mut orphans = self.orphans(dead)?;
        orphans.problems.extend(in_local_time);
        orphans.problems.extend(idle.left_out.into_iter().map(not_counted));
        orphans.problems.extend(idle.absent.first().map(|name| absent(name)));
        orphans.problems.extend(settle::replicated(&watched));
        if let Some(cutoff) = self.cutoff.filter(|_| self.mode == Mode::Sweeper) {
            // Their rows have the same heartbeat.
            buffer::forget_silent(cutoff);
        }
        let noted = unsettled::all(&self.installation)?;
        let calls = match self.mode {
            Mode::Sweeper => unsettled_calls::all(&self.installation)?,
            _ => Vec::new(),
        };
        Ok(WorkToDo { ahead, silent, orphans, noted, calls })
    }

    fn candidates(&self) -> Result<Candidates> {
        let mark = self.mark();
        let dead = deaths::dead(&self.installation)?;
        let limit = liveness::latest_credible(self.now);
        let mut seen = self.heartbeats.silent_or_ahead(self.cutoff, &ids(&dead), limit)?;
        seen.iter_mut().for_each(Worker::renew);
        let is_ahead = |worker: &Worker| worker.last_heartbeat_at > limit;
        let (mut ahead, mut silent): (Vec<_>, Vec<_>) = seen.into_iter().partition(is_ahead);
        silent.retain(|worker| self.cutoff.is_some_and(|cutoff| worker.last_heartbeat_at < cutoff));
        let in_local_time = self.take_out_local_time(&mut silent, mark)?;
        let (dead_ahead, mut dead): (Vec<_>, Vec<_>) = dead.into_iter().partition(is_ahead);
        let known: HashSet<String> = ids(&ahead).into_iter().collect();
        dead.retain(|worker| !known.contains(&worker.id));
        ahead.extend(dead_ahead.into_iter().filter(|worker| !known.contains(&worker.id)));
        Ok(Candidates { ahead, silent, in_local_time, dead })
    }

    /// Since which moment a row that was renewed is that of a living worker.
    fn mark(&self) -> Option<Mark> {
        let now = Mark { at: self.now, transaction: row_versions::next_transaction() };
        match self.mode.is_dry_run() {
            true => databases::current().and_then(|state| state.written_lately()),
            false => databases::advance_marks(now, settings::stale_threshold()),
        }
    }

    /// Takes those out of the silent workers whose clients write local time: they are alive while they renew their
    /// rows.
    fn take_out_local_time(&self, silent: &mut Vec<Worker>, mark: Option<Mark>) -> Result<Option<Problem>> {
        let Some(mark) = mark else { return Ok(None) };
        let Some((alive, error)) = local_time::writers(&self.heartbeats, silent, mark, self.now)? else {
            return Ok(None);
        };
        silent.retain(|worker| !alive.contains(&worker.id));
        Ok(Some(Problem::with_advice(Place::LocalTime, &error)))
    }

    /// Warns of workers ahead of the clock: a caller each time, the log only when it is news.
    fn warn_of_ahead(&self, ahead: &[Worker]) {
        let Some(example) = ahead.first() else { return };
        if self.mode.is_dry_run() {
            return;
        }
        let is_news = databases::note_ahead(ahead.len(), self.now);
        if is_news || self.mode != Mode::Sweeper {
            report::warn(Error::FutureHeartbeats {
                workers: ahead.len(),
                example: printable(&example.id),
                ahead: liveness::silence(example.last_heartbeat_at, self.now),
            });
        }
    }

    /// The hold, if so many workers are silent that they are held back. Records it, except in a dry run.
    fn hold(&self, silent: usize, dead: &[Worker]) -> Result<Option<Hold>> {
        let census = mass_death::Census { heartbeats: &self.heartbeats, silent, dead, now: self.now };
        match self.mode {
            mode if mode.is_forced() => Ok(None),
            Mode::DryRun { .. } => mass_death::would_hold_back(&census),
            _ => mass_death::hold_back(&census),
        }
    }

    /// A sweep by hand that settles all silent workers, or is forced, ends the hold.
    fn end_hold(&self, silent: usize) {
        let Mode::ByHand { force } = self.mode else { return };
        match silent <= settings::batch_size() {
            true => mass_death::forget_at_commit(force),
            false if force => mass_death::lift_at_commit(self.now),
            false => {}
        }
    }

    /// Of these dead workers, the ones that are still dead. Clients have renewed the rows of the others since: their
    /// return is recorded.
    fn still_dead(&self, dead: Vec<Worker>) -> Result<Vec<Worker>> {
        let returned: HashSet<String> = ids(&self.returned(&dead)?).into_iter().collect();
        if returned.is_empty() {
            return Ok(dead);
        }
        if !self.mode.is_dry_run() {
            let ids: Vec<&str> = returned.iter().map(String::as_str).collect();
            incarnations::lift(&self.installation, &ids)?;
            let closed = deaths::close(&self.installation, &ids, self.now)?;
            log_at_commit(closed.iter().map(|worker| return_line(worker)).collect());
        }
        Ok(dead.into_iter().filter(|worker| !returned.contains(&worker.id)).collect())
    }

    /// Of these dead workers, the ones that have running jobs, in the order of their ids.
    fn orphans(&self, dead: Vec<Worker>) -> Result<Orphans> {
        let found = settle::running(&self.installation, &ids(&dead), self.mode.deadline())?;
        let with_jobs = found.by_worker();
        let workers = dead.into_iter().filter(|worker| with_jobs.contains_key(worker.id.as_str()));
        let workers: Vec<Worker> = workers.take(self.mode.most_orphans()).collect();
        let mut jobs: Vec<(TableName, i64)> = Vec::new();
        for settled in workers.iter().filter_map(|worker| with_jobs.get(worker.id.as_str())).flatten() {
            let count = settled.failed + settled.requeued;
            match jobs.iter_mut().find(|(table, _)| *table == settled.table) {
                Some((_, sum)) => *sum += count,
                None => jobs.push((settled.table.clone(), count)),
            }
        }
        Ok(Orphans { workers, problems: found.problems, jobs })
    }
}

/// The problem of a table whose entry does not count.
fn not_counted(left_out: LeftOut) -> Problem {
    let TableName { name, oid } = left_out.table;
    let place = Place::JobTable { table: oid, part: oid };
    Problem::new(place, format!("settle jobs in table {name}"), &left_out.error)
}

/// The problem of an entry whose table was never here: a dump has left it out. One is named.
fn absent(name: &str) -> Problem {
    let (name, oid) = (printable(name), pg_sys::InvalidOid);
    let error = Error::NoTable { table: name.clone() };
    Problem::new(Place::JobTable { table: oid, part: oid }, format!("settle jobs in table {name}"), &error)
}

impl Mode {
    /// How many workers with orphaned jobs are dealt with.
    fn most_orphans(self) -> usize {
        if self == Self::Sweeper { usize::MAX } else { settings::batch_size() }
    }

    /// Tells the caller of a sweep by hand that workers are held back.
    fn tell_of_hold(self, hold: &Hold) {
        if self != Self::Sweeper {
            mass_death::notice(hold);
        }
    }

    /// Tells the caller of a sweep by hand that one call is not enough.
    fn tell_of_more(self, silent: usize) {
        let batch = settings::batch_size();
        if self != Self::Sweeper && silent > batch {
            report::notice(&format!(
                "{silent} workers are dead, of which one call settles {batch}; call rgrid_sweep() again"
            ));
        }
    }
}
