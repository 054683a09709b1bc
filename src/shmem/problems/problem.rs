//! A problem as a value: what it is about, what could not be done, and why.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::error::{Error, Report};

/// What a problem is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The round as a whole: the sweeper failed, or there is nothing that it can work with.
    Round,
    /// What others have attached to the extension's tables, or were granted on them.
    OwnTables,
    /// A subscription of logical replication that writes to the heartbeats or to the ledger.
    Subscription,
    /// Filling memory from the rows, after a start.
    Memory,
    /// Writing heartbeats to their rows.
    Flush,
    /// Heartbeats that are ahead of the server's clock.
    FutureHeartbeats,
    /// Heartbeats that are UTC in the table, and are written in another zone's time.
    LocalTime,
    /// Removing what is older than the retention.
    Pruning,
    /// Workers whose deaths cannot be numbered.
    Incarnations,
    /// Settling the jobs of a watched table, or of the part of it that is settled by itself.
    JobTable {
        /// The watched table; `InvalidOid` for one that is not there.
        table: pg_sys::Oid,
        /// The part; the table itself where it is settled as a whole.
        part: pg_sys::Oid,
    },
    /// Settling jobs by a call.
    JobQueue {
        /// The OID of the function, or of the queue's main table; `InvalidOid` for one that is not there.
        queue: pg_sys::Oid,
    },
    /// Running jobs in a watched table that should be settled and that other sessions have locked.
    LockedJobs {
        /// The watched table.
        table: pg_sys::Oid,
    },
    /// Problems for which there was no room.
    Others,
}

impl Place {
    /// The watched table that it is about.
    pub fn job_table(self) -> Option<pg_sys::Oid> {
        match self {
            Self::JobTable { table, .. } | Self::LockedJobs { table } => {
                Some(table).filter(|table| *table != pg_sys::InvalidOid)
            }
            _ => None,
        }
    }

    /// What it is about, in a word or two, for the view.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Round => "sweeper",
            Self::OwnTables => "own tables",
            Self::Subscription => "subscription",
            Self::Memory => "memory",
            Self::Flush => "flush",
            Self::FutureHeartbeats => "future heartbeats",
            Self::LocalTime => "local time",
            Self::Pruning => "pruning",
            Self::Incarnations => "incarnations",
            Self::JobTable { .. } => "job table",
            Self::JobQueue { .. } => "job queue",
            Self::LockedJobs { .. } => "locked jobs",
            Self::Others => "others",
        }
    }
}

/// Something that a sweeper, or a sweep by hand, could not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it is about.
    pub place: Place,
    pub(super) code: PgSqlErrorCode,
    /// What could not be done, to be read after "could not"; empty where the reason says it all.
    attempt: String,
    /// What was in the way.
    pub(super) reason: String,
    /// How many of them there are, where that may change while the problem stays the same.
    count: Option<u64>,
    detail: Option<String>,
    hint: Option<String>,
    /// It was not met now: it is too early to try again.
    pub(super) is_standing: bool,
    /// A statement took too long.
    pub(super) is_overdue: bool,
}

impl From<Problem> for ErrorReport {
    fn from(problem: Problem) -> Self {
        let message = problem.message();
        Report { code: problem.code, message, detail: problem.detail, hint: problem.hint }.into()
    }
}

impl Problem {
    /// Something that an error prevented; `attempt` is read after "could not".
    pub fn new(place: Place, attempt: impl Into<String>, error: &Error) -> Self {
        let Report { code, message, .. } = error.report();
        Self {
            place,
            code,
            attempt: attempt.into(),
            reason: message,
            count: None,
            detail: None,
            hint: None,
            is_standing: false,
            is_overdue: error.is_interrupt(),
        }
    }

    /// The same problem, met in one part of what was attempted.
    #[must_use]
    pub fn in_part(self, part: &str) -> Self {
        Self { reason: format!("{part}: {}", self.reason), ..self }
    }

    /// A known problem that stays as it is, because it is too early to try again.
    pub fn standing(place: Place) -> Self {
        let attempt = String::new();
        let reason = "it is tried again later".to_owned();
        let code = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
        Self {
            place,
            code,
            attempt,
            reason,
            count: None,
            detail: None,
            hint: None,
            is_standing: true,
            is_overdue: false,
        }
    }

    /// The same problem of a worker's call, which goes on.
    #[must_use]
    pub fn noted(self) -> Self {
        let detail = "The call goes on. Sweepers settle those of the jobs that nobody changes.";
        Self { detail: Some(detail.into()), ..self }
    }

    /// Whether it was not met now, because it is too early to try again.
    pub fn is_standing(&self) -> bool {
        self.is_standing
    }

    /// What was in the way.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Running jobs that stay as they are because other sessions have locked them.
    pub fn of_locked_jobs(table: pg_sys::Oid, name: &str, jobs: u64) -> Self {
        Self {
            place: Place::LockedJobs { table },
            code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            attempt: format!("settle jobs in table {name}"),
            reason: "rows skipped because they are locked by other sessions".into(),
            count: Some(jobs),
            detail: None,
            hint: None,
            is_standing: false,
            is_overdue: false,
        }
    }

    /// An error that ended the round.
    pub fn of_round(error: &Error) -> Self {
        Self::with_advice(Place::Round, error)
    }

    /// An error that says it all, with its detail and its hint.
    pub fn with_advice(place: Place, error: &Error) -> Self {
        let Report { detail, hint, .. } = error.report();
        Self { detail, hint, ..Self::new(place, "", error) }
    }

    /// The same problem, with the hint of its error.
    #[must_use]
    pub fn with_hint_of(self, error: &Error) -> Self {
        Self { hint: error.report().hint, ..self }
    }

    /// Whether it comes with advice of its own.
    pub fn has_advice(&self) -> bool {
        self.hint.is_some()
    }

    pub(super) fn of_others(count: u64) -> Self {
        Self {
            place: Place::Others,
            code: PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            attempt: "keep apart all problems of this database".into(),
            reason: "there are too many; not listed".into(),
            count: Some(count),
            detail: None,
            hint: None,
            is_standing: false,
            is_overdue: false,
        }
    }

    /// The problem as a line of the log.
    pub fn message(&self) -> String {
        let count = self.count.map_or(String::new(), |count| format!(": {count}"));
        format!("{}{}{count}", self.beginning(), self.reason)
    }

    pub(super) fn beginning(&self) -> String {
        if self.attempt.is_empty() { String::new() } else { format!("could not {}: ", self.attempt) }
    }
}
