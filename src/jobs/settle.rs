//! Settling the running jobs of workers that are gone, over all watched tables.
//!
//! Each table is settled in a subtransaction of its own, so that one which fails does not stop the others. A table with
//! parts on other servers counts as several tables here.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys;

use super::elsewhere::{Elsewhere, LIMIT};
use super::parts::{Parts, is_of_a_row};
use super::pauses::{Occasion, is_paused, may_read, may_settle, place, problem};
use super::table::{JobTable, LockPolicy, SettledJobs, TableName};
use super::{settlers, watched};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::timer::Deadline;
use crate::pg::{constraints, scope};
use crate::shmem::problems::Problem;
use crate::shmem::quarantine;
use crate::tables::tried_tables;

/// What became of the running jobs of some workers, and what could not be done.
#[derive(Default)]
pub struct Outcome {
    /// The jobs, one entry for each worker and watched table.
    pub settled: Vec<SettledJobs>,
    /// Tables that failed.
    pub problems: Vec<Problem>,
    /// Jobs of a worker that returns all the same.
    pub left: Vec<LeftBehind>,
    /// Jobs that refuse their new values.
    pub refused: Vec<RefusedJob>,
}

/// A job that could be neither failed nor requeued.
#[derive(Clone, Debug)]
pub struct RefusedJob {
    /// The worker that ran it.
    pub worker: String,
    /// The name of its table.
    pub table: String,
    /// Its primary key, where the watch wants keys in notifications and the table has one of a single column.
    pub key: Option<String>,
    /// The SQLSTATE with which the table refused it.
    pub code: PgSqlErrorCode,
}

/// Running jobs of a worker in one table that could not be settled in its session.
#[derive(Clone, Debug)]
pub struct LeftBehind {
    /// The watched table.
    pub table: TableName,
    /// Whether the table could be read.
    pub was_read: bool,
    /// The primary keys of those that were seen first, where the table has one of a single column.
    pub keys: Vec<String>,
    /// Why, in a few words.
    pub reason: String,
}

impl Outcome {
    pub(super) fn add(&mut self, table: &JobTable, result: Result<Vec<SettledJobs>>) {
        match result {
            Ok(settled) if table.only => settled.into_iter().for_each(|jobs| self.add_part(jobs)),
            Ok(mut settled) => self.settled.append(&mut settled),
            Err(error) => self.problems.push(problem(table, &error)),
        }
    }

    /// Adds a worker's jobs in a part of a table to those in its other parts.
    fn add_part(&mut self, mut jobs: SettledJobs) {
        let is_same = |other: &&mut SettledJobs| other.worker == jobs.worker && other.table == jobs.table;
        match self.settled.iter_mut().find(is_same) {
            Some(other) => {
                other.failed += jobs.failed;
                other.requeued += jobs.requeued;
                other.keys.append(&mut jobs.keys);
            }
            None => self.settled.push(jobs),
        }
    }

    /// The jobs of each worker.
    pub fn by_worker(&self) -> HashMap<&str, Vec<&SettledJobs>> {
        let mut by_worker: HashMap<&str, Vec<&SettledJobs>> = HashMap::new();
        for jobs in &self.settled {
            by_worker.entry(&jobs.worker).or_default().push(jobs);
        }
        by_worker
    }

    /// How many jobs were failed, and how many requeued.
    pub fn totals(&self) -> (i64, i64) {
        totals(&self.settled)
    }
}

/// How many of these jobs were failed, and how many requeued.
pub fn totals<'a>(settled: impl IntoIterator<Item = &'a SettledJobs>) -> (i64, i64) {
    settled
        .into_iter()
        .fold((0, 0), |(failed, requeued), jobs| (failed + jobs.failed, requeued + jobs.requeued))
}

/// Settles the running jobs of workers in all watched tables. Locked rows stay for the next sweep. A sweeper tries a
/// table that could not be settled with growing pauses. When workers are declared dead, that holds for one that took
/// too long.
pub fn settle(
    installation: &Installation,
    workers: &[String],
    now: DateTime<Utc>,
    occasion: Occasion,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    check_constraints_at_once()?;
    for table in parts(installation)? {
        if let Err(error) = may_settle(&table, occasion) {
            outcome.add(&table, Err(error));
        } else if is_paused(&table, occasion, now) {
            outcome.problems.push(Problem::standing(place(&table)));
        } else if table.is_elsewhere() {
            Elsewhere { table: &table, now, is_away: OnceCell::new() }.settle(workers, &mut outcome);
        } else {
            settle_here(&table, workers, now, &mut outcome);
        }
    }
    note_tried(installation, &outcome);
    settlers::settle(installation, workers, now, occasion, &mut outcome)?;
    Ok(outcome)
}

/// For the rest of a sweeper's transaction: deferred triggers cannot be fired in a security-restricted operation.
pub(super) fn check_constraints_at_once() -> Result<()> {
    if scope::statement_limit().is_some() { constraints::set_immediate() } else { Ok(()) }
}

/// Notes the tables of which jobs were settled.
pub(super) fn note_tried(installation: &Installation, outcome: &Outcome) {
    let tables: HashSet<pg_sys::Oid> = outcome.settled.iter().map(|jobs| jobs.table.oid).collect();
    tables.into_iter().for_each(|table| tried_tables::add(installation, table));
}

pub(super) fn settle_here(table: &JobTable, workers: &[String], now: DateTime<Utc>, outcome: &mut Outcome) {
    let attempt = |locked| {
        let settle = || scope::subtransaction(|| table.settle(workers, now, locked));
        quarantine::at_work(table.watched.oid, settle)
    };
    let result = match attempt(LockPolicy::Refuse) {
        Err(error) if error.is_lock_not_available() => attempt(LockPolicy::Skip),
        result => result,
    };
    match result {
        Err(error) if is_of_a_row(&error) => {
            Parts { table, now, deadline: None }.settle(workers, &error, outcome);
        }
        Ok(settled) if !settled.is_empty() => {
            quarantine::settled(table.watched.oid);
            outcome.add(table, Ok(settled));
        }
        result => outcome.add(table, result),
    }
}

/// What these workers are running that would be settled, in all watched tables. What cannot be read until the deadline,
/// if there is one, is a problem.
pub fn running(
    installation: &Installation,
    workers: &[String],
    deadline: Option<Deadline>,
) -> Result<Outcome> {
    read(installation, workers, deadline, may_settle)
}

/// What these workers are running in all watched tables, also in those whose jobs another server settles.
pub fn running_anywhere(installation: &Installation, workers: &[String]) -> Result<Outcome> {
    read(installation, workers, None, may_read)
}

fn read(
    installation: &Installation,
    workers: &[String],
    deadline: Option<Deadline>,
    check: fn(&JobTable, Occasion) -> Result<()>,
) -> Result<Outcome> {
    let mut found = Outcome::default();
    if workers.is_empty() {
        return Ok(found);
    }
    let mut parts = parts(installation)?;
    parts.retain(|table| match check(table, Occasion::Orphans) {
        Ok(()) => true,
        // Said once a sweep: see `replicated`.
        Err(Error::JobsReplicated { .. }) => false,
        Err(error) => {
            found.add(table, Err(error));
            false
        }
    });
    let (there, here): (Vec<_>, Vec<_>) = parts.into_iter().partition(JobTable::is_foreign);
    // All in one subtransaction, which costs less, and each in its own only when one fails: there is nothing to undo.
    let read = |table: &JobTable| quarantine::at_work(table.watched.oid, || table.running(workers));
    let together = || here.iter().map(read).collect::<Result<Vec<_>>>();
    match until(deadline, together) {
        Ok(all) => here.iter().zip(all).for_each(|(table, jobs)| found.add(table, Ok(jobs))),
        Err(_) => here.iter().for_each(|table| found.add(table, until(deadline, || read(table)))),
    }
    for table in &there {
        let read = || read(table);
        let jobs = match deadline {
            None => scope::subtransaction_within(LIMIT, read),
            Some(deadline) => scope::subtransaction_until(deadline.at_most(LIMIT), read),
        };
        found.add(table, jobs);
    }
    settlers::running(installation, workers, deadline, &mut found)?;
    Ok(found)
}

/// A subtransaction that ends with the deadline, if there is one.
pub(super) fn until<T>(deadline: Option<Deadline>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match deadline {
        None => scope::subtransaction(work),
        Some(deadline) => scope::subtransaction_until(deadline, work),
    }
}

/// Those of these watched tables that are left to another server, each as a problem.
pub fn replicated(watched: &[JobTable]) -> Vec<Problem> {
    let as_problem = |table: &JobTable| {
        let subscription = table.subscription.clone()?;
        let error = Error::JobsReplicated { subscription };
        Some(problem(table, &error).with_hint_of(&error))
    };
    watched.iter().filter_map(as_problem).collect()
}

/// The tables of [`JobTable::parts`], of all watched tables.
pub(super) fn parts(installation: &Installation) -> Result<Vec<JobTable>> {
    let mut parts = Vec::new();
    for table in watched::watched(installation)? {
        parts.append(&mut table.parts()?);
    }
    Ok(parts)
}
