//! Settling a table in parts, because some of its rows cannot take their new values: a unique index, a constraint, a
//! foreign key or a trigger refuses them, with whichever SQLSTATE. The others are settled all the same: workers are
//! bisected, then the rows of a worker.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::pauses::problem;
use super::rows::Row;
use super::table::{JobTable, LockPolicy, SettledJobs};
use super::{Outcome, RefusedJob};
use crate::error::{Error, Result};
use crate::pg::scope;
use crate::pg::timer::Deadline;
use crate::rules::bisection::{RetryBudget, bisect};
use crate::shmem::quarantine;

/// How many attempts may fail in one settlement of a table, of whole workers and of rows each: enough to find some bad
/// rows among the jobs of a thousand workers.
const FAILURES: u32 = 60;

/// How long is tried in parts, after the first failure.
const LIMIT: Duration = Duration::from_secs(10);

/// What to do about locked rows.
const LOCKED: LockPolicy = LockPolicy::SkipAtOnce;

/// What all parts share.
pub struct Parts<'a> {
    /// The table.
    pub table: &'a JobTable,
    /// The time that goes into the finish column.
    pub now: DateTime<Utc>,
    /// Until when, in a worker's call.
    pub deadline: Option<Deadline>,
}

impl Parts<'_> {
    /// Settles the jobs of these workers after the table has refused them as a whole with this error, as far as each
    /// can be. If it refuses to settle no jobs, too, that is tried no further.
    pub fn settle(&self, workers: &[String], error: &Error, outcome: &mut Outcome) {
        if self.attempt(|| self.table.settle(&[], self.now, LockPolicy::Refuse)).is_err() {
            outcome.problems.push(problem(self.table, error));
            return;
        }
        let (mut budget, mut rows) = (self.budget(), self.budget());
        let mut refused = Refused::default();
        let result = bisect(workers, &mut budget, is_of_a_row, &mut |part: &[String]| {
            let result = self.attempt(|| self.table.settle(part, self.now, LOCKED));
            match (result, part) {
                (Ok(settled), _) => outcome.add(self.table, Ok(settled)),
                (Err(error), [worker]) if is_of_a_row(&error) && !rows.is_spent() => {
                    self.settle_rows(worker, &mut rows, outcome, &mut refused)?
                }
                (Err(error), _) => return Err(error),
            }
            Ok(())
        });
        if let Err(error) = result {
            outcome.problems.push(problem(self.table, &error));
        } else if let Some((row, error)) = refused.first {
            let more =
                if refused.count > 1 { format!(" and {} more", refused.count - 1) } else { String::new() };
            let part = format!("job {}{more}", row.key.unwrap_or(row.place));
            outcome.problems.push(problem(self.table, &error).in_part(&part));
        }
    }

    /// Settles the jobs of one worker row by row.
    fn settle_rows(
        &self,
        worker: &str,
        budget: &mut RetryBudget,
        outcome: &mut Outcome,
        refused: &mut Refused,
    ) -> Result<()> {
        let rows = self.attempt(|| self.table.rows(worker))?;
        bisect(&rows, budget, is_of_a_row, &mut |part: &[Row]| {
            let result = self.attempt(|| self.table.settle_rows(worker, part, self.now, LOCKED));
            match (result, part) {
                (Ok(settled), _) => outcome.add(self.table, Ok(settled)),
                (Err(error), [row]) if is_of_a_row(&error) => match self.fail_row(worker, row, &error) {
                    Some(settled) => outcome.add(self.table, Ok(settled)),
                    None => {
                        outcome.refused.push(self.refused(worker, row, &error));
                        refused.add(row, error);
                    }
                },
                (Err(error), _) => return Err(error),
            }
            Ok(())
        })
    }

    fn refused(&self, worker: &str, row: &Row, error: &Error) -> RefusedJob {
        RefusedJob {
            worker: worker.to_owned(),
            table: self.table.watched.name.clone(),
            key: row.key.clone().filter(|_| self.table.mapping.notify_keys),
            code: error.code(),
        }
    }

    /// Fails a job that cannot go back to the queue; `None` when it cannot be failed either.
    fn fail_row(&self, worker: &str, row: &Row, why: &Error) -> Option<Vec<SettledJobs>> {
        let fail = || self.table.fail_row(worker, row, self.now, LOCKED, why);
        self.attempt(fail).ok().filter(|settled| !settled.is_empty())
    }

    fn budget(&self) -> RetryBudget {
        let left = self.deadline.map_or(LIMIT, |deadline| deadline.remaining().min(LIMIT));
        RetryBudget::new(left).with_failures(FAILURES)
    }

    fn attempt<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        quarantine::at_work(self.table.watched.oid, || match self.deadline {
            Some(deadline) => scope::subtransaction_of_call(deadline, work),
            None => scope::subtransaction(work),
        })
    }
}

/// Rows that can neither be requeued nor failed.
#[derive(Default)]
struct Refused {
    first: Option<(Row, Error)>,
    count: usize,
}

impl Refused {
    fn add(&mut self, row: &Row, error: Error) {
        self.count += 1;
        self.first.get_or_insert_with(|| (row.clone(), error));
    }
}

/// Whether an error may be that of single rows. Code of a table's owner can raise any; a table that would refuse no row
/// at all is told by trying. A row can also wait for another session, as one does whose key that session has added.
pub fn is_of_a_row(error: &Error) -> bool {
    matches!(error, Error::Caught(_) | Error::StillRunning) || error.is_lock_not_available()
}
