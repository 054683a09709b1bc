//! Settling in the session of a worker that waits for it: whatever the tables do, it does not wait for long.
//!
//! What cannot be settled in time is left behind, and said: see [`crate::tables::unsettled`].

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::counter::MOST_KEYS;
use super::elsewhere;
use super::parts::{Parts, is_of_a_row};
use super::pauses::{Occasion, may_read, may_settle, problem};
use super::rows::Row;
use super::settle::{LeftBehind, Outcome, note_tried, parts};
use super::table::{JobTable, LockPolicy};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::timer::Deadline;
use crate::pg::{self, advisory, report, scope};
use crate::shmem::problems::Problem;
use crate::shmem::quarantine;

/// Locked jobs are waited for, a second, while there is more time than this.
const TIME_TO_WAIT: Duration = Duration::from_millis(2_200);

/// Why jobs cannot be noted whose rows are elsewhere.
const ELSEWHERE: &str = "They are locked on another server, which does not tell the versions of its rows.";

/// Settles the running jobs of a worker whose session waits for that. Waits up to a second for locked rows, and until
/// the deadline in all. A table on this server in which the worker has no running jobs is only read.
///
/// What is left behind is also a warning: it must not keep a worker away.
///
/// # Errors
///
/// [`Error::NotNoted`] when jobs whose rows are elsewhere are locked.
pub fn settle(
    installation: &Installation,
    worker: &str,
    now: DateTime<Utc>,
    deadline: Deadline,
) -> Result<Outcome> {
    let mut call = Call { worker, now, deadline, outcome: Outcome::default() };
    for table in parts(installation)? {
        match table.is_foreign() {
            true => call.settle_elsewhere(&table)?,
            false => call.settle_here(&table)?,
        }
    }
    let Call { mut outcome, .. } = call;
    note_tried(installation, &outcome);
    outcome.problems.drain(..).for_each(report::warn);
    Ok(outcome)
}

/// What workers who register were running before.
pub struct Busy {
    /// Those who have running jobs, and so are settled each by itself.
    pub workers: HashSet<String>,
    /// Tables in which each of the others may have some, because they could not be read.
    pub left: Vec<LeftBehind>,
}

/// Looks for running jobs of workers who register, of whom nearly all are new. Waits until the deadline in all.
/// Whatever could not be read is also a warning. Another server that does not answer keeps no worker away.
pub fn busy(installation: &Installation, workers: &HashSet<String>, deadline: Deadline) -> Result<Busy> {
    let mut call = Call { worker: "", now: pg::now(), deadline, outcome: Outcome::default() };
    let parts = parts(installation)?;
    let ids: Vec<String> = if parts.is_empty() { Vec::new() } else { workers.iter().cloned().collect() };
    let mut workers = HashSet::new();
    for table in parts {
        match call.busy_in(&table, &ids) {
            Ok(found) => workers.extend(found),
            Err(error) if table.is_foreign() => call.outcome.add(&table, Err(error)),
            Err(error) => call.leave(&table, None, problem(&table, &error)),
        }
    }
    call.outcome.problems.drain(..).for_each(report::warn);
    Ok(Busy { workers, left: call.outcome.left })
}

/// A worker's call, and what became of its jobs so far.
struct Call<'a> {
    worker: &'a str,
    now: DateTime<Utc>,
    deadline: Deadline,
    outcome: Outcome,
}

impl Call<'_> {
    fn settle_here(&mut self, table: &JobTable) -> Result<()> {
        let found = match self.rows(table) {
            Ok(rows) if rows.is_empty() => return Ok(()),
            _ if table.is_elsewhere() => return self.settle_elsewhere(table),
            Ok(rows) => rows,
            Err(error) => {
                self.leave(table, None, problem(table, &error));
                return Ok(());
            }
        };
        if let Err(error) = may_settle(table, Occasion::Death) {
            self.leave(table, Some(found), problem(table, &error));
            return Ok(());
        }
        let Some(problem) = self.try_to_settle(table)? else { return Ok(()) };
        match self.rows(table) {
            Ok(left) if left.is_empty() => {}
            left => self.leave(table, Some(left.unwrap_or(found)), problem),
        }
        Ok(())
    }

    /// The running jobs of the worker. Also to read a table may run code of its owner: a cast of the worker's column,
    /// or a function in an index's condition.
    fn rows(&mut self, table: &JobTable) -> Result<Vec<Row>> {
        may_read(table, Occasion::Death)?;
        let read = |call: &mut Self| table.rows(call.worker);
        advisory::without_leftovers(|| quarantine::at_work(table.watched.oid, || self.within(read)))?
    }

    /// Of many workers, those with running jobs.
    fn busy_in(&mut self, table: &JobTable, workers: &[String]) -> Result<Vec<String>> {
        let deadline = match table.is_foreign() {
            true => self.deadline.at_most(elsewhere::LIMIT),
            false => self.deadline.half(),
        };
        if table.is_foreign() {
            may_settle(table, Occasion::Death)?
        } else {
            may_read(table, Occasion::Death)?
        }
        let read = || scope::subtransaction_of_call(deadline, || table.busy(workers));
        advisory::without_leftovers(|| quarantine::at_work(table.watched.oid, read))?
    }

    /// Returns what was in the way, if something was.
    fn try_to_settle(&mut self, table: &JobTable) -> Result<Option<Problem>> {
        // Jobs that are still there after this are locked.
        let without_locked =
            |call: &mut Self| call.attempt(table, LockPolicy::Skip).and(Err(Error::JobsLocked));
        let result = advisory::without_leftovers(|| match self.deadline.remaining() > TIME_TO_WAIT {
            false => without_locked(self),
            true => match self.attempt(table, LockPolicy::Wait) {
                Err(error) if error.is_lock_not_available() => without_locked(self),
                result => result,
            },
        })?;
        let Err(error) = result else { return Ok(None) };
        if !is_of_a_row(&error) {
            return Ok(Some(problem(table, &error)));
        }
        let known = self.outcome.problems.len();
        advisory::without_leftovers(|| {
            let deadline = Some(self.deadline.half());
            let parts = Parts { table, now: self.now, deadline };
            parts.settle(&[self.worker.to_owned()], &error, &mut self.outcome);
        })?;
        // Without a problem, jobs that are still there are locked, or there was no time for them.
        Ok(Some(self.outcome.problems.drain(known..).next().unwrap_or(problem(table, &Error::JobsLocked))))
    }

    fn attempt(&mut self, table: &JobTable, locked: LockPolicy) -> Result<()> {
        let worker = [self.worker.to_owned()];
        let settle = |call: &mut Self| table.settle(&worker, call.now, locked);
        let settled = quarantine::at_work(table.watched.oid, || self.within(settle))?;
        self.outcome.add(table, Ok(settled));
        Ok(())
    }

    /// Settles jobs whose rows are elsewhere. Nobody tells their versions here: they cannot be noted.
    fn settle_elsewhere(&mut self, table: &JobTable) -> Result<()> {
        if let Err(error) = may_settle(table, Occasion::Death) {
            self.outcome.add(table, Err(error));
            return Ok(());
        }
        let worker = [self.worker.to_owned()];
        let attempt = |workers: &[String]| {
            let deadline = self.deadline.at_most(elsewhere::LIMIT);
            let settle = || table.settle(workers, self.now, LockPolicy::Refuse);
            quarantine::at_work(table.watched.oid, || scope::subtransaction_of_call(deadline, settle))
        };
        let are_locked = |error: &Error| match error {
            // Otherwise nobody answers, or only late: that keeps no worker away.
            Error::TimedOut { .. } => attempt(&[]).is_ok(),
            error => error.is_lock_not_available(),
        };
        let result = advisory::without_leftovers(|| match attempt(&worker) {
            Err(error) if are_locked(&error) => {
                Err(Error::NotNoted { table: table.target.clone(), reason: ELSEWHERE })
            }
            result => Ok(result),
        })??;
        self.outcome.add(table, result);
        Ok(())
    }

    /// Does some of the work, in half of the time that is left: no table takes it all from the others. A cancel stops
    /// this work alone, because code of a table's owner can raise one, too.
    fn within<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        scope::subtransaction_of_call(self.deadline.half(), || work(self))
    }

    /// Jobs stay running. `rows` are those that were seen, if the table could be read.
    fn leave(&mut self, table: &JobTable, rows: Option<Vec<Row>>, problem: Problem) {
        self.outcome.left.push(LeftBehind {
            table: table.watched.clone(),
            was_read: rows.is_some(),
            keys: rows.into_iter().flatten().filter_map(|row| row.key).take(MOST_KEYS).collect(),
            reason: problem.reason().to_owned(),
        });
        self.outcome.problems.push(problem.noted());
    }
}
