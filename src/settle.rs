//! Settling the running jobs of workers that are gone, over all watched tables.
//!
//! Each table is settled in a subtransaction of its own, so that one which fails does not stop the others.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::{self, JobTable, Locked, Settled};
use crate::pg::scope;

/// A table that could not be dealt with, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What could not be done.
    attempt: String,
    /// What the table said.
    reason: String,
}

impl Problem {
    fn of_jobs(table: &JobTable, error: &Error) -> Self {
        Self { attempt: format!("settle jobs in table {}", table.name), reason: error.message() }
    }

    /// Jobs that other sessions have locked.
    pub fn of_locked_jobs(table: &str, jobs: i64) -> Self {
        let reason = format!("rows skipped because they are locked by other sessions: {jobs}");
        Self { attempt: format!("settle jobs in table {table}"), reason }
    }

    /// Whether it is about the jobs of this table.
    pub fn is_of_jobs(&self, table: &str) -> bool {
        self.attempt == format!("settle jobs in table {table}")
    }

    /// Heartbeats that could not be written to their rows.
    pub fn of_flush(error: &Error) -> Self {
        Self { attempt: "write heartbeats".into(), reason: error.message() }
    }

    /// The problem as a line of the log.
    pub fn message(&self) -> String {
        format!("could not {}: {}", self.attempt, self.reason)
    }
}

/// What was settled, for each worker and table, and what could not be.
#[derive(Default)]
pub struct Settlement {
    /// The jobs of each worker, with the name of their table.
    pub by_worker: HashMap<String, Vec<(String, Settled)>>,
    /// Tables that failed.
    pub problems: Vec<Problem>,
}

impl Settlement {
    fn add(&mut self, table: &JobTable, settled: Vec<Settled>) {
        for jobs in settled {
            self.by_worker.entry(jobs.worker.clone()).or_default().push((table.name.clone(), jobs));
        }
    }

    /// Jobs of a worker that were failed and requeued, over all tables.
    pub fn totals(&self, worker: &str) -> (i64, i64) {
        let jobs = self.by_worker.get(worker).into_iter().flatten();
        jobs.fold((0, 0), |(failed, requeued), (_, jobs)| (failed + jobs.failed, requeued + jobs.requeued))
    }
}

/// Settles the running jobs of workers in all watched tables; locked rows stay for the next sweep.
pub fn settle(installation: &Installation, workers: &[String], now: DateTime<Utc>) -> Result<Settlement> {
    let mut settlement = Settlement::default();
    for table in jobs::watched(installation)? {
        let attempt = |locked| scope::subtransaction(|| table.settle(workers, now, locked));
        let result = match attempt(Locked::Refuse) {
            Err(error) if jobs::is_locked(&error) => attempt(Locked::Skip),
            result => result,
        };
        match result {
            Ok(settled) => settlement.add(&table, settled),
            Err(error) => settlement.problems.push(Problem::of_jobs(&table, &error)),
        }
    }
    Ok(settlement)
}

/// Settles all running jobs of a worker that waits for it: locked rows are waited for.
///
/// # Errors
///
/// When a row stays locked. A table that fails otherwise is warned of and left alone: no worker must stay away
/// because of it.
pub fn settle_now(installation: &Installation, worker: &str, now: DateTime<Utc>) -> Result<Settlement> {
    let workers = [worker.to_owned()];
    let mut settlement = Settlement::default();
    for table in jobs::watched(installation)? {
        match scope::subtransaction(|| table.settle(&workers, now, Locked::Wait)) {
            Ok(settled) => settlement.add(&table, settled),
            Err(error) if jobs::is_locked(&error) => return Err(Error::JobsLocked { table: table.name }),
            Err(error) if error.is_rollback() => return Err(error),
            Err(error) => warning!("{}", Problem::of_jobs(&table, &error).message()),
        }
    }
    Ok(settlement)
}

/// What these workers are running, in all watched tables.
pub fn running(installation: &Installation, workers: &[String]) -> Result<Settlement> {
    let mut found = Settlement::default();
    if workers.is_empty() {
        return Ok(found);
    }
    for table in jobs::watched(installation)? {
        match scope::subtransaction(|| table.running(workers)) {
            Ok(jobs) => found.add(&table, jobs),
            Err(error) => found.problems.push(Problem::of_jobs(&table, &error)),
        }
    }
    Ok(found)
}
