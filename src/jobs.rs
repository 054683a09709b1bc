//! The watched tables of jobs: which they are, and settling the running jobs of workers that are gone.
//!
//! A table is read and updated with its owner's rights. Everything is checked at each use: the owner may have
//! altered the table since it was watched.

use chrono::{DateTime, Utc};
use pgrx::{PgSqlErrorCode, pg_sys, spi};

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{self, catalog, scope, sql};

/// What to do about job rows that another session has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    /// Fail at once. Nearly always nobody has locked any, and this is the cheapest way to find out.
    Refuse,
    /// Leave them for the next sweep.
    Skip,
    /// Wait, for a second at most, and fail.
    Wait,
}

/// A watched table, as its row in `rgrid_job_tables` has it.
#[derive(Clone, Debug)]
pub struct JobTable {
    /// The qualified name, quoted where SQL needs it.
    pub name: String,
    /// What it is and whose.
    pub relation: catalog::Relation,
    worker_column: String,
    /// Column with the job's status.
    pub status_column: String,
    /// Status of a job that a worker is running.
    pub running_status: String,
    /// Status that a job gets when its worker died.
    pub dead_status: String,
    /// Column for the error message; `None` for none.
    pub error_column: Option<String>,
    /// What is written there.
    pub error_message: String,
    finished_column: Option<String>,
}

/// Jobs of one worker that were settled in one table.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The worker that ran them.
    pub worker: String,
    /// Marked as failed.
    pub failed: i64,
    /// Given back to the queue.
    pub requeued: i64,
}

/// The tables to settle: the registry's, and `executions` in the extension's schema, which needs no entry.
pub fn watched(installation: &Installation) -> Result<Vec<JobTable>> {
    let statement = installation.sql(
        "SELECT j.job_table, j.worker_column::text, j.status_column::text, j.running_status, j.dead_status, \
                j.error_column::text, j.error_message, j.finished_column::text \
         FROM @extschema@.rgrid_job_tables j ORDER BY j.job_table",
    );
    let entries = installation.as_owner(|| {
        sql::select(&statement, &[], |row| {
            let oid: pg_sys::Oid = row.required(1, "job table")?;
            let Some((relation, name)) = catalog::relation(oid).zip(catalog::qualified_name(oid)) else {
                return Ok(None);
            };
            Ok(Some(JobTable {
                name,
                relation,
                worker_column: row.required(2, "worker column")?,
                status_column: row.required(3, "status column")?,
                running_status: row.required(4, "running status")?,
                dead_status: row.required(5, "dead status")?,
                error_column: row.optional(6)?,
                error_message: row.required(7, "error message")?,
                finished_column: row.optional(8)?,
            }))
        })
    })?;
    let mut tables: Vec<JobTable> = entries.into_iter().flatten().collect();
    let default = default_table(installation);
    tables.extend(default.filter(|default| tables.iter().all(|t| t.relation.oid != default.relation.oid)));
    Ok(tables)
}

/// RGrid's own table of jobs, with the words that RGrid's daemon used.
fn default_table(installation: &Installation) -> Option<JobTable> {
    let relation = catalog::relation_named(installation.schema, "executions")?;
    Some(JobTable {
        name: catalog::qualified_name(relation.oid)?,
        relation,
        worker_column: "worker_id".into(),
        status_column: "status".into(),
        running_status: "running".into(),
        dead_status: "failed".into(),
        error_column: Some("execution_error".into()),
        error_message: "Worker died unexpectedly".into(),
        finished_column: Some("completed_at".into()),
    })
}

impl JobTable {
    /// Settles the running jobs of these workers, who must be out of the game: declared dead, or gone.
    ///
    /// # Errors
    ///
    /// When the table lacks a column, when its owner may not update it, when one of its triggers refuses, or
    /// when a lock is not to be had. The caller wraps this in a subtransaction.
    pub fn settle(&self, workers: &[String], now: DateTime<Utc>, locked: Locked) -> Result<Vec<Settled>> {
        let statement = self.settling_statement(locked)?;
        if locked == Locked::Wait {
            self.lock(workers)?;
        }
        let arguments =
            [workers.to_vec().into(), self.error_message.as_str().into(), pg::timestamptz(now).into()];
        let timeout = if locked == Locked::Refuse { c"50ms" } else { c"1s" };
        scope::as_role_waiting(self.relation.owner, &[self.relation.oid], timeout, || {
            sql::update(&statement, &arguments, |row| {
                Ok(Settled {
                    worker: row.required(1, "worker")?,
                    failed: row.required(2, "count")?,
                    requeued: 0,
                })
            })
        })
    }

    /// Locks the running jobs of these workers, waiting for whoever has them. A statement of its own: what a
    /// job has become in the meantime, only a later statement sees.
    fn lock(&self, workers: &[String]) -> Result<()> {
        let Self { name: table, .. } = self;
        let (worker, running) = (spi::quote_identifier(&self.worker_column), self.is_running());
        let statement = format!("SELECT FROM {table} j WHERE j.{worker} = ANY ($1) AND {running} FOR UPDATE");
        self.as_owner(|| sql::execute(&statement, &[workers.to_vec().into()]))?;
        Ok(())
    }

    /// How many jobs each of these workers is running; workers that run none are left out.
    pub fn running(&self, workers: &[String]) -> Result<Vec<Settled>> {
        self.check()?;
        let Self { name: table, .. } = self;
        let (worker, running) = (spi::quote_identifier(&self.worker_column), self.is_running());
        let statement = format!(
            "SELECT j.{worker}::text, pg_catalog.count(*) FROM {table} j \
             WHERE j.{worker} = ANY ($1) AND {running} GROUP BY 1"
        );
        self.as_owner(|| {
            sql::select(&statement, &[workers.to_vec().into()], |row| {
                Ok(Settled {
                    worker: row.required(1, "worker")?,
                    failed: row.required(2, "count")?,
                    requeued: 0,
                })
            })
        })
    }

    /// One statement that marks the running jobs and counts them for each worker. To skip locked rows it must lock
    /// the others first; the two parts are joined by row identity, not by key, so that the rows that are changed
    /// are exactly those that were locked.
    fn settling_statement(&self, locked: Locked) -> Result<String> {
        let assignments = self.assignments()?;
        let Self { name: table, .. } = self;
        let (worker, running) = (spi::quote_identifier(&self.worker_column), self.is_running());
        let jobs = format!("j.{worker} = ANY ($1) AND {running}");
        let (first, condition) = match locked {
            Locked::Refuse | Locked::Wait => (String::new(), jobs),
            Locked::Skip => (
                format!(
                    "unlocked AS MATERIALIZED (SELECT j.tableoid AS t, j.ctid AS c FROM {table} j \
                     WHERE {jobs} FOR UPDATE SKIP LOCKED), "
                ),
                "(j.tableoid, j.ctid) IN (SELECT u.t, u.c FROM unlocked u)".to_owned(),
            ),
        };
        Ok(format!(
            "WITH {first}settled AS ( \
                 UPDATE {table} j SET {assignments} \
                 WHERE {condition} AND $2::text IS NOT NULL AND $3::timestamptz IS NOT NULL \
                 RETURNING j.{worker}::text AS worker) \
             SELECT worker, pg_catalog.count(*) FROM settled GROUP BY worker",
        ))
    }

    /// What becomes of a job; `$2` is the error message, `$3` the time.
    fn assignments(&self) -> Result<String> {
        let finished = self.check()?;
        let status = spi::quote_identifier(&self.status_column);
        let mut assignments = format!("{status} = {}", spi::quote_literal(&self.dead_status));
        if let Some(column) = &self.error_column {
            assignments += &format!(", {} = $2", spi::quote_identifier(column));
        }
        if let Some((column, expression)) = self.finished_column.as_ref().zip(finished) {
            assignments += &format!(", {} = {expression}", spi::quote_identifier(column));
        }
        Ok(assignments)
    }

    /// The condition for a job `j` that is running; the shape that a partial index on it has.
    fn is_running(&self) -> String {
        let status = spi::quote_identifier(&self.status_column);
        format!("j.{status} = {}", spi::quote_literal(&self.running_status))
    }

    /// Checks that the table has what settling needs. Returns the expression for the finish time.
    fn check(&self) -> Result<Option<&'static str>> {
        let table = || self.name.clone();
        if ![pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE].contains(&self.relation.kind) {
            return Err(Error::NotATable { table: table() });
        }
        let type_of = |column: &str| {
            catalog::column(self.relation.oid, column)
                .map(|found| found.type_oid)
                .ok_or_else(|| Error::UndefinedColumn { table: table(), column: column.to_owned() })
        };
        let texts = [Some(&self.worker_column), Some(&self.status_column), self.error_column.as_ref()];
        for column in texts.into_iter().flatten() {
            if ![pg_sys::TEXTOID, pg_sys::VARCHAROID].contains(&type_of(column)?) {
                return Err(Error::ColumnType {
                    table: table(),
                    column: column.clone(),
                    wanted: "text or character varying",
                });
            }
        }
        let Some(column) = &self.finished_column else { return Ok(None) };
        match type_of(column)? {
            pg_sys::TIMESTAMPTZOID => Ok(Some("$3")),
            pg_sys::TIMESTAMPOID => Ok(Some("($3 AT TIME ZONE 'UTC')")),
            _ => Err(Error::ColumnType {
                table: table(),
                column: column.clone(),
                wanted: "timestamp with or without time zone",
            }),
        }
    }

    /// Runs `work` as the table's owner; a lock that is not to be had for a second is an error.
    fn as_owner<T>(&self, work: impl FnOnce() -> T) -> T {
        scope::as_role_waiting(self.relation.owner, &[self.relation.oid], c"1s", work)
    }
}

/// Whether an error says that rows or the table are locked by others.
pub fn is_locked(error: &Error) -> bool {
    matches!(error, Error::Caught(caught) if caught.code == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE)
}
