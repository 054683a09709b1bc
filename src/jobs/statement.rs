//! The statements that settle jobs, as texts.
//!
//! Identifiers and literals come quoted from the catalog and the registry; ids, message and time are parameters:
//! `$1` the workers, `$2` the message, `$3` the time, and where single rows are meant, `$4` and `$5`. Every operator, type
//! and function has its schema: a plan that PostgreSQL makes anew is made with the `search_path` of the owner's code. The
//! conditions are written so that a partial index on the running jobs serves them.

use pgrx::{pg_sys, spi};

use super::columns::{ColumnRef, Columns, Requeue};
use super::table::{JobTable, LockPolicy};
use crate::pg::catalog::Column;
use crate::pg::row_versions;

/// No stronger than what a plain UPDATE takes: a transaction that has inserted a row which refers to a job stops nothing.
const NO_KEY_UPDATE: &str = "NO KEY UPDATE";

/// The table and the place of a row, as text.
const PLACE: &str = "j.tableoid::pg_catalog.text, j.ctid::pg_catalog.text";

/// The statements of one table.
pub struct Statements<'a> {
    table: &'a JobTable,
    columns: &'a Columns,
    key: Option<String>,
    /// Whether only some rows are changed: `$4` their tables and `$5` their places.
    of_rows: bool,
    /// How rows are locked before they are changed.
    lock: &'static str,
}

impl<'a> Statements<'a> {
    /// For a table; `key` is the column that identifies a job, if there is one.
    pub fn new(table: &'a JobTable, columns: &'a Columns, key: Option<&str>) -> Self {
        Self { table, columns, key: key.map(spi::quote_identifier), of_rows: false, lock: NO_KEY_UPDATE }
    }

    /// For a table in which a column of a key is changed. The UPDATE takes the stronger lock then, too.
    #[must_use]
    pub fn changing_a_key(self, changes_key: bool) -> Self {
        Self { lock: if changes_key { "UPDATE" } else { NO_KEY_UPDATE }, ..self }
    }

    /// Whether they are for some rows of the table.
    pub fn are_of_rows(&self) -> bool {
        self.of_rows
    }

    /// For some rows of the table.
    #[must_use]
    pub fn of_rows(self) -> Self {
        Self { of_rows: true, ..self }
    }

    /// The running jobs as rows: the table and the place of each, and its key.
    pub fn rows(&self) -> String {
        let (key, target, jobs) = (self.returned_key(), self.target(), self.running_jobs());
        format!("SELECT {PLACE}, {key} FROM {target} WHERE {jobs}")
    }

    /// One running job that has a worker: that, and what [`Self::rows`] reads.
    pub fn some_job(&self) -> String {
        let (worker, key, target, running) =
            (self.worker(), self.returned_key(), self.target(), self.is_running());
        format!(
            "SELECT {worker}, {PLACE}, {key} FROM {target} WHERE {running} AND {worker} IS NOT NULL LIMIT 1"
        )
    }

    /// Adds a running job that has nothing but a worker, and returns what [`Self::some_job`] does.
    pub fn make_up(&self) -> String {
        let Columns { worker, status, .. } = self.columns;
        let id = match (worker.column.base_type(), worker.column.category()) {
            (pg_sys::UUIDOID, _) => "00000000-0000-0000-0000-000000000000",
            (_, pg_sys::TYPCATEGORY_NUMERIC) => "0",
            _ => "rgrid_rehearsal",
        };
        format!(
            "INSERT INTO {} AS j ({}, {}) VALUES ({}, {}) RETURNING {}, {PLACE}, {}",
            self.table.target,
            worker.name,
            status.name,
            converted(&spi::quote_literal(id), &worker.column),
            self.status(&self.table.mapping.running_status),
            self.worker(),
            self.returned_key()
        )
    }

    fn returned_key(&self) -> String {
        self.key.as_ref().map_or("NULL::pg_catalog.text".into(), |key| format!("j.{key}::pg_catalog.text"))
    }

    /// The running jobs: the worker of each, and whether the job would be requeued.
    pub fn running(&self) -> String {
        let requeues = self.has_attempts_left().unwrap_or_else(|| "false".into());
        let (worker, target, jobs) = (self.worker_among(), self.target(), self.running_jobs());
        format!("SELECT {worker}, {requeues} FROM {target} WHERE {jobs}")
    }

    /// Locks the running jobs that are free, and returns a row for each.
    pub fn lock_free(&self) -> String {
        format!(
            "SELECT 1 FROM {} WHERE {} FOR {} OF j SKIP LOCKED",
            self.target(),
            self.running_jobs(),
            self.lock
        )
    }

    /// How many running jobs of the workers there are, whichever rows are meant.
    pub fn count(&self) -> String {
        let all = Self::new(self.table, self.columns, None);
        format!("SELECT pg_catalog.count(*) FROM {} WHERE {}", self.target(), all.running_jobs())
    }

    /// Locks the running jobs. Waits for sessions that have locked some.
    pub fn lock(&self) -> String {
        format!("SELECT FROM {} WHERE {} FOR {}", self.target(), self.running_jobs(), self.lock)
    }

    /// Settles the running jobs and returns for each its worker, whether it was requeued, and its key.
    ///
    /// A row has to be locked before it is changed in two cases: to skip rows that other sessions have locked, and to
    /// read the worker before it is cleared. Then the two steps are joined by row identity, so that exactly the locked
    /// rows are changed. Rows that are elsewhere have none: they are waited for, and where jobs are requeued, the worker that
    /// is returned is the first of `$1`.
    pub fn settle(&self, locked: LockPolicy) -> String {
        let (target, jobs, assignments) = (self.target(), self.running_jobs(), self.assignments());
        let key = self.returned_key();
        let (is_elsewhere, requeued) = (self.table.is_elsewhere(), self.is_requeued());
        if is_elsewhere || (!locked.skips() && self.columns.requeue.is_none()) {
            let worker = match self.columns.requeue {
                Some(_) => "($1)[1]".into(),
                None => self.worker_among(),
            };
            return format!(
                "UPDATE {target} SET {assignments} WHERE {jobs} RETURNING {worker}, {requeued}, {key}"
            );
        }
        let skip = if locked.skips() { " SKIP LOCKED" } else { "" };
        format!(
            "WITH mine AS MATERIALIZED (SELECT j.tableoid AS t, j.ctid AS c, {worker} AS worker \
                 FROM {target} WHERE {jobs} FOR {lock} OF j{skip}) \
             UPDATE {target} SET {assignments} FROM mine \
             WHERE j.ctid OPERATOR(pg_catalog.=) mine.c AND j.tableoid OPERATOR(pg_catalog.=) mine.t \
             RETURNING mine.worker, {requeued}, {key}",
            lock = self.lock,
            worker = self.worker_among(),
        )
    }

    /// The table, as `j`.
    pub fn target(&self) -> String {
        let only = if self.table.only { "ONLY " } else { "" };
        format!("{only}{} j", self.table.target)
    }

    /// The worker of a job, as text.
    pub fn worker(&self) -> String {
        format!("j.{}::pg_catalog.text", self.columns.worker.name)
    }

    /// The one of the workers, `$1`, that a job has: their ids may be spelled in another way than the job's.
    fn worker_among(&self) -> String {
        match &self.columns.worker_values {
            None => self.worker(),
            Some(values) => {
                let (all, one) = (values.all("$1"), values.of_column(&self.columns.worker.name));
                format!("($1)[pg_catalog.array_position({all}, {one})]")
            }
        }
    }

    /// A statement or condition with workers in the place of `$1`, for the planner: it need not be run.
    pub fn with_some_workers(&self, text: &str) -> String {
        // No value that every type has is known but NULL.
        let some = if self.columns.worker_values.is_some() { "{NULL,NULL}" } else { "{a,b}" };
        text.replace("$1", &format!("'{some}'"))
    }

    /// The condition for a job that is running; the shape that a partial index on it has.
    pub fn is_running(&self) -> String {
        self.has_status(&self.table.mapping.running_status)
    }

    /// The condition for a job of one of the workers, `$1`, that is running.
    pub fn running_jobs(&self) -> String {
        let rows = match self.of_rows {
            true => {
                " AND (j.tableoid, j.ctid) OPERATOR(pg_catalog.=) ANY ( \
                     SELECT r.t::pg_catalog.oid, r.c::pg_catalog.tid \
                     FROM ROWS FROM (pg_catalog.unnest($4::pg_catalog.text[]), \
                                     pg_catalog.unnest($5::pg_catalog.text[])) AS r (t, c))"
            }
            false => "",
        };
        let unchanged = match &self.table.unchanged_since {
            Some(snapshot) => format!(" AND {}", row_versions::is_of_then("j", snapshot)),
            None => String::new(),
        };
        format!("{} AND {}{rows}{unchanged}", self.is_of_workers(), self.is_running())
    }

    /// The condition for a job of one of the workers, `$1`.
    fn is_of_workers(&self) -> String {
        let Columns { worker: ColumnRef { name, column }, worker_values, .. } = self.columns;
        if let Some(values) = worker_values {
            return format!("{} {} ANY ({})", values.of_column(name), values.equals, values.all("$1"));
        }
        let worker = match column.base_type() {
            pg_sys::TEXTOID | pg_sys::VARCHAROID => format!("j.{name}"),
            _ => format!("j.{name}::pg_catalog.text"),
        };
        // Ids differ if their bytes do. The comparison by the column's own collation is for its index.
        let bytes = match column.is_nondeterministic() {
            true => format!(" AND {worker} COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) ANY ($1)"),
            false => String::new(),
        };
        format!("{worker} OPERATOR(pg_catalog.=) ANY ($1){bytes}")
    }

    /// The condition for a job of a status. A domain has no operators of its own: its base has them.
    fn has_status(&self, status: &str) -> String {
        let ColumnRef { name, column } = &self.columns.status;
        let literal = spi::quote_literal(status);
        match column.base() {
            Some(base) => format!("j.{name}::{} OPERATOR(pg_catalog.=) {literal}", base.type_name()),
            None => format!("j.{name} OPERATOR(pg_catalog.=) {literal}"),
        }
    }

    /// The condition for a job that is requeued: it has attempts left. `None` where jobs are failed.
    fn has_attempts_left(&self) -> Option<String> {
        let requeue = self.columns.requeue.as_ref()?;
        Some(format!("({} OPERATOR(pg_catalog.<) {})", used(requeue), self.maximum(requeue)))
    }

    fn maximum(&self, requeue: &Requeue) -> String {
        let otherwise = self.table.mapping.max_attempts;
        requeue
            .max_attempts
            .as_ref()
            .map_or(otherwise.to_string(), |column| format!("coalesce(j.{}, {otherwise})", column.name))
    }

    fn status(&self, status: &str) -> String {
        converted(&spi::quote_literal(status), &self.columns.status.column)
    }

    fn is_requeued(&self) -> String {
        match self.columns.requeue {
            Some(_) => self.has_status(&self.table.mapping.queued_status),
            None => "false".into(),
        }
    }

    /// The new values of a job's columns.
    fn assignments(&self) -> String {
        let mapping = &self.table.mapping;
        let dead = self.status(&mapping.dead_status);
        let message = "$2".to_owned();
        let assignments = match self.columns.requeue.as_ref().zip(self.has_attempts_left()) {
            None => self.outcome(dead, message, |time| time),
            Some((requeue, requeues)) => {
                let queued = self.status(&mapping.queued_status);
                let either = |requeued: &str, failed: &str| {
                    format!("CASE WHEN {requeues} THEN {requeued} ELSE {failed} END")
                };
                let (used, maximum) = (used(requeue), self.maximum(requeue));
                let counted = either(&format!("{used} OPERATOR(pg_catalog.+) 1"), &used);
                // Immutable, so that who has the rows elsewhere can be told all of it.
                let parts = [
                    "$2",
                    "' (attempts used: '",
                    &format!("({counted})::pg_catalog.text"),
                    "' of '",
                    &format!("({maximum})::pg_catalog.text"),
                    "')'",
                ];
                let message = parts.join(" OPERATOR(pg_catalog.||) ");
                let mut assignments =
                    self.outcome(either(&queued, &dead), message, |time| either("NULL", &time));
                assignments.push((&requeue.attempts, counted));
                let cleared = [Some(&self.columns.worker), requeue.started.as_ref()];
                assignments.extend(cleared.into_iter().flatten().map(|column| {
                    let kept = format!("j.{}", column.name);
                    (column, either("NULL", &kept))
                }));
                assignments
            }
        };
        let assignments: Vec<String> =
            assignments.into_iter().map(|(column, value)| format!("{} = {value}", column.name)).collect();
        assignments.join(", ")
    }

    /// Status, error and finish time. A message that is too long for the column is cut.
    fn outcome(
        &self,
        status: String,
        message: String,
        time: impl Fn(String) -> String,
    ) -> Vec<(&'a ColumnRef, String)> {
        let Columns { status: column, error, finished, .. } = self.columns;
        let mut assignments = vec![(column, status)];
        assignments.extend(error.as_ref().map(|known| (known, converted(&message, &known.column))));
        assignments.extend(finished.as_ref().map(|known| (known, time(finish_time(known).to_owned()))));
        assignments
    }
}

/// Attempts that a job has used up.
fn used(requeue: &Requeue) -> String {
    format!("coalesce(j.{}, 0)", requeue.attempts.name)
}

/// Times without a zone are UTC, as RGrid writes them.
fn finish_time(finished: &ColumnRef) -> &'static str {
    match finished.column.base_type() {
        pg_sys::TIMESTAMPTZOID => "$3",
        pg_sys::DATEOID => "($3 AT TIME ZONE 'UTC')::pg_catalog.date",
        _ => "($3 AT TIME ZONE 'UTC')",
    }
}

/// A literal or parameter as a value of a column's type. A literal is typed as text first. Otherwise the type's input
/// function would read it while the type's name is looked up, before it is known which type the name means.
pub fn converted(text: &str, column: &Column) -> String {
    format!("CAST(({text})::pg_catalog.text AS {})", column.type_name())
}
