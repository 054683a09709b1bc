//! Settling jobs in a table whose rows are elsewhere: a foreign table, or one whose rows a library brings from other
//! servers. It takes a plain UPDATE, which waits there for locked rows: nobody can be told to skip them, nor how long
//! to wait, so a timer here ends the wait.
//!
//! All workers at once, and one by one where some rows are locked or refused: these keep back the jobs of their own
//! worker alone. An UPDATE that requeues jobs wipes their workers, and so does not tell whose they were. They are
//! counted before it then, and the counts hold if it changes as many.

use std::cell::OnceCell;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Outcome;
use super::parts::is_of_a_row;
use super::pauses::problem;
use super::settle::totals;
use super::table::{JobTable, LockPolicy, SettledJobs};
use crate::error::{Error, Result};
use crate::pg::scope;
use crate::pg::timer::Deadline;
use crate::shmem::quarantine;
use crate::tables::job_tables::OnDeath;

/// How long a statement may take there.
pub(super) const LIMIT: Duration = Duration::from_secs(1);

/// How long one for a single worker may take at first: so the workers whose rows are free come before those for whose
/// rows a sweep waits.
const FIRST_LIMIT: Duration = Duration::from_millis(200);

/// How long workers are tried one by one in one settlement.
const LIMIT_IN_ALL: Duration = Duration::from_secs(10);

/// A table whose rows are elsewhere, in one settlement.
pub(super) struct Elsewhere<'a> {
    /// The table.
    pub table: &'a JobTable,
    /// The time that goes into the finish column.
    pub now: DateTime<Utc>,
    /// Whether it settles no jobs for no worker, either: asked once, after the first failure.
    pub is_away: OnceCell<bool>,
}

impl Elsewhere<'_> {
    /// Settles the jobs of these workers, as far as their rows are free and take their new values.
    pub fn settle(&self, workers: &[String], outcome: &mut Outcome) {
        let result = match self.bounded(LIMIT, || self.all_at_once(workers)) {
            Err(error) if self.is_of_some(&error) => self.one_by_one(workers, outcome),
            result => result.map(|settled| outcome.add(self.table, Ok(settled))),
        };
        if let Err(error) = result {
            outcome.problems.push(problem(self.table, &error));
        }
    }

    /// A serialization failure says that it would not be known whose jobs were settled.
    fn all_at_once(&self, workers: &[String]) -> Result<Vec<SettledJobs>> {
        let settle = |workers: &[String]| self.table.settle(workers, self.now, LockPolicy::Refuse);
        if self.table.mapping.on_death == OnDeath::Fail {
            return settle(workers);
        }
        let running = self.table.running(workers)?;
        let busy: Vec<String> = running.iter().map(|jobs| jobs.worker.clone()).collect();
        // Which keys are whose, or which spelling of an id a job has, no count tells.
        let counts_tell = !self.table.mapping.notify_keys && self.table.columns()?.worker_values.is_none();
        match busy.len() {
            0 => Ok(running),
            1 => settle(&busy),
            _ if counts_tell && totals(&settle(&busy)?) == totals(&running) => Ok(running),
            _ => Err(Error::SerializationFailure),
        }
    }

    /// Returns the last error of those with which a worker's jobs have been left.
    fn one_by_one(&self, workers: &[String], outcome: &mut Outcome) -> Result<()> {
        let deadline = Deadline::after(LIMIT_IN_ALL);
        let running = self.bounded(LIMIT, || self.table.running(workers))?;
        let mut left: Vec<String> = running.into_iter().map(|jobs| jobs.worker).collect();
        let mut result = Ok(());
        for limit in [FIRST_LIMIT, LIMIT] {
            for worker in std::mem::take(&mut left) {
                if deadline.remaining().is_zero() {
                    result = Err(Error::TimedOut { limit: LIMIT_IN_ALL });
                    break;
                }
                match self.attempt(std::slice::from_ref(&worker), limit) {
                    Ok(settled) => outcome.add(self.table, Ok(settled)),
                    Err(error) if !self.is_of_some(&error) => return Err(error),
                    Err(Error::TimedOut { .. }) if limit < LIMIT => left.push(worker),
                    Err(error) => result = Err(error),
                }
            }
        }
        result
    }

    /// Whether an error may be that of some rows, and others can be settled.
    fn is_of_some(&self, error: &Error) -> bool {
        let is_of_many = matches!(error, Error::TimedOut { .. } | Error::SerializationFailure);
        let may_be = is_of_a_row(error) || is_of_many;
        may_be && !*self.is_away.get_or_init(|| self.attempt(&[], LIMIT).is_err())
    }

    fn attempt(&self, workers: &[String], limit: Duration) -> Result<Vec<SettledJobs>> {
        self.bounded(limit, || self.table.settle(workers, self.now, LockPolicy::Refuse))
    }

    fn bounded<T>(&self, limit: Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
        quarantine::at_work(self.table.watched.oid, || scope::subtransaction_within(limit, work))
    }
}
