//! Everything that can go wrong, in one place. What PostgreSQL shows of each is in `report`. Both files are long
//! because they are lists.
//!
//! Functions return `Result<_, Error>`; the SQL functions turn an [`Error`] into the [`ErrorReport`] that
//! pgrx raises.

mod report;

use std::time::Duration;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi::SpiError;

pub use report::Report;

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
    /// A role that does not exist.
    NoRole { role: String },

    // Whose worker ids are whose.
    /// A worker id that belongs to a role whose rights the caller does not have.
    NotOwnId { worker: String, owner: String },
    /// A role would have more living workers than the `limit`.
    TooManyWorkers { role: String, limit: usize },
    /// A worker that is not known.
    UnknownWorker { worker: String },
    /// A role that the caller may not SET ROLE to.
    NotMember { role: String },
    /// The table of heartbeats is an adopted one, in which ids belong to no role.
    IdsWithoutOwner { table: String },

    // The library and its objects.
    /// Something that only exists when the server has loaded the library at its start.
    NotPreloaded,
    /// A worker was attached or detached in a transaction that is to be prepared.
    AttachedAndPrepared,
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
    /// A function that does not exist; `function` is its signature.
    NoFunction { function: String },
    /// A function that cannot settle jobs.
    NotSettling { function: String },
    /// A function that cannot list the running jobs of workers.
    NotTelling { function: String },
    /// A function of a role whose rights the caller does not have.
    NotFunctionOwner { function: String },
    /// The function that says what is running belongs to another role than the one that settles.
    FunctionOfAnother { function: String },
    /// A queue that is not known by name; `known` are those that are.
    UnknownQueue { queue: String, known: String },
    /// The tables of a queue are not as they have to be; `what` is the first difference, as a clause.
    QueueDiffers { queue: &'static str, schema: String, what: String, versions: &'static str },
    /// No sweeper has called the function or queue that has to settle the jobs of a worker's earlier life.
    CallPending { worker: String },

    /// A column is missing.
    UndefinedColumn { table: String, column: String },
    /// A column has a type that cannot be used; `wanted` names those that can, as a phrase.
    ColumnType { table: String, column: String, wanted: &'static str },
    /// A column that settling sets to NULL does not allow it.
    ColumnNotNull { table: String, column: String },
    /// A column that settling writes gets its values from PostgreSQL alone.
    ColumnGenerated { table: String, column: String },
    /// The table's owner may not read or update a column that settling writes.
    OwnerMayNotUpdate { table: String, column: String },
    /// A column is named for two purposes.
    ColumnTwice { table: String, column: String },
    /// A column cannot hold a value, for the reason that its type gives, if it gives one.
    ImpossibleValue { table: String, column: String, value: String, reason: Option<String> },
    /// Two statuses that must differ are the same.
    SameStatus { status: String },
    /// An argument that must be one of some words, and is another one.
    UnknownWord { argument: &'static str, words: Vec<&'static str>, word: String },
    /// Jobs go back to the queue, but no column counts how often, and no key tells which job it is.
    NoAttemptsColumn,
    /// The queue is to count attempts when it claims jobs, but no column is named.
    NoClaimCounter,
    /// A text that is no assignment to a column.
    InvalidAssignment { text: String, reason: &'static str },
    /// A channel or payload that PostgreSQL would not take.
    InvalidWake { argument: &'static str, least: usize, most: usize },
    /// A number of attempts that is less than zero.
    NegativeAttempts,

    // Work that was not done.
    /// Something took longer than it may.
    TimedOut { limit: Duration },
    /// A table that has ended or held up a sweeper is not touched for now, or not in a worker's session.
    InQuarantine,
    /// No worker is declared dead: a subscription writes to `table`, which has the heartbeats or the deaths.
    Replicated { table: String, subscription: String },
    /// A subscription writes to a table of jobs, so the publisher settles them.
    JobsReplicated { subscription: String },
    /// A table of the extension is locked by another session, the process `pid` or a prepared transaction.
    OwnTableLocked { table: String, pid: Option<i32>, mode: String },
    /// Running jobs of a worker are locked by another session.
    JobsLocked,
    /// Jobs of a worker in `table` cannot be settled, and for this reason, a sentence, cannot be noted for later,
    /// either.
    NotNoted { table: String, reason: &'static str },
    /// The row of a worker was locked by another session for so long.
    WorkerLocked { limit: Duration },
    /// Another transaction has changed the same row: the caller rolls back and tries again.
    SerializationFailure,
    /// A job is running after it was settled.
    StillRunning,
    /// Jobs were settled that may be those of a living worker, whose id is another spelling of the same.
    OtherSpelling { worker: String },
    /// A worker has no further incarnation, because its number in a table is too high.
    IncarnationOutOfRange { worker: String },
    /// A rule or a trigger kept a row from being written.
    NotWritten { table: String },
    /// The row of a worker that has left stays, for this reason.
    RowKept { worker: String, reason: String },
    /// A session stores the result of a job that was already settled.
    GivenUp { table: String },
    /// A table of jobs whose rows are elsewhere takes no trigger, for this reason.
    FenceRefused { table: String, reason: String },
    /// A rehearsal could not settle a job.
    Rehearsal(Rehearsal),
    /// A name in a statement of ours now means another relation, `table`.
    Replaced { table: String },
    /// A name in a statement of ours now means another type, `name`.
    ReplacedType { name: String },
    /// A name in a statement of ours now means another operator, `name`.
    ReplacedOperator { name: String },
    /// A name means another function than before.
    ReplacedFunction { name: String },
    /// Something is attached to a table of the extension that others may have put there; `what` names it.
    ForeignCode { table: String, what: String },
    /// Deleting a row of `table` would run code of these owners of tables that refer to it, as one of them.
    SeveralOwners { table: String, owners: String },
    /// What others had attached to tables of the extension, or were granted on them, was taken back; `what` lists it.
    TakenBack { what: String },
    /// Flushes pause: no version of a row that they have replaced can be removed.
    SnapshotHeld,
    /// The entry of a watched table was made by `role`, which is gone or has not the rights of the table's owner.
    EntryOfAnother { role: String },
    /// A table that has the name of a watched one now belongs to `owner`, and that one to `before`.
    OwnerDiffers { owner: String, before: String },
    /// Another entry means the same table.
    WatchedTwice,

    // Warnings of a sweep.
    /// So many workers have a heartbeat that is ahead of the server's clock, the example among them by `ahead`.
    FutureHeartbeats { workers: usize, example: String, ahead: Duration },
    /// So many workers, the example among them, write their heartbeats into `table` in the time of a zone that is
    /// behind UTC.
    LocalTime { table: String, workers: usize, example: String, behind: Duration },
    /// So many of the living workers are silent that they are held back, for `at_most`.
    MassDeath { silent: usize, living: usize, at_most: Duration },
    /// The sessions of so many workers ended together, so they are judged by their silence alone.
    LostTogether { workers: usize },

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
    /// A statement was cancelled: a user wanted it, or a timeout or `lock_timeout` was over. Code cannot raise this.
    Interrupted(Report),
    /// SPI refused a statement: a fault of this extension.
    Spi(SpiError),
    /// A statement of ours did not return what it always returns: a fault of this extension.
    MissingValue(&'static str),
}

/// What a rehearsal could not do.
#[derive(Debug)]
pub struct Rehearsal {
    /// The watched table.
    pub table: String,
    /// What was tried, as a phrase.
    pub tried: String,
    /// The search_path of the owner's code.
    pub path: String,
    /// A statement after which that has another schema.
    pub revoke: Option<String>,
    /// Whether every job meets the same.
    pub never_works: bool,
    /// What was met.
    pub why: Report,
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
        self.was_reported_as(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE)
    }

    /// Whether a row that is to be deleted stays, because of tables that refer to it: their rows do, they are locked,
    /// they take too long, or their code raises whatever.
    pub fn keeps_row(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Caught(_) | Self::Interrupted(_))
    }

    /// Whether a statement was cancelled: by a user, a timeout, or code of a table's owner that raises the same.
    pub fn is_cancel(&self) -> bool {
        self.was_reported_as(PgSqlErrorCode::ERRCODE_QUERY_CANCELED)
    }

    /// Whether PostgreSQL has stopped a statement, because of a cancel or a timeout. Code cannot raise this.
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Interrupted(_))
    }

    fn was_reported_as(&self, code: PgSqlErrorCode) -> bool {
        matches!(self, Self::Caught(report) | Self::Interrupted(report) if report.code == code)
    }

    /// Whether only one of many workers is refused, whatever the others are.
    pub fn is_of_one_worker(&self) -> bool {
        matches!(self, Self::NotOwnId { .. } | Self::TooManyWorkers { .. })
    }

    /// What PostgreSQL shows of it. Long, but a list: a line for each error.
    pub fn report(&self) -> Report {
        match self {
            Self::NullArgument(argument) => report::null_argument(argument),
            Self::EmptyWorkerId => report::invalid("worker id must not be empty"),
            Self::WorkerIdTooLong { length, limit } => report::worker_id_too_long(*length, *limit),
            Self::ControlCharacter(argument) => report::control_character(argument),
            Self::ThresholdNotPositive => report::invalid("threshold must be greater than zero"),
            Self::NoRole { role } => report::no_role(role),

            Self::NotOwnId { worker, owner } => report::not_own_id(worker, owner),
            Self::TooManyWorkers { role, limit } => report::too_many_workers(role, *limit),
            Self::UnknownWorker { worker } => report::unknown_worker(worker),
            Self::NotMember { role } => report::not_member(role),
            Self::IdsWithoutOwner { table } => report::ids_without_owner(table),

            Self::NotPreloaded => report::not_preloaded(),
            Self::AttachedAndPrepared => report::attached_and_prepared(),
            Self::NotInstalled => report::not_installed(),
            Self::ForeignVersion { version } => report::foreign_version(version),
            Self::NoHeartbeatTable { table } => report::no_heartbeat_table(table),

            Self::NoTable { table } => report::no_table(table),
            Self::NotATable { table } => report::not_a_table(table),
            Self::TemporaryTable { table } => report::temporary_table(table),
            Self::NotOwner { table } => report::not_owner(table),
            Self::PartOfAnother { table, part } => report::part_of_another(table, part),
            Self::NotWatched { table } => report::not_watched(table),
            Self::NoFunction { function } => report::no_function(function),
            Self::NotSettling { function } => report::not_settling(function),
            Self::NotTelling { function } => report::not_telling(function),
            Self::NotFunctionOwner { function } => report::not_function_owner(function),
            Self::FunctionOfAnother { function } => report::function_of_another(function),
            Self::UnknownQueue { queue, known } => report::unknown_queue(queue, known),
            Self::QueueDiffers { queue, schema, what, versions } => {
                report::queue_differs(queue, schema, what, versions)
            }
            Self::CallPending { worker } => report::call_pending(worker),
            Self::UndefinedColumn { table, column } => report::undefined_column(table, column),
            Self::ColumnType { table, column, wanted } => report::column_type(table, column, wanted),
            Self::ColumnNotNull { table, column } => report::column_not_null(table, column),
            Self::ColumnGenerated { table, column } => report::column_generated(table, column),
            Self::OwnerMayNotUpdate { table, column } => report::owner_may_not_update(table, column),
            Self::ColumnTwice { table, column } => report::column_twice(table, column),
            Self::ImpossibleValue { table, column, value, reason } => {
                report::impossible_value(table, column, value, reason.as_deref())
            }
            Self::SameStatus { status } => report::same_status(status),
            Self::UnknownWord { argument, words, word } => report::unknown_word(argument, words, word),
            Self::NoAttemptsColumn => report::no_attempts_column(),
            Self::NoClaimCounter => report::no_claim_counter(),
            Self::InvalidAssignment { text, reason } => report::invalid_assignment(text, reason),
            Self::InvalidWake { argument, least, most } => report::invalid_wake(argument, *least, *most),
            Self::NegativeAttempts => report::invalid("max_attempts must not be negative"),

            Self::TimedOut { limit } => report::timed_out(*limit),
            Self::InQuarantine => report::in_quarantine(),
            Self::Replicated { table, subscription } => report::replicated(table, subscription),
            Self::JobsReplicated { subscription } => report::jobs_replicated(subscription),
            Self::OwnTableLocked { table, pid, mode } => report::own_table_locked(table, *pid, mode),
            Self::JobsLocked => report::jobs_locked(),
            Self::NotNoted { table, reason } => report::not_noted(table, reason),
            Self::WorkerLocked { limit } => report::worker_locked(*limit),
            Self::SerializationFailure => report::serialization_failure(),
            Self::StillRunning => report::still_running(),
            Self::OtherSpelling { worker } => report::other_spelling(worker),
            Self::IncarnationOutOfRange { worker } => report::incarnation_out_of_range(worker),
            Self::NotWritten { table } => report::not_written(table),
            Self::RowKept { worker, reason } => report::row_kept(worker, reason),
            Self::GivenUp { table } => report::given_up(table),
            Self::FenceRefused { table, reason } => report::fence_refused(table, reason),
            Self::Rehearsal(rehearsal) => report::rehearsal(rehearsal),
            Self::Replaced { table } => report::replaced("relation", table),
            Self::ReplacedType { name } => report::replaced("type", name),
            Self::ReplacedOperator { name } => report::replaced("operator", name),
            Self::ReplacedFunction { name } => report::replaced("function", name),
            Self::ForeignCode { table, what } => report::foreign_code(table, what),
            Self::SeveralOwners { table, owners } => report::several_owners(table, owners),
            Self::TakenBack { what } => report::taken_back(what),
            Self::SnapshotHeld => report::snapshot_held(),
            Self::EntryOfAnother { role } => report::entry_of_another(role),
            Self::OwnerDiffers { owner, before } => report::owner_differs(owner, before),
            Self::WatchedTwice => report::watched_twice(),

            Self::FutureHeartbeats { workers, example, ahead } => {
                report::future_heartbeats(*workers, example, *ahead)
            }
            Self::LocalTime { table, workers, example, behind } => {
                report::local_time(table, *workers, example, *behind)
            }
            Self::MassDeath { silent, living, at_most } => report::mass_death(*silent, *living, *at_most),
            Self::LostTogether { workers } => report::lost_together(*workers),

            Self::OutOfWorkerSlots => report::out_of_worker_slots(),
            Self::DoNotFit { places, id_length } => report::do_not_fit(*places, *id_length),
            Self::TooManyDatabases { databases, places } => report::too_many_databases(*databases, *places),

            Self::NotATrigger => report::not_a_trigger(),
            Self::Caught(report) | Self::Interrupted(report) => report.clone(),
            Self::Spi(error) => report::internal(format!("SPI failed: {error}")),
            Self::MissingValue(what) => report::internal(format!("statement returned no {what}")),
        }
    }
}

impl From<Error> for ErrorReport {
    #[track_caller]
    fn from(error: Error) -> Self {
        error.report().into()
    }
}

impl From<Report> for ErrorReport {
    #[track_caller]
    fn from(Report { code, message, detail, hint }: Report) -> Self {
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
