//! The registry of watched tables, `rgrid_job_tables`: what is in it, and how it is changed.
//!
//! `executions` in the extension's schema is watched with RGrid's words without an entry. An entry for it overrides
//! them, or says that it is not watched. Read by whoever settles jobs; changed by the functions in `watch.rs`.

use std::collections::HashSet;

use pgrx::pg_sys;

use super::JobTable;
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{catalog, sql};

/// What becomes of the running jobs of a dead worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDeath {
    /// They are marked as failed.
    Fail,
    /// They go back to the queue, until their attempts are used up.
    Requeue,
}

impl OnDeath {
    /// The word in the registry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Requeue => "requeue",
        }
    }

    /// The policy that a word stands for.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "fail" => Ok(Self::Fail),
            "requeue" => Ok(Self::Requeue),
            _ => Err(Error::UnknownPolicy { word: word.to_owned() }),
        }
    }
}

/// Which columns and values of a table mean what. Names are as in the catalog, not quoted.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The worker that runs the job.
    pub worker_column: String,
    /// The job's status.
    pub status_column: String,
    /// The status of a job that a worker is running.
    pub running_status: String,
    /// The status of a job that was given up with its worker.
    pub dead_status: String,
    /// Where the reason goes.
    pub error_column: Option<String>,
    /// The reason.
    pub error_message: String,
    /// Where the time goes.
    pub finished_column: Option<String>,
    /// What becomes of the jobs.
    pub on_death: OnDeath,
    /// The status of a job that waits for a worker.
    pub queued_status: String,
    /// Attempts that are used up.
    pub attempts_column: Option<String>,
    /// Attempts that a job has.
    pub max_attempts_column: Option<String>,
    /// The same for jobs without such a column, or with NULL in it.
    pub max_attempts: i32,
    /// When the present attempt was started.
    pub started_column: Option<String>,
}

/// RGrid's table of jobs, with the words that its daemon used. The defaults of `rgrid_watch_jobs()` are the same.
impl Default for Watch {
    fn default() -> Self {
        Self {
            worker_column: "worker_id".into(),
            status_column: "status".into(),
            running_status: "running".into(),
            dead_status: "failed".into(),
            error_column: Some("execution_error".into()),
            error_message: "Worker died unexpectedly".into(),
            finished_column: Some("completed_at".into()),
            on_death: OnDeath::Fail,
            queued_status: "queued".into(),
            attempts_column: Some("retry_count".into()),
            max_attempts_column: Some("max_retries".into()),
            max_attempts: 3,
            started_column: None,
        }
    }
}

/// The registry at one moment.
struct Registry {
    /// The tables to settle.
    watched: Vec<JobTable>,
    /// The tables that are not to be settled, though they would be without an entry.
    unwatched: HashSet<pg_sys::Oid>,
    /// Entries of tables that were dropped.
    dropped: Vec<pg_sys::Oid>,
}

/// The tables to settle.
pub fn watched(installation: &Installation) -> Result<Vec<JobTable>> {
    read(installation).map(|registry| registry.watched)
}

/// The watched table with this OID.
///
/// # Errors
///
/// `undefined_object` when it is not watched.
pub fn find(installation: &Installation, relation: pg_sys::Oid) -> Result<JobTable> {
    let found = watched(installation)?.into_iter().find(|table| table.relation.oid == relation);
    found.ok_or_else(|| Error::NotWatched { table: catalog::qualified_name(relation).unwrap_or_default() })
}

/// The tables that were dropped and still have an entry.
pub fn dropped(installation: &Installation) -> Result<Vec<pg_sys::Oid>> {
    read(installation).map(|registry| registry.dropped)
}

/// Removes the entries of tables that were dropped.
pub fn forget_dropped(installation: &Installation) -> Result<()> {
    for relation in read(installation)?.dropped {
        remove(installation, relation)?;
    }
    Ok(())
}

fn read(installation: &Installation) -> Result<Registry> {
    let statement = installation.sql(
        "SELECT j.job_table, j.watched, j.worker_column::text, j.status_column::text, j.running_status, \
                j.dead_status, j.error_column::text, j.error_message, j.finished_column::text, j.on_death, \
                j.queued_status, j.attempts_column::text, j.max_attempts_column::text, j.max_attempts, \
                j.started_column::text \
         FROM @extschema@.rgrid_job_tables j ORDER BY j.job_table",
    );
    let entries: Vec<(pg_sys::Oid, bool, Watch)> = installation.as_owner(|| {
        sql::select(&statement, &[], |row| {
            Ok((row.required(1, "job table")?, row.required(2, "watched")?, watch(&row)?))
        })
    })?;
    let mut registry = Registry { watched: Vec::new(), unwatched: HashSet::new(), dropped: Vec::new() };
    for (oid, is_watched, watch) in entries {
        match JobTable::open(oid, watch) {
            None => registry.dropped.push(oid),
            Some(table) if is_watched => registry.watched.push(table),
            Some(_) => drop(registry.unwatched.insert(oid)),
        }
    }
    let default = default_table(installation).filter(|default| {
        let oid = default.relation.oid;
        !registry.unwatched.contains(&oid) && registry.watched.iter().all(|table| table.relation.oid != oid)
    });
    registry.watched.extend(default);
    Ok(registry)
}

fn watch(row: &sql::Row<'_>) -> Result<Watch> {
    Ok(Watch {
        worker_column: row.required(3, "worker column")?,
        status_column: row.required(4, "status column")?,
        running_status: row.required(5, "running status")?,
        dead_status: row.required(6, "dead status")?,
        error_column: row.optional(7)?,
        error_message: row.required(8, "error message")?,
        finished_column: row.optional(9)?,
        on_death: OnDeath::parse(&row.required::<String>(10, "policy")?)?,
        queued_status: row.required(11, "queued status")?,
        attempts_column: row.optional(12)?,
        max_attempts_column: row.optional(13)?,
        max_attempts: row.required(14, "maximum of attempts")?,
        started_column: row.optional(15)?,
    })
}

/// RGrid's own table of jobs, if there is one.
fn default_table(installation: &Installation) -> Option<JobTable> {
    let relation = catalog::relation_named(installation.schema, "executions")?;
    JobTable::open(relation.oid, Watch::default())
}

/// Enters a table, or changes its entry.
pub fn store(installation: &Installation, relation: pg_sys::Oid, watch: &Watch) -> Result<()> {
    put(installation, relation, watch, true)
}

/// Stops watching a table; whether it was watched.
pub fn stop(installation: &Installation, relation: pg_sys::Oid) -> Result<bool> {
    let table = match find(installation, relation) {
        Ok(table) => table,
        Err(Error::NotWatched { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    if default_table(installation).is_some_and(|default| default.relation.oid == relation) {
        put(installation, relation, &table.watch, false)?;
    } else {
        remove(installation, relation)?;
    }
    Ok(true)
}

fn put(installation: &Installation, relation: pg_sys::Oid, watch: &Watch, watched: bool) -> Result<()> {
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_job_tables AS j \
             (job_table, watched, worker_column, status_column, running_status, dead_status, error_column, \
              error_message, finished_column, on_death, queued_status, attempts_column, max_attempts_column, \
              max_attempts, started_column) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
         ON CONFLICT (job_table) DO UPDATE SET \
             (watched, worker_column, status_column, running_status, dead_status, error_column, error_message, \
              finished_column, on_death, queued_status, attempts_column, max_attempts_column, max_attempts, \
              started_column) = \
             ROW (EXCLUDED.watched, EXCLUDED.worker_column, EXCLUDED.status_column, EXCLUDED.running_status, \
                  EXCLUDED.dead_status, EXCLUDED.error_column, EXCLUDED.error_message, \
                  EXCLUDED.finished_column, EXCLUDED.on_death, EXCLUDED.queued_status, \
                  EXCLUDED.attempts_column, EXCLUDED.max_attempts_column, EXCLUDED.max_attempts, \
                  EXCLUDED.started_column)",
    );
    let arguments = [
        relation.into(),
        watched.into(),
        watch.worker_column.as_str().into(),
        watch.status_column.as_str().into(),
        watch.running_status.as_str().into(),
        watch.dead_status.as_str().into(),
        watch.error_column.as_deref().into(),
        watch.error_message.as_str().into(),
        watch.finished_column.as_deref().into(),
        watch.on_death.as_str().into(),
        watch.queued_status.as_str().into(),
        watch.attempts_column.as_deref().into(),
        watch.max_attempts_column.as_deref().into(),
        watch.max_attempts.into(),
        watch.started_column.as_deref().into(),
    ];
    installation.as_owner(|| sql::execute(&statement, &arguments))?;
    Ok(())
}

fn remove(installation: &Installation, relation: pg_sys::Oid) -> Result<()> {
    let statement = installation.sql(
        "DELETE FROM @extschema@.rgrid_job_tables j \
         WHERE j.job_table OPERATOR(pg_catalog.=) $1::pg_catalog.oid",
    );
    installation.as_owner(|| sql::execute(&statement, &[relation.into()]))?;
    Ok(())
}
