//! Everything that can go wrong, in one place: the SQLSTATE, the message, the detail and the hint of each.
//!
//! Functions return `Result<_, Error>`; the SQL functions turn an [`Error`] into the [`ErrorReport`] that
//! pgrx raises. Messages follow PostgreSQL's style guide: the primary message in lower case and without a
//! full stop, details and hints as sentences.

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
#[derive(Debug)]
pub enum Error {
    /// An argument that must be given is NULL; the payload names it ("worker id").
    NullArgument(&'static str),
    /// A worker id of no characters.
    EmptyWorkerId,
    /// A worker id longer than the table of heartbeats takes.
    WorkerIdTooLong {
        /// Characters given.
        length: usize,
        /// Characters that the table takes.
        limit: usize,
    },
    /// A worker id or a hostname with a control character in it; the payload names the argument.
    ControlCharacter(&'static str),
    /// A threshold of zero or less.
    ThresholdNotPositive,
    /// Something that only exists when the server has loaded the library at its start.
    NotPreloaded,
    /// The extension is not there, which a function of it can only see while it is being dropped.
    NotInstalled,
    /// The table of heartbeats was dropped or renamed.
    NoHeartbeatTable {
        /// The table's qualified name.
        table: String,
    },
    /// A column is missing.
    UndefinedColumn {
        /// The relation's name.
        table: String,
        /// The column's name.
        column: String,
    },
    /// A column has a type that cannot be used.
    ColumnType {
        /// The relation's name.
        table: String,
        /// The column's name.
        column: String,
        /// The types that can be used, as a phrase.
        wanted: &'static str,
    },
    /// A watched relation that is not a table.
    NotATable {
        /// The relation's name.
        table: String,
    },
    /// A table that is not there.
    NoTable {
        /// What was given in the place of its name.
        table: String,
    },
    /// A relation that other sessions cannot see.
    TemporaryTable {
        /// The relation's name.
        table: String,
    },
    /// Somebody else's table.
    NotOwner {
        /// The relation's name.
        table: String,
    },
    /// A partition or child of a watched table that belongs to a role without the rights of the table's owner.
    PartOfAnother {
        /// The watched table.
        table: String,
        /// The partition or child.
        part: String,
    },
    /// A table that is not watched.
    NotWatched {
        /// The relation's name.
        table: String,
    },
    /// Two statuses of a watched table that must differ are the same.
    SameStatus {
        /// The status.
        status: String,
    },
    /// A word for what becomes of jobs that is not one of those there are.
    UnknownPolicy {
        /// The word.
        word: String,
    },
    /// Jobs are to be given back to the queue, but nothing counts how often.
    NoAttemptsColumn,
    /// A number of attempts that is less than zero.
    NegativeAttempts,
    /// A column that settling sets to NULL does not allow it.
    ColumnNotNull {
        /// The relation's name.
        table: String,
        /// The column's name.
        column: String,
    },
    /// A column cannot hold a value.
    ImpossibleValue {
        /// The relation's name.
        table: String,
        /// The column's name.
        column: String,
        /// The value.
        value: String,
        /// What its type says, if it says anything.
        reason: Option<String>,
    },
    /// Something took longer than it may.
    TimedOut {
        /// How long it may take.
        limit: Duration,
    },
    /// A row was locked by another session for longer than a second.
    JobsLocked {
        /// The table whose rows are locked.
        table: String,
    },
    /// Somebody else is at work on the same: to be rolled back and tried again.
    SerializationFailure,
    /// The SQL objects are of another version than the library.
    ForeignVersion {
        /// The version of the SQL objects.
        version: String,
    },
    /// Some tables could not be dealt with.
    Unsettled {
        /// What could not be done, and why.
        problems: String,
    },
    /// A name of ours means another relation by now.
    Replaced {
        /// The other relation.
        table: String,
    },
    /// Workers have beaten later than the server's clock says.
    FutureHeartbeats {
        /// How many.
        workers: usize,
        /// The id of one of them.
        example: String,
        /// How far its heartbeat is ahead.
        ahead: Duration,
    },
    /// So many workers are silent that they are held back.
    MassDeath {
        /// How many are.
        silent: usize,
        /// Of how many.
        living: usize,
        /// How long they are held back.
        at_most: Duration,
    },
    /// A job that a sweep settled is to get a result after all.
    GivenUp {
        /// The job's table.
        table: String,
    },
    /// A trigger function was called by hand.
    NotATrigger,
    /// A name of a type of ours means another one by now.
    ReplacedType {
        /// The other type.
        name: String,
    },
    /// A rule or a trigger kept a row from being written.
    NotWritten {
        /// The table.
        table: String,
    },
    /// Something that an error in another place caused, kept as it was reported there.
    Caught(Caught),
    /// SPI refused a statement: a fault of this extension.
    Spi(SpiError),
    /// A statement of ours did not return what it always returns: a fault of this extension.
    MissingValue(&'static str),
}

/// An error of PostgreSQL that was caught in a subtransaction or at the top of a worker.
#[derive(Debug, Clone)]
pub struct Caught {
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
    /// Whether the whole transaction should be tried again: a serialization failure or a deadlock.
    pub fn is_rollback(&self) -> bool {
        let code = self.code();
        code == PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE
            || code == PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED
    }

    /// Whether rows or a table are locked by other sessions.
    pub fn is_lock_not_available(&self) -> bool {
        self.code() == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
    }

    /// The SQLSTATE.
    pub fn code(&self) -> PgSqlErrorCode {
        match self {
            Self::NullArgument(_) => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Self::EmptyWorkerId
            | Self::WorkerIdTooLong { .. }
            | Self::ControlCharacter(_)
            | Self::ThresholdNotPositive
            | Self::SameStatus { .. }
            | Self::UnknownPolicy { .. }
            | Self::NoAttemptsColumn
            | Self::NegativeAttempts
            | Self::ImpossibleValue { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::NotPreloaded
            | Self::NotInstalled
            | Self::ForeignVersion { .. }
            | Self::Unsettled { .. } => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::NoHeartbeatTable { .. } | Self::NoTable { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            Self::UndefinedColumn { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            Self::ColumnType { .. } => PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            Self::NotATable { .. } | Self::TemporaryTable { .. } => PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            Self::NotOwner { .. } | Self::PartOfAnother { .. } => {
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE
            }
            Self::NotWatched { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            Self::ColumnNotNull { .. } => PgSqlErrorCode::ERRCODE_INVALID_TABLE_DEFINITION,
            Self::TimedOut { .. } => PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
            Self::JobsLocked { .. } => PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            Self::SerializationFailure => PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            Self::Replaced { .. } | Self::ReplacedType { .. } => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::FutureHeartbeats { .. } | Self::MassDeath { .. } => PgSqlErrorCode::ERRCODE_WARNING,
            Self::GivenUp { .. } => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::NotWritten { .. } => PgSqlErrorCode::ERRCODE_TRIGGERED_ACTION_EXCEPTION,
            Self::NotATrigger => PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            Self::Caught(caught) => caught.code,
            Self::Spi(_) | Self::MissingValue(_) => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        }
    }

    /// The primary message.
    pub fn message(&self) -> String {
        match self {
            Self::NullArgument(argument) => format!("{argument} must not be null"),
            Self::EmptyWorkerId => "worker id must not be empty".into(),
            Self::NotATrigger => "trigger functions can only be called as triggers".into(),
            Self::WorkerIdTooLong { .. } => "worker id is too long".into(),
            Self::ControlCharacter(argument) => format!("{argument} must not contain control characters"),
            Self::ThresholdNotPositive => "threshold must be greater than zero".into(),
            Self::NotPreloaded => "rgrid_heartbeat must be loaded via \"shared_preload_libraries\"".into(),
            Self::NotInstalled => "extension \"rgrid_heartbeat\" is not installed in this database".into(),
            Self::NoHeartbeatTable { table } | Self::NoTable { table } => {
                format!("relation \"{table}\" does not exist")
            }
            Self::UndefinedColumn { table, column } => {
                format!("column \"{column}\" of relation \"{table}\" does not exist")
            }
            Self::ColumnType { table, column, wanted } => {
                format!("column \"{column}\" of relation \"{table}\" must be of type {wanted}")
            }
            Self::NotATable { table } => format!("\"{table}\" is not a table"),
            Self::TemporaryTable { table } => format!("cannot watch temporary table \"{table}\""),
            Self::NotOwner { table } => format!("must be owner of table {table}"),
            Self::PartOfAnother { table, part } => {
                format!("owner of table {part} must have the rights of the owner of table {table}")
            }
            Self::NotWatched { table } => format!("job table \"{table}\" is not watched"),
            Self::SameStatus { .. } => "running, dead and queued status must differ".into(),
            Self::UnknownPolicy { .. } => "on_death must be \"fail\" or \"requeue\"".into(),
            Self::NoAttemptsColumn => "jobs cannot be requeued without a column that counts attempts".into(),
            Self::NegativeAttempts => "max_attempts must not be negative".into(),
            Self::ColumnNotNull { table, column } => {
                format!("column \"{column}\" of relation \"{table}\" must allow null")
            }
            Self::ImpossibleValue { table, column, value, .. } => {
                format!("column \"{column}\" of relation \"{table}\" cannot hold \"{value}\"")
            }
            Self::TimedOut { limit } => format!("no answer within {} s", limit.as_secs()),
            Self::JobsLocked { table } => {
                format!("could not obtain lock on rows of job table \"{table}\"")
            }
            Self::SerializationFailure => "could not serialize access due to concurrent update".into(),
            Self::ForeignVersion { version } => {
                format!("extension \"rgrid_heartbeat\" has version {version}, its library version {VERSION}")
            }
            Self::Unsettled { problems } => problems.clone(),
            Self::Replaced { table } => format!("relation \"{table}\" is not the one that was expected"),
            Self::ReplacedType { name } => format!("type \"{name}\" is not the one that was expected"),
            Self::FutureHeartbeats { workers, .. } => {
                format!("heartbeats from the future were taken as of now: {workers}")
            }
            Self::MassDeath { silent, living, .. } => {
                format!("{silent} of {living} living workers fell silent and are held back")
            }
            Self::GivenUp { .. } => "job was given up because its worker was declared dead".into(),
            Self::NotWritten { table } => {
                format!("a rule or trigger of table \"{table}\" suppressed the write")
            }
            Self::Caught(caught) => caught.message.clone(),
            Self::Spi(error) => format!("SPI failed: {error}"),
            Self::MissingValue(what) => format!("statement returned no {what}"),
        }
    }

    /// The detail, as a sentence.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::WorkerIdTooLong { length, limit } => {
                Some(format!("It has {length} characters; at most {limit} are possible."))
            }
            Self::Replaced { .. } | Self::ReplacedType { .. } => {
                Some("A schema, table or type was renamed while the extension was using it.".into())
            }
            Self::FutureHeartbeats { example, ahead, .. } => {
                // Of the end of time no number of seconds tells anything.
                let far = match *ahead < FAR_AHEAD {
                    true => format!("{:.1} s", ahead.as_secs_f64()),
                    false => "more than a year".into(),
                };
                Some(format!("That of worker \"{example}\" was {far} ahead of the server's clock."))
            }
            Self::MassDeath { at_most, .. } => {
                let seconds = at_most.as_secs_f64();
                Some(format!("Those who are still silent after {seconds:.1} s are declared dead."))
            }
            Self::GivenUp { table } => Some(format!(
                "In table \"{table}\" it can only be claimed afresh or given back to the queue."
            )),
            Self::JobsLocked { .. } => Some(
                "The worker was given up, and jobs of its earlier incarnation are locked by another session."
                    .into(),
            ),
            Self::SameStatus { status } => Some(format!("Two of them are \"{status}\".")),
            Self::UnknownPolicy { word } => Some(format!("It is \"{word}\".")),
            Self::ColumnNotNull { .. } => Some("It is cleared in jobs that go back to the queue.".into()),
            Self::ImpossibleValue { reason, .. } => {
                reason.as_ref().map(|reason| format!("Its type says: {reason}."))
            }
            Self::Caught(caught) => caught.detail.clone(),
            _ => None,
        }
    }

    /// The hint, as a sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotPreloaded => Some("Add it to shared_preload_libraries and restart the server.".into()),
            Self::NoHeartbeatTable { .. } => Some(
                "Rename the table back, or drop and create extension \"rgrid_heartbeat\" to have a new one."
                    .into(),
            ),
            Self::JobsLocked { .. } => Some(
                "Try again; the session that holds the locks can be found with pg_blocking_pids().".into(),
            ),
            Self::FutureHeartbeats { .. } => Some(
                "Set the clocks of the workers' hosts, or let the workers call rgrid_heartbeat(), which goes by the \
                 server's clock."
                    .into(),
            ),
            Self::MassDeath { .. } => Some(
                "Look at the network between workers and server. If the workers are really gone, call \
                 rgrid_sweep(force => true)."
                    .into(),
            ),
            Self::GivenUp { .. } => Some(
                "Drop the result: rgrid_heartbeat() answers the worker another incarnation than before.".into(),
            ),
            Self::ForeignVersion { .. } => Some(
                "Run ALTER EXTENSION rgrid_heartbeat UPDATE, or restart the server with the new library."
                    .into(),
            ),
            Self::Unsettled { .. } => Some(
                "Everything else was done; this is tried again, and logged again when it changes.".into(),
            ),
            Self::PartOfAnother { .. } => {
                Some("Change its owner by ALTER TABLE, or detach it.".into())
            }
            Self::NoAttemptsColumn => Some(
                "Name one as attempts_column; without it a job that kills its workers would come back for ever."
                    .into(),
            ),
            Self::Caught(caught) => caught.hint.clone(),
            _ => None,
        }
    }
}

impl From<Error> for ErrorReport {
    #[track_caller]
    fn from(error: Error) -> Self {
        let mut report = ErrorReport::new(error.code(), error.message(), "rgrid_heartbeat");
        if let Some(detail) = error.detail() {
            report = report.set_detail(detail);
        }
        if let Some(hint) = error.hint() {
            report = report.set_hint(hint);
        }
        report
    }
}
