//! The registry of watched tables, `rgrid_job_tables`: its rows, and how they are changed. What they mean is decided in
//! `jobs/entries.rs` and `jobs/watched.rs`.

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{arrays, roles, sql};

/// What becomes of the running jobs of a dead worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDeath {
    /// They are marked as failed.
    Fail,
    /// They go back to the queue until their attempts are used up, and then fail.
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
pub struct JobMapping {
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
    /// Counts the attempts that a job has used up.
    pub attempts_column: Option<String>,
    /// The attempts that a job may use up.
    pub max_attempts_column: Option<String>,
    /// The same where there is no such column, or it is NULL.
    pub max_attempts: i32,
    /// When the current attempt was started.
    pub started_column: Option<String>,
    /// Whether notifications have the primary keys of the jobs.
    pub notify_keys: bool,
}

/// RGrid's table of jobs, with the column names and values that its daemon used. The defaults of `rgrid_watch_jobs()`
/// are the same.
impl Default for JobMapping {
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
            notify_keys: false,
        }
    }
}

impl JobMapping {
    /// The columns that settling a job writes.
    pub fn written_columns(&self) -> impl Iterator<Item = &String> {
        let outcome = [Some(&self.status_column), self.error_column.as_ref(), self.finished_column.as_ref()];
        let of_requeue =
            [self.attempts_column.as_ref(), Some(&self.worker_column), self.started_column.as_ref()];
        let of_requeue = of_requeue.into_iter().filter(|_| self.on_death == OnDeath::Requeue);
        outcome.into_iter().chain(of_requeue).flatten()
    }

    /// Those that it only reads.
    pub fn read_columns(&self) -> impl Iterator<Item = &String> {
        let read = match self.on_death {
            OnDeath::Fail => Some(&self.worker_column),
            OnDeath::Requeue => self.max_attempts_column.as_ref(),
        };
        read.into_iter()
    }
}

/// A row of the registry.
pub struct Entry {
    /// The name of the table, with its schema, as SQL writes it. Without a schema it is in the extension's.
    pub name: String,
    /// Whether it is watched. False switches off the table that is watched without an entry.
    pub is_watched: bool,
    /// How it is watched.
    pub mapping: JobMapping,
    /// The search_path for code of the table's owner; `None` for the table's schema.
    pub search_path: Option<Vec<String>>,
    /// The role that made the entry, by its name; `None` in entries from before 0.2.0, which count as the owner's.
    pub watched_by: Option<String>,
}

/// All rows, in the order of the names.
pub fn entries(installation: &Installation) -> Result<Vec<Entry>> {
    let statement = installation.sql(
        "SELECT j.job_table, j.watched, j.worker_column::text, j.status_column::text, j.running_status, \
                j.dead_status, j.error_column::text, j.error_message, j.finished_column::text, j.on_death, \
                j.queued_status, j.attempts_column::text, j.max_attempts_column::text, j.max_attempts, \
                j.started_column::text, j.notify_keys, j.search_path::pg_catalog.text[], \
                j.watched_by::text \
         FROM @extschema@.rgrid_job_tables j ORDER BY j.job_table",
    );
    installation.as_owner(|| {
        sql::read(&statement, &[], |row| {
            Ok(Entry {
                name: row.required(1, "job table")?,
                is_watched: row.required(2, "watched")?,
                mapping: mapping(&row)?,
                search_path: row
                    .optional::<Vec<Option<String>>>(17)?
                    .map(|names| names.into_iter().flatten().collect()),
                watched_by: row.optional(18)?,
            })
        })
    })
}

fn mapping(row: &sql::Row<'_>) -> Result<JobMapping> {
    Ok(JobMapping {
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
        notify_keys: row.required(16, "notify_keys")?,
    })
}

/// Enters a table by its name, or changes its entry. The current role has made it then.
pub fn put(installation: &Installation, name: &str, mapping: &JobMapping, is_watched: bool) -> Result<()> {
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_job_tables AS j \
             (job_table, watched, worker_column, status_column, running_status, dead_status, error_column, \
              error_message, finished_column, on_death, queued_status, attempts_column, max_attempts_column, \
              max_attempts, started_column, notify_keys, watched_by) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) \
         ON CONFLICT (job_table) DO UPDATE SET \
             (watched, worker_column, status_column, running_status, dead_status, error_column, error_message, \
              finished_column, on_death, queued_status, attempts_column, max_attempts_column, max_attempts, \
              started_column, notify_keys, watched_by) = \
             ROW (EXCLUDED.watched, EXCLUDED.worker_column, EXCLUDED.status_column, EXCLUDED.running_status, \
                  EXCLUDED.dead_status, EXCLUDED.error_column, EXCLUDED.error_message, \
                  EXCLUDED.finished_column, EXCLUDED.on_death, EXCLUDED.queued_status, \
                  EXCLUDED.attempts_column, EXCLUDED.max_attempts_column, EXCLUDED.max_attempts, \
                  EXCLUDED.started_column, EXCLUDED.notify_keys, EXCLUDED.watched_by)",
    );
    let arguments = [
        name.into(),
        is_watched.into(),
        mapping.worker_column.as_str().into(),
        mapping.status_column.as_str().into(),
        mapping.running_status.as_str().into(),
        mapping.dead_status.as_str().into(),
        mapping.error_column.as_deref().into(),
        mapping.error_message.as_str().into(),
        mapping.finished_column.as_deref().into(),
        mapping.on_death.as_str().into(),
        mapping.queued_status.as_str().into(),
        mapping.attempts_column.as_deref().into(),
        mapping.max_attempts_column.as_deref().into(),
        mapping.max_attempts.into(),
        mapping.started_column.as_deref().into(),
        mapping.notify_keys.into(),
        roles::name(roles::current()).into(),
    ];
    installation.as_owner(|| sql::write(&statement, &arguments))?;
    Ok(())
}

/// Removes an entry.
pub fn remove(installation: &Installation, name: &str) -> Result<()> {
    let statement = installation.sql(
        "DELETE FROM @extschema@.rgrid_job_tables j WHERE j.job_table OPERATOR(pg_catalog.=) $1::pg_catalog.text",
    );
    installation.as_owner(|| sql::write(&statement, &[name.into()]))?;
    Ok(())
}

/// Gives an entry the name that its table has now. Returns false, and does nothing, when another entry has it.
pub fn rename(installation: &Installation, name: &str, new: &str) -> Result<bool> {
    let statement = installation.sql(
        "UPDATE @extschema@.rgrid_job_tables j SET job_table = $2 \
         WHERE j.job_table OPERATOR(pg_catalog.=) $1::pg_catalog.text AND NOT EXISTS ( \
             SELECT FROM @extschema@.rgrid_job_tables o WHERE o.job_table OPERATOR(pg_catalog.=) $2::pg_catalog.text)",
    );
    Ok(installation.as_owner(|| sql::write(&statement, &[name.into(), new.into()]))? == 1)
}

/// Notes the search_path for code of a table's owner in the table's entry.
pub fn set_search_path(installation: &Installation, name: &str, names: &[String]) -> Result<()> {
    let statement = installation.sql(
        "UPDATE @extschema@.rgrid_job_tables j SET search_path = $2::pg_catalog.name[] \
         WHERE j.job_table OPERATOR(pg_catalog.=) $1::pg_catalog.text",
    );
    installation.as_owner(|| sql::write(&statement, &[name.into(), arrays::of(names)]))?;
    Ok(())
}
