//! Everything that can go wrong, in one place: the SQLSTATE, the message, the detail and the hint of each.
//!
//! Functions return `Result<_, Error>`; the SQL functions turn an [`Error`] into the [`ErrorReport`] that
//! pgrx raises. Messages follow PostgreSQL's style guide: the primary message in lower case and without a
//! full stop, details and hints as sentences. `Error::report` is one list, and as long as there are errors.

use std::time::Duration;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi::SpiError;

use crate::VERSION;

/// A year, more or less.
const FAR_AHEAD: Duration = Duration::from_secs(366 * 24 * 3_600);

/// What the crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error that a user or an operator may meet.
///
/// `table` is a relation's name, `column` a column's, both as the message shows them.
#[derive(Debug)]
#[allow(missing_docs, reason = "of fields; each variant says what its own are")]
pub enum Error {
    // Arguments of a caller.
    /// An argument that must be given is NULL; the payload names it ("worker id").
    NullArgument(&'static str),
    /// A worker id of no characters.
    EmptyWorkerId,
    /// A worker id longer than the table of heartbeats takes, both in characters.
    WorkerIdTooLong { length: usize, limit: usize },
    /// A worker id or a hostname with a control character in it; the payload names the argument.
    ControlCharacter(&'static str),
    /// A threshold of zero or less.
    ThresholdNotPositive,

    // The library and its objects.
    /// Something that only exists when the server has loaded the library at its start.
    NotPreloaded,
    /// The extension is not installed. Its own functions can only meet this while it is being dropped.
    NotInstalled,
    /// The SQL objects are of another version than the library: of `version`.
    ForeignVersion { version: String },
    /// The table of heartbeats was dropped or renamed.
    NoHeartbeatTable { table: String },

    // A table, watched or to be watched, and its columns.
    /// A table that does not exist; `table` is what was given for its name.
    NoTable { table: String },
    /// A relation that is not a table.
    NotATable { table: String },
    /// A relation that other sessions cannot see.
    TemporaryTable { table: String },
    /// A table of a role whose rights the caller does not have.
    NotOwner { table: String },
    /// A partition or child, `part`, that belongs to a role without the rights of the table's owner.
    PartOfAnother { table: String, part: String },
    /// A table that is not watched.
    NotWatched { table: String },
    /// A column is missing.
    UndefinedColumn { table: String, column: String },
    /// A column has a type that cannot be used; `wanted` names those that can, as a phrase.
    ColumnType { table: String, column: String, wanted: &'static str },
    /// A column that settling sets to NULL does not allow it.
    ColumnNotNull { table: String, column: String },
    /// A column cannot hold a value, for the reason that its type gives, if it gives one.
    ImpossibleValue { table: String, column: String, value: String, reason: Option<String> },
    /// Two statuses that must differ are the same.
    SameStatus { status: String },
    /// An `on_death` that is neither "fail" nor "requeue".
    UnknownPolicy { word: String },
    /// Jobs go back to the queue, but no column counts how often.
    NoAttemptsColumn,
    /// A number of attempts that is less than zero.
    NegativeAttempts,

    // Work that was not done.
    /// Something took longer than it may.
    TimedOut { limit: Duration },
    /// A table that has ended or held up a sweeper is not touched for now, or not in a worker's session.
    InQuarantine,
    /// A table of jobs was locked by another session for longer than a second, so that it cannot be read.
    TableLocked { table: String },
    /// A row of a job was locked by another session for longer than a second.
    JobsLocked { table: String },
    /// Another transaction has changed the same row: the caller rolls back and tries again.
    SerializationFailure,
    /// A rule or a trigger kept a row from being written.
    NotWritten { table: String },
    /// A session stores the result of a job that was already settled.
    GivenUp { table: String },
    /// A name in a statement of ours now means another relation, `table`.
    Replaced { table: String },
    /// A name in a statement of ours now means another type, `name`.
    ReplacedType { name: String },

    // Warnings of a sweep.
    /// So many workers have a heartbeat that is ahead of the server's clock, the example among them by `ahead`.
    FutureHeartbeats { workers: usize, example: String, ahead: Duration },
    /// So many of the living workers are silent that they are held back, for `at_most`.
    MassDeath { silent: usize, living: usize, at_most: Duration },

    // Warnings of the launcher.
    /// There is no worker slot for a sweeper.
    OutOfWorkerSlots,
    /// There are more workers than `places` in memory, or ids of more bytes than `id_length`.
    DoNotFit { places: usize, id_length: usize },
    /// There are more databases than the `places` that are kept for them.
    TooManyDatabases { databases: usize, places: usize },

    // What came from elsewhere.
    /// A trigger function was called by hand.
    NotATrigger,
    /// An error that was raised in another place, kept as it was reported there.
    Caught(Report),
    /// SPI refused a statement: a fault of this extension.
    Spi(SpiError),
    /// A statement of ours did not return what it always returns: a fault of this extension.
    MissingValue(&'static str),
}

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

impl From<serde_json::Error> for Error {
    fn from(_: serde_json::Error) -> Self {
        Self::MissingValue("JSON")
    }
}

impl From<SpiError> for Error {
    fn from(error: SpiError) -> Self {
        Self::Spi(error)
    }
}

impl Error {
    /// The SQLSTATE.
    pub fn code(&self) -> PgSqlErrorCode {
        self.report().code
    }

    /// The primary message.
    pub fn message(&self) -> String {
        self.report().message
    }

    /// Whether the whole transaction should be tried again: a serialization failure or a deadlock.
    pub fn is_rollback(&self) -> bool {
        let code = self.code();
        code == PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE
            || code == PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED
    }

    /// Whether PostgreSQL reported that rows or a table are locked by other sessions.
    pub fn is_lock_not_available(&self) -> bool {
        matches!(self, Self::Caught(caught) if caught.code == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE)
    }

    /// What PostgreSQL shows of it.
    pub fn report(&self) -> Report {
        use PgSqlErrorCode::*;
        match self {
            Self::NullArgument(argument) => {
                Report::new(ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{argument} must not be null"))
            }
            Self::EmptyWorkerId => invalid("worker id must not be empty"),
            Self::WorkerIdTooLong { length, limit } => invalid("worker id is too long")
                .detail(format!("It has {length} characters; at most {limit} are possible.")),
            Self::ControlCharacter(argument) => {
                invalid(format!("{argument} must not contain control characters"))
            }
            Self::ThresholdNotPositive => invalid("threshold must be greater than zero"),

            Self::NotPreloaded => {
                not_ready("rgrid_heartbeat must be loaded via \"shared_preload_libraries\"")
                    .hint("Add it to shared_preload_libraries and restart the server.")
            }
            Self::NotInstalled => {
                not_ready("extension \"rgrid_heartbeat\" is not installed in this database")
            }
            Self::ForeignVersion { version } => not_ready(format!(
                "extension \"rgrid_heartbeat\" has version {version}, its library version {VERSION}"
            ))
            .hint("Run ALTER EXTENSION rgrid_heartbeat UPDATE, or restart the server with the new library."),
            Self::NoHeartbeatTable { table } => no_table(table).hint(
                "Rename the table back, or drop and create extension \"rgrid_heartbeat\" to have a new one.",
            ),

            Self::NoTable { table } => no_table(table),
            Self::NotATable { table } => {
                Report::new(ERRCODE_WRONG_OBJECT_TYPE, format!("\"{table}\" is not a table"))
            }
            Self::TemporaryTable { table } => {
                Report::new(ERRCODE_WRONG_OBJECT_TYPE, format!("cannot watch temporary table \"{table}\""))
            }
            Self::NotOwner { table } => {
                Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be owner of table {table}"))
            }
            Self::PartOfAnother { table, part } => Report::new(
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("owner of table {part} must have the rights of the owner of table {table}"),
            )
            .hint("Change its owner by ALTER TABLE, or detach it."),
            Self::NotWatched { table } => {
                Report::new(ERRCODE_UNDEFINED_OBJECT, format!("job table \"{table}\" is not watched"))
            }
            Self::UndefinedColumn { table, column } => {
                Report::new(ERRCODE_UNDEFINED_COLUMN, format!("{} does not exist", column_of(table, column)))
            }
            Self::ColumnType { table, column, wanted } => Report::new(
                ERRCODE_DATATYPE_MISMATCH,
                format!("{} must be of type {wanted}", column_of(table, column)),
            ),
            Self::ColumnNotNull { table, column } => {
                let message = format!("{} must allow null", column_of(table, column));
                Report::new(ERRCODE_INVALID_TABLE_DEFINITION, message)
                    .detail("It is cleared in jobs that go back to the queue.")
            }
            Self::ImpossibleValue { table, column, value, reason } => Report {
                detail: reason.as_ref().map(|reason| format!("Its type says: {reason}.")),
                ..invalid(format!("{} cannot hold \"{value}\"", column_of(table, column)))
            },
            Self::SameStatus { status } => invalid("running, dead and queued status must differ")
                .detail(format!("Two of them are \"{status}\".")),
            Self::UnknownPolicy { word } => {
                invalid("on_death must be \"fail\" or \"requeue\"").detail(format!("It is \"{word}\"."))
            }
            Self::NoAttemptsColumn => {
                invalid("jobs cannot be requeued without a column that counts attempts").hint(
                    "Name one as attempts_column; without it a job that kills its workers would come back \
                     forever.",
                )
            }
            Self::NegativeAttempts => invalid("max_attempts must not be negative"),

            Self::TimedOut { limit } => {
                Report::new(ERRCODE_QUERY_CANCELED, format!("no answer within {} s", limit.as_secs()))
            }
            Self::InQuarantine => Report::new(
                ERRCODE_QUERY_CANCELED,
                "code of its owner has ended a sweeper or held it up, so it is left out for now",
            ),
            Self::TableLocked { table } => Report::new(
                ERRCODE_LOCK_NOT_AVAILABLE,
                format!("could not obtain lock on job table \"{table}\""),
            )
            .detail("Another session has locked the table, so it is unknown whether the worker has running jobs in it.")
            .hint("Try again; the session that holds the lock can be found with pg_blocking_pids()."),
            Self::JobsLocked { table } => Report::new(
                ERRCODE_LOCK_NOT_AVAILABLE,
                format!("could not obtain lock on rows of job table \"{table}\""),
            )
            .detail(
                "The worker was given up, and jobs of its earlier incarnation are locked by another session.",
            )
            .hint("Try again; the session that holds the locks can be found with pg_blocking_pids()."),
            Self::SerializationFailure => {
                let message = "could not serialize access due to concurrent update";
                Report::new(ERRCODE_T_R_SERIALIZATION_FAILURE, message)
            }
            Self::NotWritten { table } => Report::new(
                ERRCODE_TRIGGERED_ACTION_EXCEPTION,
                format!("a rule or trigger of table \"{table}\" suppressed the write"),
            ),
            Self::GivenUp { table } => not_ready("job was given up because its worker was declared dead")
                .detail(format!(
                    "In table \"{table}\" it can only be claimed again or given back to the queue."
                ))
                .hint(
                    "Drop the result: rgrid_heartbeat() now returns a different incarnation to the worker.",
                ),
            Self::Replaced { table } => replaced("relation", table),
            Self::ReplacedType { name } => replaced("type", name),

            Self::FutureHeartbeats { workers, example, ahead } => {
                let message = format!("heartbeats from the future were taken as of now: {workers}");
                // For a heartbeat at `infinity`, a number of seconds is no help.
                let far = match *ahead < FAR_AHEAD {
                    true => format!("{:.1} s", ahead.as_secs_f64()),
                    false => "more than a year".into(),
                };
                Report::new(ERRCODE_WARNING, message)
                    .detail(format!("That of worker \"{example}\" was {far} ahead of the server's clock."))
                    .hint(
                        "Set the clocks of the workers' hosts, or let the workers call rgrid_heartbeat(), \
                         which goes by the server's clock.",
                    )
            }
            Self::MassDeath { silent, living, at_most } => {
                let message = format!("{silent} of {living} living workers fell silent and are held back");
                let seconds = at_most.as_secs_f64();
                Report::new(ERRCODE_WARNING, message)
                    .detail(format!("Workers that are still silent after {seconds:.1} s are declared dead."))
                    .hint(
                        "Look at the network between workers and server. If the workers are really gone, \
                         call rgrid_sweep(force => true).",
                    )
            }

            Self::OutOfWorkerSlots => {
                Report::new(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, "out of background worker slots")
                    .detail("Databases are not swept for dead workers until there is a free slot.")
                    .hint("You might need to increase \"max_worker_processes\".")
            }
            Self::DoNotFit { places, id_length } => {
                let message = "some heartbeats do not fit in shared memory";
                Report::new(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, message)
                    .detail(format!(
                        "There are more than {places} workers, or worker ids longer than {id_length} bytes. Their \
                         heartbeats are written to the table at once, which is slower."
                    ))
                    .hint("You might need to increase \"rgrid_heartbeat.max_workers\".")
            }
            Self::TooManyDatabases { databases, places } => Report::new(
                ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                "too many databases to look after",
            )
            .detail(format!(
                "There are {databases}, of which {places} fit; the others are not swept for dead workers."
            ))
            .hint("In a database that is left out, the check \"sweeper\" of rgrid_health() says so."),

            Self::NotATrigger => Report::new(
                ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                "trigger functions can only be called as triggers",
            ),
            Self::Caught(report) => report.clone(),
            Self::Spi(error) => Report::new(ERRCODE_INTERNAL_ERROR, format!("SPI failed: {error}")),
            Self::MissingValue(what) => {
                Report::new(ERRCODE_INTERNAL_ERROR, format!("statement returned no {what}"))
            }
        }
    }
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

fn invalid(message: impl Into<String>) -> Report {
    Report::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message)
}

fn not_ready(message: impl Into<String>) -> Report {
    Report::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
}

fn no_table(name: &str) -> Report {
    Report::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"))
}

fn replaced(kind: &str, name: &str) -> Report {
    not_ready(format!("{kind} \"{name}\" is not the one that was expected"))
        .detail("A schema, table or type was renamed while the extension was using it.")
}

fn column_of(table: &str, column: &str) -> String {
    format!("column \"{column}\" of relation \"{table}\"")
}

impl From<Error> for ErrorReport {
    #[track_caller]
    fn from(error: Error) -> Self {
        let Report { code, message, detail, hint } = error.report();
        let mut report = Self::new(code, message, "rgrid_heartbeat");
        if let Some(detail) = detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = hint {
            report = report.set_hint(hint);
        }
        report
    }
}
