//! The functions with which the owner of a table of jobs watches and unwatches it.
//!
//! They run in the owner's session. Everything that can be wrong with a table is reported here, while its owner is
//! there to fix it, and checked again at each use.

use std::ffi::CStr;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::watched::{self, own_table};
use crate::jobs::{JobTable, fence, following, rehearsal};
use crate::pg::notifications::{CHANNEL_LIMIT, PAYLOAD_LIMIT};
use crate::pg::{self, catalog, report, search_path};
use crate::tables::job_tables::{self, JobMapping, OnDeath};
use crate::tables::tried_tables;

/// Watches a table of jobs, or changes how it is watched. Its SQL is in `sql/job_tables.sql`.
///
/// The running jobs of a dead worker are those with its id in `worker_column` and `running_status` in
/// `status_column`. With `on_death` 'fail' they get `dead_status`, `error_message` and the time; with 'requeue' they
/// get `queued_status`, no worker and no times, and one more in `attempts_column`, until that has reached
/// `max_attempts_column`, or `max_attempts` where that is NULL; then they fail. NULL names no column; without one for
/// attempts the extension counts them. With `notify_keys` notifications have the primary keys of the jobs, which every
/// role can read.
///
/// `max_attempts_means` says whether that limit counts 'retries' or 'attempts', and `attempts_counted_at` whether the
/// 'death' or the 'claim' counts one. Jobs of a status in `also_running` are a worker's, too. `set_at_requeue` and
/// `set_at_failure` say what else jobs get. `wake_channel` gets a notification when jobs have been requeued.
/// `epoch_unit` is that of times that are numbers.
///
/// # Errors
///
/// `insufficient_privilege` for a caller that does not own the table; `wrong_object_type` for a relation that is not a
/// table; `undefined_column`, `datatype_mismatch`, `invalid_table_definition`, `generated_always` for a column that is
/// missing or cannot be used; `duplicate_column` for one that is named twice; `invalid_parameter_value` for a status
/// that its column cannot hold, statuses that do not differ, or another policy; `null_value_not_allowed`;
/// `read_only_sql_transaction` on a standby or in a read-only transaction. The SQLSTATE of what a rehearsal met, if it
/// would be met by every job.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments, reason = "a table of jobs has that many sides; callers name them")]
fn rgrid_watch_jobs_0_3(
    job_table: Option<pg_sys::Oid>,
    worker_column: Option<&CStr>,
    status_column: Option<&CStr>,
    running_status: Option<&str>,
    dead_status: Option<&str>,
    error_column: Option<&CStr>,
    error_message: Option<&str>,
    finished_column: Option<&CStr>,
    on_death: Option<&str>,
    queued_status: Option<&str>,
    attempts_column: Option<&CStr>,
    max_attempts_column: Option<&CStr>,
    started_column: Option<&CStr>,
    max_attempts: Option<i32>,
    notify_keys: Option<bool>,
    max_attempts_means: Option<&str>,
    attempts_counted_at: Option<&str>,
    also_running: Option<Vec<Option<String>>>,
    set_at_requeue: Option<Vec<Option<String>>>,
    set_at_failure: Option<Vec<Option<String>>>,
    wake_channel: Option<&str>,
    wake_payload: Option<&str>,
    epoch_unit: Option<&str>,
) -> Result<(), ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_watch_jobs()");
    let column = |name: Option<&CStr>| name.map(|name| name.to_string_lossy().into_owned());
    let mapping = JobMapping {
        worker_column: given(column(worker_column), "worker column")?,
        status_column: given(column(status_column), "status column")?,
        running_status: given(running_status, "running status")?.to_owned(),
        dead_status: given(dead_status, "dead status")?.to_owned(),
        error_column: column(error_column),
        error_message: given(error_message, "error message")?.to_owned(),
        finished_column: column(finished_column),
        on_death: job_tables::ON_DEATH.parse(given(on_death, "on_death")?)?,
        queued_status: given(queued_status, "queued status")?.to_owned(),
        attempts_column: column(attempts_column),
        max_attempts_column: column(max_attempts_column),
        max_attempts: given(max_attempts, "max_attempts")?,
        started_column: column(started_column),
        notify_keys: given(notify_keys, "notify_keys")?,
        max_attempts_means: max_attempts_means.map(|word| job_tables::LIMIT_OF.parse(word)).transpose()?,
        attempts_counted_at: job_tables::COUNTED_AT
            .parse(given(attempts_counted_at, "attempts_counted_at")?)?,
        also_running: all_given(also_running, "also_running")?,
        set_at_requeue: all_given(set_at_requeue, "set_at_requeue")?,
        set_at_failure: all_given(set_at_failure, "set_at_failure")?,
        wake_channel: wake_channel.map(str::to_owned),
        wake_payload: given(wake_payload, "wake_payload")?.to_owned(),
        epoch_unit: epoch_unit.map(|word| job_tables::EPOCH_UNIT.parse(word)).transpose()?,
    };
    Ok(watch_jobs(job_table, mapping)?)
}

fn given<T>(argument: Option<T>, name: &'static str) -> Result<T> {
    argument.ok_or(Error::NullArgument(name))
}

fn all_given(array: Option<Vec<Option<String>>>, name: &'static str) -> Result<Vec<String>> {
    given(array, name)?.into_iter().map(|element| given(element, name)).collect()
}

fn watch_jobs(job_table: Option<pg_sys::Oid>, mapping: JobMapping) -> Result<()> {
    let installation = Installation::of_caller()?;
    let oid = own_table(job_table)?;
    check_words(&mapping)?;
    let search_path = search_path::in_force();
    let table = JobTable::open(oid, mapping, Some(search_path.clone()))
        .ok_or_else(|| Error::NoTable { table: oid.to_u32().to_string() })?;
    if table.relation.persistence == pg_sys::RELPERSISTENCE_TEMP {
        return Err(Error::TemporaryTable { table: table.watched.name });
    }
    table.columns()?.check_writes(&table)?;
    let name = following::claim_name(&installation, oid)?;
    job_tables::put(&installation, &name, &table.mapping, true)?;
    job_tables::set_search_path(&installation, &name, &search_path)?;
    following::note_own(&installation, oid)?;
    fence::renew(&installation, oid)?;
    tried_tables::remove(&installation, oid)?;
    // Code of a role that is no superuser can end a superuser's session, or never end. So that is done on request only.
    if catalog::is_strange_to_me(table.relation.owner) {
        return Ok(());
    }
    for attempt in rehearsal::rehearse(&installation, &table)? {
        match attempt.error(&table)? {
            Some(error) if attempt.never_works => return Err(error),
            error => error.into_iter().for_each(report::warn),
        }
    }
    Ok(())
}

fn check_words(mapping: &JobMapping) -> Result<()> {
    let queued = (mapping.on_death == OnDeath::Requeue).then_some(&mapping.queued_status);
    for status in [Some(&mapping.dead_status), queued].into_iter().flatten() {
        if mapping.running_statuses().any(|running| running == status) {
            return Err(Error::SameStatus { status: status.clone() });
        }
    }
    if queued == Some(&mapping.dead_status) {
        return Err(Error::SameStatus { status: mapping.dead_status.clone() });
    }
    if mapping.max_attempts < 0 {
        return Err(Error::NegativeAttempts);
    }
    let channel = mapping.wake_channel.as_ref().map(|name| ("wake_channel", name, 1, CHANNEL_LIMIT));
    let payload = ("wake_payload", &mapping.wake_payload, 0, PAYLOAD_LIMIT);
    for (argument, text, least, most) in channel.into_iter().chain([payload]) {
        if !(least..=most).contains(&text.len()) {
            return Err(Error::InvalidWake { argument, least, most });
        }
    }
    Ok(())
}

/// Stops watching a table of jobs. Returns whether it was watched. Its SQL is in `sql/job_tables.sql`.
///
/// # Errors
///
/// `insufficient_privilege` for a caller that does not own the table; `null_value_not_allowed`;
/// `read_only_sql_transaction` on a standby or in a read-only transaction.
#[pg_extern(sql = false)]
fn rgrid_unwatch_jobs(job_table: Option<pg_sys::Oid>) -> Result<bool, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_unwatch_jobs()");
    Ok(unwatch_jobs(job_table)?)
}

fn unwatch_jobs(job_table: Option<pg_sys::Oid>) -> Result<bool> {
    let installation = Installation::of_caller()?;
    let oid = own_table(job_table)?;
    let was_watched = watched::stop(&installation, oid)?;
    fence::renew(&installation, oid)?;
    Ok(was_watched)
}
