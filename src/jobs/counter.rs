//! Jobs of a table as they come, added up for each worker.

use std::collections::HashMap;

use super::table::{SettledJobs, TableName};

/// Keys that are kept of a worker's jobs: more do not fit in a notification, where each takes at least four bytes.
pub(super) const MOST_KEYS: usize = 2_000;

/// Counts the jobs of a table for each worker, as they are read.
pub struct JobCounter<'a> {
    table: &'a TableName,
    by_worker: HashMap<String, SettledJobs>,
}

impl<'a> JobCounter<'a> {
    /// No jobs yet.
    pub fn of(table: &'a TableName) -> Self {
        Self { table, by_worker: HashMap::new() }
    }

    /// Counts a job: its worker, whether it is requeued, and its key.
    pub fn add(&mut self, worker: &str, requeued: bool, key: Option<&str>) {
        let new = || SettledJobs {
            worker: worker.to_owned(),
            table: self.table.clone(),
            failed: 0,
            requeued: 0,
            keys: Vec::new(),
        };
        let settled = match self.by_worker.get_mut(worker) {
            Some(settled) => settled,
            None => self.by_worker.entry(worker.to_owned()).or_insert_with(new),
        };
        settled.failed += i64::from(!requeued);
        settled.requeued += i64::from(requeued);
        if settled.keys.len() < MOST_KEYS {
            settled.keys.extend(key.map(str::to_owned));
        }
    }

    /// The jobs of each worker.
    pub fn settled(self) -> Vec<SettledJobs> {
        self.by_worker.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use pgrx::pg_sys;

    use super::*;

    fn table() -> TableName {
        TableName { name: "public.jobs".into(), oid: pg_sys::Oid::from(1) }
    }

    #[test]
    fn jobs_are_counted_by_worker_and_outcome_with_their_keys() {
        let table = table();
        let mut jobs = JobCounter::of(&table);
        for (worker, requeued, key) in [("b", false, "1"), ("a", true, "2"), ("b", true, "3")] {
            jobs.add(worker, requeued, Some(key));
        }
        jobs.add("b", false, None);
        let b = &jobs.by_worker["b"];
        assert_eq!((b.failed, b.requeued, b.keys.join(" ").as_str()), (2, 1, "1 3"));
        assert_eq!((jobs.by_worker["a"].failed, jobs.by_worker["a"].requeued), (0, 1));
    }

    #[test]
    fn more_jobs_than_keys_fit_are_counted_all_the_same() {
        let table = table();
        let mut jobs = JobCounter::of(&table);
        (0..MOST_KEYS + 500).for_each(|key| jobs.add("a", false, Some(&key.to_string())));
        assert_eq!((jobs.by_worker["a"].failed, jobs.by_worker["a"].keys.len()), (2_500, MOST_KEYS));
    }
}
