//! The registry of watched tables, `rgrid_job_tables`: its rows, and how they are changed. What they mean is decided in
//! `jobs/entries.rs` and `jobs/watched.rs`.

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{arrays, roles, sql};
use crate::tables::job_attempts;

/// What becomes of the running jobs of a dead worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDeath {
    /// They are marked as failed.
    Fail,
    /// They go back to the queue until their attempts are used up, and then fail.
    Requeue,
}

/// What the limit of a job's attempts counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitOf {
    /// What comes after the first attempt: with 1, a job is run twice.
    Retries,
    /// The first one, too: with 1, a job is run once.
    Attempts,
}

/// When an attempt is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedAt {
    /// When it has ended by a death: then it is settling that counts it.
    Death,
    /// When it begins: the queue counts it.
    Claim,
}

/// What a number stands for that is the time of a death, as time since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

/// The words of an argument, and what each stands for.
pub struct Words<T: 'static> {
    argument: &'static str,
    words: &'static [(&'static str, T)],
}

impl<T: Copy + PartialEq> Words<T> {
    /// What a word stands for.
    pub fn parse(&self, word: &str) -> Result<T> {
        let found = self.words.iter().find(|(known, _)| *known == word);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| Error::UnknownWord {
            argument: self.argument,
            words: self.words.iter().map(|(word, _)| *word).collect(),
            word: word.to_owned(),
        })
    }

    /// The word in the registry.
    fn word(&self, meaning: T) -> &'static str {
        self.words.iter().find(|(_, known)| *known == meaning).map_or("", |(word, _)| word)
    }
}

/// The words of `on_death`.
pub const ON_DEATH: Words<OnDeath> =
    Words { argument: "on_death", words: &[("fail", OnDeath::Fail), ("requeue", OnDeath::Requeue)] };

/// The words of `max_attempts_means`.
pub const LIMIT_OF: Words<LimitOf> = Words {
    argument: "max_attempts_means",
    words: &[("retries", LimitOf::Retries), ("attempts", LimitOf::Attempts)],
};

/// The words of `attempts_counted_at`.
pub const COUNTED_AT: Words<CountedAt> = Words {
    argument: "attempts_counted_at",
    words: &[("death", CountedAt::Death), ("claim", CountedAt::Claim)],
};

/// The words of `epoch_unit`.
pub const EPOCH_UNIT: Words<EpochUnit> = Words {
    argument: "epoch_unit",
    words: &[("seconds", EpochUnit::Seconds), ("milliseconds", EpochUnit::Milliseconds)],
};

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
    /// What the limit of attempts counts; `None` to tell it by the name of its column.
    pub max_attempts_means: Option<LimitOf>,
    /// When an attempt is counted.
    pub attempts_counted_at: CountedAt,
    /// Further statuses of jobs that are a worker's.
    pub also_running: Vec<String>,
    /// What else a job gets that goes back to the queue, as `rules/assignment.rs` reads it.
    pub set_at_requeue: Vec<String>,
    /// What else a job gets that fails, likewise.
    pub set_at_failure: Vec<String>,
    /// A channel on which idle workers of the queue listen.
    pub wake_channel: Option<String>,
    /// What is sent there when jobs have gone back to the queue.
    pub wake_payload: String,
    /// What times are that are numbers.
    pub epoch_unit: Option<EpochUnit>,
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
            max_attempts_means: None,
            attempts_counted_at: CountedAt::Death,
            also_running: Vec::new(),
            set_at_requeue: Vec::new(),
            set_at_failure: Vec::new(),
            wake_channel: None,
            wake_payload: String::new(),
            epoch_unit: None,
        }
    }
}

impl JobMapping {
    /// The statuses of jobs that are a worker's: those that it is running, or has claimed and not begun.
    pub fn running_statuses(&self) -> impl Iterator<Item = &String> + Clone {
        std::iter::once(&self.running_status).chain(&self.also_running)
    }

    /// What the limit of attempts counts. A column that is named after attempts limits these; RGrid's is named after
    /// retries.
    pub fn limit_of(&self) -> LimitOf {
        let column = self.max_attempts_column.as_ref();
        let by_name = match column.is_some_and(|name| name.to_lowercase().contains("attempt")) {
            true => LimitOf::Attempts,
            false => LimitOf::Retries,
        };
        self.max_attempts_means.unwrap_or(by_name)
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
    /// The role that made the entry, by its name; `None` in entries from before 0.3.0, which count as the owner's.
    pub watched_by: Option<String>,
}

/// All rows, in the order of the names.
pub fn entries(installation: &Installation) -> Result<Vec<Entry>> {
    let statement = installation.sql(
        "SELECT j.job_table, j.watched, j.worker_column::text, j.status_column::text, j.running_status, \
                j.dead_status, j.error_column::text, j.error_message, j.finished_column::text, j.on_death, \
                j.queued_status, j.attempts_column::text, j.max_attempts_column::text, j.max_attempts, \
                j.started_column::text, j.notify_keys, j.search_path::pg_catalog.text[], \
                j.watched_by::text, j.max_attempts_means, j.attempts_counted_at, j.also_running, j.set_at_requeue, \
                j.set_at_failure, j.wake_channel, j.wake_payload, j.epoch_unit \
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
        on_death: ON_DEATH.parse(&row.required::<String>(10, "policy")?)?,
        queued_status: row.required(11, "queued status")?,
        attempts_column: row.optional(12)?,
        max_attempts_column: row.optional(13)?,
        max_attempts: row.required(14, "maximum of attempts")?,
        started_column: row.optional(15)?,
        notify_keys: row.required(16, "notify_keys")?,
        max_attempts_means: word(row, 19, &LIMIT_OF)?,
        attempts_counted_at: COUNTED_AT.parse(&row.required::<String>(20, "time of counting")?)?,
        also_running: texts(row, 21)?,
        set_at_requeue: texts(row, 22)?,
        set_at_failure: texts(row, 23)?,
        wake_channel: row.optional(24)?,
        wake_payload: row.required(25, "payload")?,
        epoch_unit: word(row, 26, &EPOCH_UNIT)?,
    })
}

fn word<T: Copy + PartialEq>(row: &sql::Row<'_>, column: usize, words: &Words<T>) -> Result<Option<T>> {
    row.optional::<String>(column)?.map(|word| words.parse(&word)).transpose()
}

fn texts(row: &sql::Row<'_>, column: usize) -> Result<Vec<String>> {
    let texts: Vec<Option<String>> = row.required(column, "texts")?;
    Ok(texts.into_iter().flatten().collect())
}

/// The columns of an entry that a watch says, in the order of the parameters in [`put`].
const SAID: &str = "watched, worker_column, status_column, running_status, dead_status, error_column, error_message, \
                    finished_column, on_death, queued_status, attempts_column, max_attempts_column, max_attempts, \
                    started_column, notify_keys, watched_by, max_attempts_means, attempts_counted_at, also_running, \
                    set_at_requeue, set_at_failure, wake_channel, wake_payload, epoch_unit";

/// Enters a table by its name, or changes its entry. The current role has made it then.
pub fn put(installation: &Installation, name: &str, mapping: &JobMapping, is_watched: bool) -> Result<()> {
    let excluded = SAID.replace(", ", ", EXCLUDED.");
    let statement = installation.sql(&format!(
        "INSERT INTO @extschema@.rgrid_job_tables AS j (job_table, {SAID}) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, \
                 $23, $24, $25) \
         ON CONFLICT (job_table) DO UPDATE SET ({SAID}) = ROW (EXCLUDED.{excluded})"
    ));
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
        ON_DEATH.word(mapping.on_death).into(),
        mapping.queued_status.as_str().into(),
        mapping.attempts_column.as_deref().into(),
        mapping.max_attempts_column.as_deref().into(),
        mapping.max_attempts.into(),
        mapping.started_column.as_deref().into(),
        mapping.notify_keys.into(),
        roles::name(roles::current()).into(),
        mapping.max_attempts_means.map(|meaning| LIMIT_OF.word(meaning)).into(),
        COUNTED_AT.word(mapping.attempts_counted_at).into(),
        arrays::of(&mapping.also_running),
        arrays::of(&mapping.set_at_requeue),
        arrays::of(&mapping.set_at_failure),
        mapping.wake_channel.as_deref().into(),
        mapping.wake_payload.as_str().into(),
        mapping.epoch_unit.map(|unit| EPOCH_UNIT.word(unit)).into(),
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
    job_attempts::forget_table(installation, name)
}

/// Gives an entry the name that its table has now. Returns false, and does nothing, when another entry has it.
pub fn rename(installation: &Installation, name: &str, new: &str) -> Result<bool> {
    let statement = installation.sql(
        "UPDATE @extschema@.rgrid_job_tables j SET job_table = $2 \
         WHERE j.job_table OPERATOR(pg_catalog.=) $1::pg_catalog.text AND NOT EXISTS ( \
             SELECT FROM @extschema@.rgrid_job_tables o WHERE o.job_table OPERATOR(pg_catalog.=) $2::pg_catalog.text)",
    );
    let is_renamed = installation.as_owner(|| sql::write(&statement, &[name.into(), new.into()]))? == 1;
    if is_renamed {
        job_attempts::rename_table(installation, name, new)?;
    }
    Ok(is_renamed)
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
