//! The part of the checker that looks at jobs, whoever ran them.

use super::{Checker, Rule, What};
use std::collections::{BTreeSet, HashMap};

impl Checker<'_> {
    pub fn nothing_of_the_dead_runs(&mut self) {
        let open = self.history.deaths.iter().filter(|death| death.returned_at.is_none());
        let mut dead: BTreeSet<&str> = open.map(|death| death.worker.as_str()).collect();
        dead.extend(self.history.left_dead.iter().map(String::as_str));
        for job in self.history.jobs.iter().filter(|job| job.status == "running") {
            if dead.contains(job.worker.as_str()) {
                let text = format!("job {} still runs", job.id);
                self.accuse(Rule::DeadAreSettled, &job.worker, self.history.read_at, text);
            }
        }
    }

    /// One that left in time has no row, and is not dead.
    pub fn those_left_dead_are_in_the_ledger(&mut self) {
        for worker in &self.history.left_dead {
            let has_row = self.history.rows.iter().any(|row| row.worker == *worker);
            let mut open = self.history.deaths.iter().filter(|death| death.returned_at.is_none());
            if has_row && !open.any(|death| death.worker == *worker) {
                let text = "it is dead, and the ledger does not know".into();
                self.accuse(Rule::DeadAreSettled, worker, self.history.read_at, text);
            }
        }
    }

    /// Queued, running, and then one end.
    pub fn jobs_are_finished_once(&mut self) {
        let mut status: HashMap<i64, &str> = HashMap::new();
        for change in &self.history.changes {
            let before = status.insert(change.job, &change.new).unwrap_or("queued");
            let is_allowed = matches!(
                (change.old.as_str(), change.new.as_str()),
                ("queued", "running") | ("running", "completed" | "failed")
            );
            if before != change.old || !is_allowed {
                let text = format!("job {}: {} to {}, after {before}", change.job, change.old, change.new);
                self.accuse(Rule::FinishedOnce, &change.worker, change.at, text);
            }
        }
        for job in &self.history.jobs {
            let last = status.get(&job.id).copied().unwrap_or("queued");
            if last != job.status {
                let text = format!("job {} is {}, and was last made {last}", job.id, job.status);
                self.accuse(Rule::FinishedOnce, &job.worker, self.history.read_at, text);
            }
        }
    }

    pub fn acknowledged_results_stay(&mut self) {
        let status: HashMap<i64, &str> =
            self.history.jobs.iter().map(|job| (job.id, job.status.as_str())).collect();
        let mut finished: BTreeSet<i64> = BTreeSet::new();
        for call in &self.history.calls {
            let What::Finished { job } = call.what else { continue };
            if status.get(&job) != Some(&"completed") {
                let text = format!("the result of job {job} was taken, and it is {:?}", status.get(&job));
                self.accuse(Rule::FinishedOnce, &call.worker, call.end, text);
            }
            if !finished.insert(job) {
                let text = format!("the result of job {job} was taken twice");
                self.accuse(Rule::FinishedOnce, &call.worker, call.end, text);
            }
        }
    }
}
