//! What a sweep has done, and what it has left.

use std::collections::BTreeMap;

use crate::settle::{Problem, Settlement};
use crate::workers::Worker;

/// One row of `rgrid_sweep()`.
pub struct Line {
    pub worker: Worker,
    pub job_table: Option<String>,
    pub failed: i64,
    pub requeued: i64,
}

/// What a sweep did, or would do.
#[derive(Default)]
pub struct Report {
    /// One line for each dead worker and table, or for a worker that ran nothing.
    pub lines: Vec<Line>,
    /// Tables that failed.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Adds problems, each table's once.
    pub fn add_problems(&mut self, problems: Vec<Problem>) {
        for problem in problems {
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
    }

    /// Adds what was settled of these workers' jobs; those that ran nothing have a line of their own only if they are
    /// dead since just now.
    pub fn add(&mut self, workers: Vec<Worker>, mut settlement: Settlement, newly_dead: bool) {
        self.add_problems(std::mem::take(&mut settlement.problems));
        for worker in workers {
            let jobs = settlement.by_worker.remove(&worker.id).unwrap_or_default();
            if jobs.is_empty() && newly_dead {
                self.lines.push(Line { worker: worker.clone(), job_table: None, failed: 0, requeued: 0 });
            }
            self.lines.extend(jobs.into_iter().map(|(table, jobs)| Line {
                worker: worker.clone(),
                job_table: Some(table),
                failed: jobs.failed,
                requeued: jobs.requeued,
            }));
        }
    }
}

/// Running jobs of workers that are in the ledger as dead.
#[derive(Default)]
pub struct Leftovers {
    /// The workers.
    pub workers: Vec<String>,
    /// How many jobs of theirs each table has that were not settled yet.
    pub jobs: BTreeMap<String, i64>,
    /// Tables that could not be asked.
    pub problems: Vec<Problem>,
}

impl Leftovers {
    /// Takes off what was settled.
    pub fn take_off(&mut self, report: &Report) {
        for line in &report.lines {
            let left = line.job_table.as_ref().and_then(|table| self.jobs.get_mut(table));
            if let Some(left) = left {
                *left -= line.failed + line.requeued;
            }
        }
    }

    /// Jobs that are still there although their tables did not fail: other sessions have locked them.
    pub fn locked(&self, failed: &[Problem]) -> (u64, Vec<Problem>) {
        let locked = self.jobs.iter().filter(|(_, left)| **left > 0);
        let locked: Vec<_> =
            locked.filter(|(table, _)| failed.iter().all(|p| !p.is_of_jobs(table))).collect();
        let count = locked.iter().filter_map(|(_, left)| u64::try_from(**left).ok()).sum();
        (count, locked.into_iter().map(|(table, left)| Problem::of_locked_jobs(table, *left)).collect())
    }
}
