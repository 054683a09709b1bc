//! The statements that settle jobs, as texts.
//!
//! Identifiers and literals come quoted from the catalog and the registry; ids, message and time are parameters: `$1`
//! the workers, `$2` the message, `$3` the time, and where single rows are meant, `$4` and `$5`. Every operator, type
//! and function has its schema: a plan that PostgreSQL makes anew is made with the `search_path` of the owner's code.
//! The conditions are written so that a partial index on the running jobs serves them.

use pgrx::{pg_sys, spi};

use super::attempts::Attempts;
use super::columns::{ColumnRef, Columns};
use super::new_values::{NewValues, converted};
use super::table::{JobTable, LockPolicy};
use crate::pg::{arrays, row_versions};

/// No stronger than what a plain UPDATE takes: a transaction that has inserted a row which refers to a job stops
/// nothing.
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
    /// What the extension's own counter of attempts has, as a literal.
    counts: Option<String>,
}

impl<'a> Statements<'a> {
    /// For a table; `key` is the column that identifies a job, if there is one.
    pub fn new(table: &'a JobTable, columns: &'a Columns, key: Option<&str>) -> Self {
        let key = key.map(spi::quote_identifier);
        Self { table, columns, key, of_rows: false, lock: NO_KEY_UPDATE, counts: None }
    }

    /// With what the extension's own counter of attempts has.
    #[must_use]
    pub fn with_counts(self, counts: Option<String>) -> Self {
        Self { counts, ..self }
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
        let Columns { worker, worker_holds, status, .. } = self.columns;
        let id_column = worker_holds.id(&worker.column);
        let id = match (id_column.base_type(), id_column.category()) {
            (pg_sys::UUIDOID, _) => "00000000-0000-0000-0000-000000000000",
            (_, pg_sys::TYPCATEGORY_NUMERIC) => "0",
            _ => "rgrid_rehearsal",
        };
        format!(
            "INSERT INTO {} AS j ({}, {}) VALUES ({}, {}) RETURNING {}, {PLACE}, {}",
            self.table.target,
            worker.name,
            status.name,
            worker_holds.made_of(&converted(&spi::quote_literal(id), &id_column), &worker.column),
            converted(&spi::quote_literal(&self.table.mapping.running_status), &status.column),
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

    /// The workers of the running jobs, each once.
    pub fn workers(&self) -> String {
        let (worker, target, jobs) = (self.worker_among(), self.target(), self.running_jobs());
        format!("SELECT DISTINCT {worker} FROM {target} WHERE {jobs}")
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
    /// rows are changed. Rows that are elsewhere have none: they are waited for, and where jobs are requeued, the
    /// worker that is returned is the first of `$1`.
    pub fn settle(&self, locked: LockPolicy) -> String {
        let (target, jobs) = (self.target(), self.running_jobs());
        let assignments = NewValues::of(self.table, self.columns, self.counts.as_deref()).list();
        let key = self.returned_key();
        let (is_elsewhere, requeued) = (self.table.is_elsewhere(), self.is_requeued());
        if is_elsewhere || (!locked.skips() && self.columns.requeue.is_none()) {
            let worker = match self.columns.clears_worker() {
                true => "($1)[1]".into(),
                false => self.worker_among(),
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
        format!("{}::pg_catalog.text", self.columns.worker_id("j."))
    }

    /// The one of the workers, `$1`, that a job has: their ids may be spelled in another way than the job's.
    fn worker_among(&self) -> String {
        match &self.columns.worker_values {
            None => self.worker(),
            Some(values) => {
                let (all, one) = (values.all("$1"), values.of(&self.columns.worker_id("j.")));
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
        let mapping = &self.table.mapping;
        if mapping.also_running.is_empty() {
            return self.has_status(&mapping.running_status);
        }
        let statuses = spi::quote_literal(arrays::literal(mapping.running_statuses()));
        format!("{} OPERATOR(pg_catalog.=) ANY ({statuses})", self.status())
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
        let Columns { worker, worker_holds, worker_values, .. } = self.columns;
        let (id, column) = (self.columns.worker_id("j."), worker_holds.id(&worker.column));
        if let Some(values) = worker_values {
            return format!("{} {} ANY ({})", values.of(&id), values.equals, values.all("$1"));
        }
        let worker = match column.base_type() {
            pg_sys::TEXTOID | pg_sys::VARCHAROID => id,
            _ => format!("{id}::pg_catalog.text"),
        };
        // Ids differ if their bytes do. The comparison by the column's own collation is for its index.
        let bytes = match column.is_nondeterministic() {
            true => format!(" AND {worker} COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) ANY ($1)"),
            false => String::new(),
        };
        format!("{worker} OPERATOR(pg_catalog.=) ANY ($1){bytes}")
    }

    /// The condition for a job of a status.
    fn has_status(&self, status: &str) -> String {
        format!("{} OPERATOR(pg_catalog.=) {}", self.status(), spi::quote_literal(status))
    }

    /// The status of a job. A domain has no operators of its own: its base has them.
    fn status(&self) -> String {
        let ColumnRef { name, column, .. } = &self.columns.status;
        match column.base() {
            Some(base) => format!("j.{name}::{}", base.type_name()),
            None => format!("j.{name}"),
        }
    }

    /// The condition for a job that is requeued: it has attempts left. `None` where jobs are failed.
    fn has_attempts_left(&self) -> Option<String> {
        let requeue = self.columns.requeue.as_ref()?;
        Some(Attempts::of(self.table, requeue, self.counts.as_deref()).are_left)
    }

    fn is_requeued(&self) -> String {
        match self.columns.requeue {
            Some(_) => self.has_status(&self.table.mapping.queued_status),
            None => "false".into(),
        }
    }
}
