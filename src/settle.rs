//! Settling the running jobs of workers that are gone, over all watched tables.
//!
//! Each table is settled in a subtransaction of its own, so that one which fails does not stop the others. A table
//! whose parts are on several servers is several tables here.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::{self, JobTable, Locked, Settled};
use crate::pg::scope;

/// A table that could not be dealt with, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The watched table whose jobs it is about, if it is about jobs.
    job_table: Option<String>,
    /// What could not be done.
    attempt: String,
    /// What the table said.
    reason: String,
}

impl Problem {
    fn of_jobs(table: &JobTable, error: &Error) -> Self {
        Self {
            job_table: Some(table.name.clone()),
            attempt: format!("settle jobs in table {}", table.name),
            reason: match table.only {
                // Of a table with parts on several servers, the part.
                true => format!("{}: {}", table.target, error.message()),
                false => error.message(),
            },
        }
    }

    /// Jobs that other sessions have locked.
    pub fn of_locked_jobs(table: &str, jobs: i64) -> Self {
        Self {
            job_table: Some(table.to_owned()),
            attempt: format!("settle jobs in table {table}"),
            reason: format!("rows skipped because they are locked by other sessions: {jobs}"),
        }
    }

    /// Whether it is about the jobs of this watched table.
    pub fn is_of_jobs(&self, table: &str) -> bool {
        self.job_table.as_deref() == Some(table)
    }

    /// Heartbeats that could not be written to their rows.
    pub fn of_flush(error: &Error) -> Self {
        Self { job_table: None, attempt: "write heartbeats".into(), reason: error.message() }
    }

    /// Heartbeats from the future that could not be taken as of now.
    pub fn of_pull_back(error: &Error) -> Self {
        Self {
            job_table: None,
            attempt: "take heartbeats from the future as of now".into(),
            reason: error.message(),
        }
    }

    /// Old rows that could not be removed.
    pub fn of_pruning(error: &Error) -> Self {
        Self { job_table: None, attempt: "prune old deaths".into(), reason: error.message() }
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
        for mut jobs in settled {
            let tables = self.by_worker.entry(jobs.worker.clone()).or_default();
            match tables.iter_mut().find(|(name, _)| *name == table.name) {
                // Another part of the same table.
                Some((_, earlier)) => {
                    earlier.failed += jobs.failed;
                    earlier.requeued += jobs.requeued;
                    earlier.keys.append(&mut jobs.keys);
                }
                None => tables.push((table.name.clone(), jobs)),
            }
        }
    }

    fn add_problem(&mut self, table: &JobTable, error: &Error) {
        self.problems.push(Problem::of_jobs(table, error));
    }

    fn add_result(&mut self, table: &JobTable, result: Result<Vec<Settled>>) {
        match result {
            Ok(settled) => self.add(table, settled),
            Err(error) => self.add_problem(table, &error),
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
    for table in parts(installation)? {
        if table.is_foreign() {
            let mut patience = FOREIGN_PATIENCE;
            settle_foreign(&table, workers, now, &mut patience, &mut settlement);
            continue;
        }
        let attempt = |locked| scope::subtransaction(|| table.settle(workers, now, locked));
        let result = match attempt(Locked::Refuse) {
            Err(error) if jobs::is_locked(&error) => attempt(Locked::Skip),
            result => result,
        };
        settlement.add_result(&table, result);
    }
    Ok(settlement)
}

/// How long a statement on another server may take. It cannot be told to skip locked rows, nor how long to wait
/// for them, so this bounds the wait.
const FOREIGN_LIMIT: Duration = Duration::from_secs(1);

/// How many statements on one table of another server may take too long in one sweep: enough to find a locked row
/// among the jobs of a thousand workers by halving.
const FOREIGN_PATIENCE: u32 = 12;

/// Settles jobs on another server. When that takes too long, each half of the workers is tried by itself, so that a
/// locked row keeps back the jobs of one worker.
fn settle_foreign(
    table: &JobTable,
    workers: &[String],
    now: DateTime<Utc>,
    patience: &mut u32,
    settlement: &mut Settlement,
) {
    let attempt = || table.settle(workers, now, Locked::Refuse);
    match scope::subtransaction_within(FOREIGN_LIMIT, attempt) {
        Ok(settled) => settlement.add(table, settled),
        Err(error) if jobs::may_be_locked(&error) && workers.len() > 1 && *patience > 0 => {
            *patience -= 1;
            let (first, second) = workers.split_at(workers.len() / 2);
            settle_foreign(table, first, now, patience, settlement);
            settle_foreign(table, second, now, patience, settlement);
        }
        Err(error) => settlement.add_problem(table, &error),
    }
}

/// Settles all running jobs of a worker that waits for it: locked rows are waited for.
///
/// # Errors
///
/// When a row stays locked; of one on another server, only if that server says so. A table that fails otherwise is
/// warned of and left alone: no worker must stay away because of it.
pub fn settle_now(installation: &Installation, worker: &str, now: DateTime<Utc>) -> Result<Settlement> {
    let workers = [worker.to_owned()];
    let mut settlement = Settlement::default();
    for table in parts(installation)? {
        let result = match table.is_foreign() {
            true => {
                scope::subtransaction_within(FOREIGN_LIMIT, || table.settle(&workers, now, Locked::Refuse))
            }
            false => scope::subtransaction(|| table.settle(&workers, now, Locked::Wait)),
        };
        match result {
            Ok(settled) => settlement.add(&table, settled),
            Err(error) if jobs::is_locked(&error) => return Err(Error::JobsLocked { table: table.target }),
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
    let (there, here): (Vec<_>, Vec<_>) = parts(installation)?.into_iter().partition(JobTable::is_foreign);
    // All at once, which costs less, and each by itself only when one fails: there is nothing to undo.
    let together = || here.iter().map(|table| table.running(workers)).collect::<Result<Vec<_>>>();
    match scope::subtransaction(together) {
        Ok(all) => here.iter().zip(all).for_each(|(table, jobs)| found.add(table, jobs)),
        Err(_) => {
            for table in &here {
                found.add_result(table, scope::subtransaction(|| table.running(workers)));
            }
        }
    }
    for table in &there {
        let jobs = scope::subtransaction_within(FOREIGN_LIMIT, || table.running(workers));
        found.add_result(table, jobs);
    }
    Ok(found)
}

/// The tables that are settled each by itself.
fn parts(installation: &Installation) -> Result<Vec<JobTable>> {
    let mut parts = Vec::new();
    for table in jobs::watched(installation)? {
        parts.append(&mut table.parts()?);
    }
    Ok(parts)
}
