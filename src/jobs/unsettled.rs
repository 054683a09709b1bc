//! Settling what returning workers have left behind: of the jobs that they ran before, those that have not changed
//! since.
//!
//! A job that has changed may have been claimed by the worker's new process.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use pgrx::pg_sys;

use super::pauses::{Occasion, is_paused, may_settle, place, problem};
use super::settle::{Outcome, check_constraints_at_once, note_tried, settle_here, until};
use super::table::{JobTable, TableName};
use super::watched;
use crate::error::Result;
use crate::installation::Installation;
use crate::pg::scope;
use crate::pg::timer::Deadline;
use crate::shmem::problems::Problem;
use crate::shmem::quarantine;
use crate::tables::unsettled::Noted;

/// What became of what was noted.
#[derive(Default)]
pub struct Settlement<'a> {
    /// The jobs that were settled, and what was in the way.
    pub outcome: Outcome,
    /// How many jobs of each were failed, and how many requeued, where there were some.
    pub settled: Vec<(&'a Noted, (i64, i64))>,
    /// What is done with: all that can be settled is.
    pub done: Vec<&'a Noted>,
    /// Of these, those with jobs that have changed and are still running, and the keys of those.
    pub changed: Vec<(&'a Noted, Vec<String>)>,
}

/// Settles what was noted. The notes are in the order of their tables.
pub fn settle<'a>(
    installation: &Installation,
    noted: &'a [Noted],
    now: DateTime<Utc>,
) -> Result<Settlement<'a>> {
    let tables = watched::watched(installation)?;
    let left_out = watched::idle(installation)?.left_out;
    let mut settlement = Settlement::default();
    check_constraints_at_once()?;
    for noted in noted.chunk_by(|one, other| one.table == other.table) {
        let is_meant = |oid: pg_sys::Oid| noted.first().is_some_and(|one| one.table == oid);
        match tables.iter().find(|table| is_meant(table.watched.oid)) {
            Some(table) => settlement.settle_in(table, noted, now)?,
            None if left_out.iter().any(|left| is_meant(left.table.oid)) => {}
            // It is not watched any more.
            None => settlement.done.extend(noted),
        }
    }
    note_tried(installation, &settlement.outcome);
    Ok(settlement)
}

/// The same, which changes nothing: the jobs that would be settled.
pub fn running(installation: &Installation, noted: &[Noted], deadline: Option<Deadline>) -> Result<Outcome> {
    let tables = watched::watched(installation)?;
    let mut outcome = Outcome::default();
    for noted in noted.chunk_by(|one, other| one.table == other.table) {
        let is_meant = |table: &&JobTable| noted.first().is_some_and(|one| one.table == table.watched.oid);
        let Some(table) = tables.iter().find(is_meant) else { continue };
        if let Err(error) = may_settle(table, Occasion::Orphans) {
            outcome.add(table, Err(error));
            continue;
        }
        let parts = parts(table)?;
        for (one, part) in noted.iter().flat_map(|one| parts.iter().map(move |part| (one, part))) {
            let old = part.unchanged_since(&one.snapshot);
            let read = || until(deadline, || old.running(std::slice::from_ref(&one.worker)));
            outcome.add(part, quarantine::at_work(part.watched.oid, read));
        }
    }
    Ok(outcome)
}

/// The parts of a watched table that are on this server.
fn parts(table: &JobTable) -> Result<Vec<JobTable>> {
    Ok(table.parts()?.into_iter().filter(|part| !part.is_elsewhere()).collect())
}

impl<'a> Settlement<'a> {
    fn settle_in(&mut self, table: &JobTable, noted: &'a [Noted], now: DateTime<Utc>) -> Result<()> {
        if let Err(error) = may_settle(table, Occasion::Orphans) {
            self.outcome.problems.push(problem(table, &error));
            return Ok(());
        }
        let parts = parts(table)?;
        let paused: Vec<&JobTable> =
            parts.iter().filter(|part| is_paused(part, Occasion::Orphans, now)).collect();
        if !paused.is_empty() {
            self.outcome.problems.extend(paused.into_iter().map(|part| Problem::standing(place(part))));
            return Ok(());
        }
        let workers: HashSet<&String> = noted.iter().map(|one| &one.worker).collect();
        let workers: Vec<String> = workers.into_iter().cloned().collect();
        let busy = match busy_in(&parts, &workers) {
            Ok(busy) => busy,
            Err(error) => {
                self.outcome.problems.push(problem(table, &error));
                return Ok(());
            }
        };
        let mut locked = 0;
        for one in noted {
            if !busy.contains(&one.worker) {
                self.done.push(one);
                continue;
            }
            let (known, refused) = (self.outcome.problems.len(), self.outcome.refused.len());
            locked += self.settle_one(&parts, one, now);
            // A job that refuses its values is one by itself. Otherwise it would be the same with the other notes, and
            // each might wait for a lock.
            if self.outcome.problems.len() > known && self.outcome.refused.len() == refused {
                return Ok(());
            }
        }
        if locked > 0 {
            let TableName { oid, name } = &table.watched;
            self.outcome.problems.push(Problem::of_locked_jobs(*oid, name, locked));
        }
        Ok(())
    }

    /// Returns how many jobs are left because other sessions have locked them.
    fn settle_one(&mut self, parts: &[JobTable], one: &'a Noted, now: DateTime<Utc>) -> u64 {
        let worker = std::slice::from_ref(&one.worker);
        let keys: HashSet<&String> = one.keys.iter().collect();
        let mut outcome = Outcome::default();
        let (mut left, mut changed) = (0, Vec::new());
        for part in parts {
            let old = part.unchanged_since(&one.snapshot);
            settle_here(&old, worker, now, &mut outcome);
            let look = || scope::subtransaction(|| Ok((old.rows(&one.worker)?, part.rows(&one.worker)?)));
            match quarantine::at_work(part.watched.oid, look) {
                Ok((unchanged, all)) => {
                    left += unchanged.len() as u64;
                    changed
                        .extend(all.into_iter().filter_map(|row| row.key).filter(|key| keys.contains(key)));
                }
                Err(error) => outcome.problems.push(problem(part, &error)),
            }
        }
        if !outcome.settled.is_empty() {
            self.settled.push((one, outcome.totals()));
        }
        if left == 0 && outcome.problems.is_empty() {
            self.done.push(one);
            self.changed.extend(Some((one, changed)).filter(|(_, keys)| !keys.is_empty()));
        }
        self.outcome.settled.append(&mut outcome.settled);
        self.outcome.problems.append(&mut outcome.problems);
        self.outcome.refused.append(&mut outcome.refused);
        left
    }
}

/// Of these workers, those that are running jobs.
fn busy_in(parts: &[JobTable], workers: &[String]) -> Result<HashSet<String>> {
    let mut busy = HashSet::new();
    for part in parts {
        let read = || quarantine::at_work(part.watched.oid, || part.running(workers));
        busy.extend(scope::subtransaction(read)?.into_iter().map(|jobs| jobs.worker));
    }
    Ok(busy)
}
