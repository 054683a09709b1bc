//! What PostgreSQL shows of an error: the SQLSTATE, the message, the detail and the hint of each.
//!
//! Messages follow PostgreSQL's style guide: the primary message in lower case and without a full stop, details
//! and hints as sentences. A function has the name of its error, and they are in the order of the errors.

use std::time::Duration;

use pgrx::prelude::*;

use super::Rehearsal;
use crate::VERSION;
use PgSqlErrorCode::*;

/// A year, more or less.
const FAR_AHEAD: Duration = Duration::from_secs(366 * 24 * 3_600);

/// What PostgreSQL shows of an error.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its SQLSTATE.
    pub code: PgSqlErrorCode,
    /// Its primary message.
    pub message: String,
    /// Its detail.
    pub detail: Option<String>,
    /// Its hint.
    pub hint: Option<String>,
}

impl Report {
    fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None, hint: None }
    }

    fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

pub fn invalid(message: impl Into<String>) -> Report {
    Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
}

pub fn internal(message: String) -> Report {
    Report::new(ERRCODE_INTERNAL_ERROR, message)
}

fn not_ready(message: impl Into<String>) -> Report {
    Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
}

fn column_of(table: &str, column: &str) -> String {
    format!("column \"{column}\" of relation \"{table}\"")
}

/// To a tenth.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

// Arguments of a caller.

pub fn null_argument(argument: &str) -> Report {
    Report::new(ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{argument} must not be null"))
}

pub fn worker_id_too_long(length: usize, limit: usize) -> Report {
    invalid("worker id is too long")
        .detail(format!("It has {length} characters; at most {limit} are possible."))
}

pub fn control_character(argument: &str) -> Report {
    invalid(format!("{argument} must not contain control characters"))
}

pub fn no_role(role: &str) -> Report {
    Report::new(ERRCODE_UNDEFINED_OBJECT, format!("role \"{role}\" does not exist"))
}

// Whose worker ids are whose.

pub fn not_own_id(worker: &str, owner: &str) -> Report {
    Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, format!("permission denied for worker \"{worker}\""))
        .detail(format!("The id belongs to role \"{owner}\"."))
        .hint(
            "Use another id, or connect as that role or a member of it. rgrid_reassign_worker() hands the id over to \
             another role.",
        )
}

pub fn too_many_workers(role: &str, limit: usize) -> Report {
    let message = format!("too many living workers of role \"{role}\"");
    Report::new(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, message)
        .detail(format!("It may have {limit} in this database."))
        .hint(
            "Deregister workers that have stopped, or have a superuser raise \
             \"rgrid_heartbeat.max_workers_per_role\".",
        )
}

pub fn unknown_worker(worker: &str) -> Report {
    Report::new(ERRCODE_UNDEFINED_OBJECT, format!("worker \"{worker}\" is not known"))
}

pub fn not_member(role: &str) -> Report {
    Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be able to SET ROLE \"{role}\""))
}

pub fn ids_without_owner(table: &str) -> Report {
    not_ready("worker ids belong to no role in this database")
        .detail(format!("Table {table} was there before the extension, and its rows have no owners."))
}

// The library and its objects.

pub fn not_preloaded() -> Report {
    not_ready("rgrid_heartbeat must be loaded via \"shared_preload_libraries\"")
        .hint("Add it to shared_preload_libraries and restart the server.")
}

pub fn attached_and_prepared() -> Report {
    let message = "cannot PREPARE a transaction that has attached or detached a worker";
    Report::new(ERRCODE_FEATURE_NOT_SUPPORTED, message)
        .detail("A worker is attached to a session, and a prepared transaction belongs to none.")
        .hint("Call rgrid_attach() and rgrid_detach() in a transaction of their own.")
}

pub fn not_installed() -> Report {
    not_ready("extension \"rgrid_heartbeat\" is not installed in this database")
}

pub fn foreign_version(version: &str) -> Report {
    not_ready(format!("extension \"rgrid_heartbeat\" has version {version}, its library version {VERSION}"))
        .hint("Run ALTER EXTENSION rgrid_heartbeat UPDATE, or restart the server with the new library.")
}

pub fn no_heartbeat_table(table: &str) -> Report {
    no_table(table)
        .hint("Rename the table back, or drop and create extension \"rgrid_heartbeat\" to have a new one.")
}

// A table, watched or to be watched, and its columns.

pub fn no_table(table: &str) -> Report {
    Report::new(ERRCODE_UNDEFINED_TABLE, format!("relation \"{table}\" does not exist"))
}

pub fn not_a_table(table: &str) -> Report {
    Report::new(ERRCODE_WRONG_OBJECT_TYPE, format!("\"{table}\" is not a table"))
}

pub fn temporary_table(table: &str) -> Report {
    Report::new(ERRCODE_WRONG_OBJECT_TYPE, format!("cannot watch temporary table \"{table}\""))
}

pub fn not_owner(table: &str) -> Report {
    Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be owner of table {table}"))
}

pub fn part_of_another(table: &str, part: &str) -> Report {
    let message = format!("owner of table {part} must have the rights of the owner of table {table}");
    Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, message)
        .hint("Change its owner by ALTER TABLE, or detach it.")
}

pub fn not_watched(table: &str) -> Report {
    Report::new(ERRCODE_UNDEFINED_OBJECT, format!("job table \"{table}\" is not watched"))
}

pub fn no_function(function: &str) -> Report {
    Report::new(ERRCODE_UNDEFINED_FUNCTION, format!("function {function} does not exist"))
}

pub fn not_settling(function: &str) -> Report {
    Report::new(ERRCODE_INVALID_FUNCTION_DEFINITION, format!("function {function} cannot settle jobs"))
        .detail("It must take (text[], text, timestamptz): ids of workers, the message, and when they were declared dead.")
        .hint("Have it return void, or TABLE (worker_id text, job_key text, requeued boolean).")
}

pub fn not_telling(function: &str) -> Report {
    Report::new(
        ERRCODE_INVALID_FUNCTION_DEFINITION,
        format!("function {function} cannot list the running jobs of workers"),
    )
    .detail("It must take (text[]), the ids of workers.")
    .hint("Have it return TABLE (worker_id text, job_key text).")
}

pub fn not_function_owner(function: &str) -> Report {
    Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be owner of function {function}"))
}

pub fn function_of_another(function: &str) -> Report {
    Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, format!("function {function} belongs to another role"))
        .detail("Both functions are called with the rights of the owner of the one that settles.")
}

pub fn unknown_queue(queue: &str, known: &str) -> Report {
    Report::new(ERRCODE_UNDEFINED_OBJECT, format!("queue \"{queue}\" is not known"))
        .detail(format!("The known queues are {known}."))
        .hint("Watch its table by rgrid_watch_jobs(), or write a function for rgrid_watch_function().")
}

pub fn queue_differs(queue: &str, schema: &str, what: &str, versions: &str) -> Report {
    not_ready(format!("tables of queue {queue} in schema \"{schema}\" are not as they are known: {what}"))
        .detail(format!("The extension knows the tables of {versions}."))
        .hint("Name the schema of the queue, or watch it by a function of your own: rgrid_watch_function().")
}

pub fn call_pending(worker: &str) -> Report {
    Report::new(
        ERRCODE_LOCK_NOT_AVAILABLE,
        format!("jobs that worker \"{worker}\" ran before are not settled yet"),
    )
    .detail("Only sweepers settle the jobs of this queue, and no sweeper has done so in time.")
    .hint("Call again. The cause is in rgrid_health() and pg_stat_rgrid_problems.")
}

pub fn undefined_column(table: &str, column: &str) -> Report {
    Report::new(ERRCODE_UNDEFINED_COLUMN, format!("{} does not exist", column_of(table, column)))
}

pub fn column_type(table: &str, column: &str, wanted: &str) -> Report {
    Report::new(ERRCODE_DATATYPE_MISMATCH, format!("{} must be of type {wanted}", column_of(table, column)))
}

pub fn column_not_null(table: &str, column: &str) -> Report {
    Report::new(ERRCODE_INVALID_TABLE_DEFINITION, format!("{} must allow null", column_of(table, column)))
        .detail("It is cleared when a job is settled.")
}

pub fn column_generated(table: &str, column: &str) -> Report {
    Report::new(ERRCODE_GENERATED_ALWAYS, format!("{} must not be generated", column_of(table, column)))
        .detail("It is written when a job is settled.")
}

pub fn owner_may_not_update(table: &str, column: &str) -> Report {
    let message = format!("owner of table {table} has no right to read and update column \"{column}\"");
    Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, message)
        .detail("Jobs are settled with the rights of the table's owner.")
        .hint(format!("GRANT SELECT, UPDATE ON {table} to its owner."))
}

pub fn column_twice(table: &str, column: &str) -> Report {
    Report::new(ERRCODE_DUPLICATE_COLUMN, format!("{} specified more than once", column_of(table, column)))
        .detail("One column cannot serve two purposes.")
}

pub fn impossible_value(table: &str, column: &str, value: &str, reason: Option<&str>) -> Report {
    Report {
        detail: reason.map(|reason| format!("Its type says: {reason}.")),
        ..invalid(format!("{} cannot hold \"{value}\"", column_of(table, column)))
    }
}

pub fn same_status(status: &str) -> Report {
    invalid("running, dead and queued status must differ").detail(format!("Two of them are \"{status}\"."))
}

pub fn unknown_word(argument: &str, words: &[&str], word: &str) -> Report {
    let words = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
    invalid(format!("{argument} must be {words}")).detail(format!("It is \"{word}\"."))
}

pub fn no_attempts_column() -> Report {
    invalid("jobs cannot be requeued without a column that counts attempts, or a primary key of one column")
        .hint("Name such a column in attempts_column. Without a count, a job that kills its workers would come back forever.")
}

pub fn no_claim_counter() -> Report {
    invalid("attempts that are counted at the claim need attempts_column")
        .detail("Without a column the extension counts them, and it does not see claims.")
}

pub fn invalid_assignment(text: &str, reason: &str) -> Report {
    invalid(format!("cannot read \"{text}\" as an assignment to a column"))
        .detail(reason)
        .hint("Write each as in: set_at_requeue => ARRAY['claim_id = NULL', 'queue = coalesce(queue, ''default'')']")
}

pub fn invalid_wake(argument: &str, least: usize, most: usize) -> Report {
    invalid(format!("{argument} must have {least} to {most} bytes"))
}

// Work that was not done.

pub fn timed_out(limit: Duration) -> Report {
    Report::new(ERRCODE_QUERY_CANCELED, format!("it took longer than {} s", seconds(limit)))
}

pub fn in_quarantine() -> Report {
    let message = "code of its owner has ended a sweeper or held it up, so it is left out for now";
    Report::new(ERRCODE_QUERY_CANCELED, message)
}

pub fn replicated(table: &str, subscription: &str) -> Report {
    not_ready(format!(
        "no worker is declared dead here: subscription \"{subscription}\" writes to table {table}"
    ))
    .detail(
        "The publisher gets the heartbeats, and declares workers dead. Old rows are not removed here either.",
    )
    .hint(cut_over(subscription))
}

pub fn jobs_replicated(subscription: &str) -> Report {
    not_ready(format!("subscription \"{subscription}\" writes to it; the publisher settles its jobs"))
        .hint(cut_over(subscription))
}

/// How a server becomes the one that judges.
fn cut_over(subscription: &str) -> String {
    let subscription = subscription.replace('"', "\"\"");
    format!(
        "To cut over, stop the workers on the publisher, and wait until the subscription has caught up. Then: ALTER \
         SUBSCRIPTION \"{subscription}\" DISABLE; Silence counts from then on."
    )
}

pub fn own_table_locked(table: &str, pid: Option<i32>, mode: &str) -> Report {
    let (holder, hint) = match pid {
        Some(pid) => (format!("process {pid}"), format!("End it: SELECT pg_terminate_backend({pid});")),
        None => ("a prepared transaction".into(), "Look into pg_prepared_xacts, and end it.".into()),
    };
    let message = format!("table {table} of the extension is locked by {holder} ({mode})");
    Report::new(ERRCODE_LOCK_NOT_AVAILABLE, message).hint(hint)
}

pub fn jobs_locked() -> Report {
    Report::new(ERRCODE_LOCK_NOT_AVAILABLE, "running jobs are locked by another session")
}

pub fn not_noted(table: &str, reason: &str) -> Report {
    let message = format!("could not settle the worker's jobs in table {table}");
    Report::new(ERRCODE_LOCK_NOT_AVAILABLE, message)
        .detail(format!("They could not be noted for later, either. {reason}"))
        .hint("Try again. On another server, pg_blocking_pids() there finds the session that holds a lock.")
}

pub fn worker_locked(limit: Duration) -> Report {
    let message = format!("could not lock the worker's row within {} s", seconds(limit));
    Report::new(ERRCODE_LOCK_NOT_AVAILABLE, message)
        .detail(
            "Another session has locked it or a table of the extension: a sweep that settles the worker's jobs, or an \
             open transaction.",
        )
        .hint("Try again. The session can be found with pg_blocking_pids().")
}

pub fn serialization_failure() -> Report {
    let message = "could not serialize access due to concurrent update";
    Report::new(ERRCODE_T_R_SERIALIZATION_FAILURE, message)
}

pub fn still_running() -> Report {
    let message = "it is running after it was settled: a trigger or a rule keeps its status";
    Report::new(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION, message)
}

pub fn other_spelling(worker: &str) -> Report {
    let message = format!("another spelling of \"{worker}\" is the id of a worker that has just registered");
    Report::new(ERRCODE_OBJECT_IN_USE, message)
}

pub fn incarnation_out_of_range(worker: &str) -> Report {
    let message = format!("incarnation of worker \"{worker}\" is out of range");
    Report::new(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, message)
        .detail("A number in rgrid_worker_deaths or rgrid_incarnations is too high to be followed by another one.")
        .hint("Correct the number there, or let the worker use another id.")
}

pub fn not_written(table: &str) -> Report {
    let message = format!("a rule or trigger of table \"{table}\" suppressed the write");
    Report::new(ERRCODE_TRIGGERED_ACTION_EXCEPTION, message)
}

pub fn row_kept(worker: &str, reason: &str) -> Report {
    let message = format!("row of worker \"{worker}\" stays: {reason}");
    Report::new(ERRCODE_FOREIGN_KEY_VIOLATION, message)
        .detail(
            "The worker is gone: the ledger has a death instead. The row stays while something refers to it.",
        )
        .hint("Give the foreign key ON DELETE SET NULL, or ON DELETE CASCADE.")
}

pub fn given_up(table: &str) -> Report {
    not_ready("job was given up because its worker was declared dead")
        .detail(format!("In table \"{table}\" it can only be claimed again or given back to the queue."))
        .hint("Drop the result: rgrid_heartbeat() now returns a different incarnation to the worker.")
}

pub fn fence_refused(table: &str, reason: &str) -> Report {
    Report::new(ERRCODE_FEATURE_NOT_SUPPORTED, format!("cannot put up a fence at table {table}"))
        .detail(reason)
        .hint(
            "Let each worker store its result by an UPDATE with WHERE status = 'running' AND worker = its id. If that \
             changes no row, the worker has lost the job.",
        )
}

pub fn rehearsal(rehearsal: &Rehearsal) -> Report {
    let Rehearsal { table, tried, path, revoke, never_works, why } = rehearsal;
    let (message, hint) = match (never_works, revoke) {
        (false, _) => (
            format!("a job of table \"{table}\" could not be settled in a rehearsal: {}", why.message),
            "Look whether jobs like it exist. They would keep running when their worker dies.".into(),
        ),
        (true, None) => (
            format!("jobs of table \"{table}\" cannot be settled: {}", why.message),
            "Alter the table or its triggers, or call rgrid_watch_jobs() with the search_path that they need.".into(),
        ),
        (true, Some(revoke)) => (
            format!("jobs of table \"{table}\" cannot be settled: {}", why.message),
            format!("{revoke} or write the names in the triggers with their schema."),
        ),
    };
    Report::new(why.code, message)
        .detail(format!("A rehearsal tried {tried}. Triggers of the table run with the search_path {path}."))
        .hint(hint)
}

pub fn replaced(kind: &str, name: &str) -> Report {
    not_ready(format!("{kind} \"{name}\" is not the one that was expected"))
        .detail("A schema, table or type was renamed while the extension was using it.")
}

pub fn foreign_code(table: &str, what: &str) -> Report {
    not_ready(format!("{what} of table \"{table}\" is not the extension's own"))
        .hint("Try again in a second: a sweeper removes it. Without sweepers, call rgrid_sweep().")
}

pub fn several_owners(table: &str, owners: &str) -> Report {
    let message =
        format!("tables with triggers of several owners refer to rows of table \"{table}\": {owners}");
    Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, message)
        .detail("Until PostgreSQL 17 the triggers of one would run with the rights of another.")
        .hint("Give these tables one owner, or drop the triggers of all but one.")
}

pub fn taken_back(what: &str) -> Report {
    let message = format!("removed from the extension's tables what is not its own: {what}");
    Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, message)
        .hint("Grant no more than SELECT on them, and on worker_heartbeats INSERT, UPDATE and DELETE.")
}

pub fn snapshot_held() -> Report {
    Report::new(ERRCODE_OBJECT_IN_USE, "heartbeats are written to their rows less often, because a snapshot is held")
        .detail("No version of a row that was replaced since then can be removed. Heartbeats in memory count as before.")
        .hint(
            "Look for the oldest backend_xmin in pg_stat_activity and xmin in pg_replication_slots, and for old rows of \
             pg_prepared_xacts.",
        )
}

pub fn entry_of_another(role: &str) -> Report {
    let message =
        format!("its entry was made by role \"{role}\", which does not have the rights of its owner");
    Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, message)
}

pub fn owner_differs(owner: &str, before: &str) -> Report {
    let message = format!(
        "it belongs to role \"{owner}\", but the table that was watched by this name belonged to role \"{before}\""
    );
    Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, message)
}

pub fn watched_twice() -> Report {
    Report::new(ERRCODE_DUPLICATE_OBJECT, "another entry means the same table")
}

// Warnings of a sweep.

pub fn future_heartbeats(workers: usize, example: &str, ahead: Duration) -> Report {
    let message = format!("heartbeats from the future were set to the current time: {workers}");
    // For a heartbeat at `infinity`, a number of seconds is no help.
    let far = match ahead < FAR_AHEAD {
        true => format!("{:.1} s", ahead.as_secs_f64()),
        false => "more than a year".into(),
    };
    Report::new(ERRCODE_WARNING, message)
        .detail(format!("That of worker \"{example}\" was {far} ahead of the server's clock."))
        .hint(
            "Set the clocks of the workers' hosts, or let the workers call rgrid_heartbeat(), which goes by the \
             server's clock.",
        )
}

pub fn local_time(table: &str, workers: usize, example: &str, behind: Duration) -> Report {
    let minutes = behind.as_secs() / 60;
    let message = format!(
        "workers write their heartbeats in local time, such as \"{example}\", which is {:02}:{:02} hours behind UTC",
        minutes / 60,
        minutes % 60
    );
    Report::new(ERRCODE_INVALID_DATETIME_FORMAT, message)
        .detail(format!(
            "{workers} workers renew their rows of {table} with such times. None of them is declared dead while it does."
        ))
        .hint(
            "Let them write now() AT TIME ZONE 'UTC', also in the column's DEFAULT, or call rgrid_heartbeat(). A column of \
             type timestamptz takes times of every zone.",
        )
}

pub fn mass_death(silent: usize, living: usize, at_most: Duration) -> Report {
    let message = format!("{silent} of {living} living workers fell silent and are held back");
    let seconds = at_most.as_secs_f64();
    Report::new(ERRCODE_WARNING, message)
        .detail(format!("Workers that are still silent after {seconds:.1} s are declared dead."))
        .hint(
            "Look at the network between workers and server. If the workers are really gone, call \
             rgrid_sweep(force => true).",
        )
}

pub fn lost_together(workers: usize) -> Report {
    let message =
        format!("{workers} workers lost their sessions together and are judged by their silence alone");
    Report::new(ERRCODE_WARNING, message)
        .detail(
            "So many sessions end at once when the network fails, or when a connection pooler is killed. Workers that are \
             silent for longer than the threshold are declared dead.",
        )
        .hint("Look at the network between workers and server, and at connection poolers.")
}

// Warnings of the launcher.

pub fn out_of_worker_slots() -> Report {
    Report::new(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, "out of background worker slots")
        .detail("Databases are not swept for dead workers until there is a free slot.")
        .hint("You might need to increase \"max_worker_processes\".")
}

pub fn do_not_fit(places: usize, id_length: usize) -> Report {
    Report::new(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, "some heartbeats do not fit in shared memory")
        .detail(format!(
            "There are more than {places} workers, or worker ids longer than {id_length} bytes. Their heartbeats \
             are written to the table at once, which is slower."
        ))
        .hint("You might need to increase \"rgrid_heartbeat.max_workers\".")
}

pub fn too_many_databases(databases: usize, places: usize) -> Report {
    Report::new(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "too many databases to look after")
        .detail(format!(
            "There are {databases}, of which {places} fit; the others are not swept for dead workers."
        ))
        .hint("In a database that is left out, the check \"sweeper\" of rgrid_health() says so.")
}

// What came from elsewhere.

pub fn not_a_trigger() -> Report {
    let message = "trigger functions can only be called as triggers";
    Report::new(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, message)
}
