//! Code that runs inside something: as another role, in a subtransaction, in a worker's transaction. In one file,
//! because what an error means depends on all of them.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

use super::role_guard::RoleGuard;
use super::timer::{Deadline, SessionTimer, Timer};
use super::{attached, names, process};
use crate::error::{Error, Report, Result};

thread_local! {
    /// How long a statement may run that can set off code of a table's owner; `None` in a session.
    static STATEMENT_LIMIT: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Limits each statement of this process that can set off code of a table's owner: it is cancelled after `limit`. For a
/// process whose statements no user cancels: in it a cancelled statement is an error like any other.
pub fn limit_statements(limit: Duration) {
    STATEMENT_LIMIT.set(Some(limit));
}

/// How long a statement of this process may run that can set off code of a table's owner; `None` in a session.
pub fn statement_limit() -> Option<Duration> {
    STATEMENT_LIMIT.get()
}

fn has_limit() -> bool {
    statement_limit().is_some()
}

/// Work to be done as another role, in a security-restricted operation and with settings of its own.
///
/// Triggers, policies, defaults and functions that the work sets off have the role's rights and no more. They can
/// neither change the role nor leave anything behind in the session, and see pg_catalog alone, unless
/// [`owners_path`](Scope::owners_path) names more. row_security is off, so a policy that would hide rows raises an
/// error instead. VACUUM and ANALYZE protect themselves from the owners' index expressions in the same way.
///
/// The statements of the work may name the relations of the scope, the types of their columns, and objects of the
/// system. The owner of a schema can rename it at any moment and put another one in its place: then the object that the
/// name now means is refused before any of its code runs.
#[must_use = "nothing is done before it is run"]
pub struct Scope<'a> {
    role: pg_sys::Oid,
    relations: &'a [pg_sys::Oid],
    settings: Vec<(&'static CStr, &'static CStr)>,
    functions: Option<&'a [pg_sys::Oid]>,
    owners_path: Option<CString>,
    is_guarded: bool,
}

impl<'a> Scope<'a> {
    /// Work as `role` whose statements may name these relations.
    pub fn of(role: pg_sys::Oid, relations: &'a [pg_sys::Oid]) -> Self {
        Self { role, relations, settings: Vec::new(), functions: None, owners_path: None, is_guarded: false }
    }

    /// With a setting, which must be one that any user may set.
    pub fn set(mut self, name: &'static CStr, value: &'static CStr) -> Self {
        self.settings.push((name, value));
        self
    }

    /// Whose statements call functions of users: these and no others.
    pub fn functions(self, functions: &'a [pg_sys::Oid]) -> Self {
        Self { functions: Some(functions), ..self }
    }

    /// Refusing statements while code of others is attached to the relations, which are the extension's own.
    pub fn guarded(self, is_guarded: bool) -> Self {
        Self { is_guarded, ..self }
    }

    /// With this search_path for the owner's code that the first statement of the work sets off. The names in the
    /// statement itself are looked up before that, in pg_catalog alone. If its plan is made anew meanwhile, they are
    /// looked up with this path: so its operators, functions and types have to be named with their schemas.
    pub fn owners_path(mut self, path: &str) -> Self {
        self.owners_path = CString::new(path).ok();
        self
    }

    /// Waiting for a lock for no longer than this, whatever the session's own setting.
    pub fn lock_timeout(self, limit: &'static CStr) -> Self {
        self.set(c"lock_timeout", limit)
    }

    /// With plans that look rows up by their keys: writing a part of a table costs as much as the part has rows,
    /// however large the rest is. Only the costs are changed: without an index for it, the planner still finds another
    /// way.
    pub fn by_keys(self) -> Self {
        self.set(c"random_page_cost", c"0.1")
    }

    /// With plans for tables that are in memory, as tables are that every sweep reads: looking up a few thousand rows
    /// is then cheaper than the planner thinks.
    pub fn in_memory(self) -> Self {
        self.set(c"random_page_cost", c"1.1")
    }

    /// With plans that use an index wherever one can be used.
    pub fn preferring_indexes(self) -> Self {
        self.set(c"enable_seqscan", c"off")
    }

    /// Does the work.
    pub fn run<T>(self, work: impl FnOnce() -> T) -> T {
        let _restored = RoleGuard::enter(self.role);
        let _narrowed = names::allow(self.relations);
        let _functions = names::allow_functions(self.functions);
        let _guarded = names::guard(self.is_guarded);
        let _switched = names::then_search(self.owners_path);
        set_local(c"search_path", c"pg_catalog, pg_temp");
        set_local(c"row_security", c"off");
        // Many rows, few expressions: compiling those takes longer than it saves.
        set_local(c"jit", c"off");
        if self.is_guarded && attached::planner_evaluates_constraints() {
            set_local(c"constraint_exclusion", c"off");
        }
        // Whoever set it, an error of the owner's code is not to end this process.
        if process::ends_on_error() {
            set_local(c"exit_on_error", c"off");
        }
        self.settings.iter().for_each(|(name, value)| set_local(name, value));
        let _bounded = statement_limit().map(Timer::start);
        work()
    }
}

/// Runs `work` as the role that is the current one outside of all functions, in a security-restricted operation.
pub fn as_outer_role<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: reads the session's roles.
    let _restored = RoleGuard::enter(unsafe { pg_sys::GetOuterUserId() });
    work()
}

/// Sets a setting until the current GUC nest level ends.
pub(super) fn set_local(name: &CStr, value: &CStr) {
    // SAFETY: both strings outlive the call; the value is copied. Every setting used here is one that any
    // user may set, so the caller's rights do not matter.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        )
    };
}

/// Runs `work` in a subtransaction; an error in it undoes the work, and only the work.
///
/// A cancel is not an error of the work: it is raised again, unless this process limits its statements.
pub fn subtransaction<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    subtransaction_unless(|error| is_cancel(error) && !has_limit(), work)
}

/// Runs `work` as [`subtransaction`] does, for so long at most.
///
/// # Errors
///
/// [`Error::TimedOut`] when it took longer. In a session with a running `statement_timeout` of its own, that one
/// applies instead.
pub fn subtransaction_within<T>(limit: Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let timer = Timer::start(limit);
    let is_foreign = |error: &CaughtError| is_cancel(error) && !timer.has_expired() && !has_limit();
    let result = subtransaction_unless(is_foreign, work);
    let expired = timer.has_expired();
    drop(timer);
    result.map_err(|error| match error.is_cancel() && expired {
        true => Error::TimedOut { limit },
        false => error,
    })
}

/// Runs `work` of a worker's call in a subtransaction, until the deadline at most. Every error in it is caught, also a
/// cancel, whoever wanted it: it stops this work, and the call still gets its answer. Code that outlives its
/// cancellation ends with its session.
///
/// # Errors
///
/// [`Error::TimedOut`] when there was not enough time, or none.
pub fn subtransaction_of_call<T>(deadline: Deadline, work: impl FnOnce() -> Result<T>) -> Result<T> {
    bounded(deadline, |_| false, work)
}

/// Runs `work` in a subtransaction that is undone in any case, until the deadline at most. A cancel that somebody else
/// wanted is raised again. Code that outlives its cancellation ends with its session.
///
/// # Errors
///
/// [`Error::TimedOut`] when there was not enough time, or none.
pub fn undone_until<T>(deadline: Deadline, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut done = None;
    let Err(error) = bounded(deadline, is_cancel, || {
        done = Some(work()?);
        Err::<Infallible, _>(Error::MissingValue("end"))
    });
    done.ok_or(error)
}

/// Runs `work` of a session in a subtransaction, until the deadline at most. A cancel that a user wants is raised
/// again.
///
/// # Errors
///
/// [`Error::TimedOut`] when there was not enough time, or none.
pub fn subtransaction_until<T>(deadline: Deadline, work: impl FnOnce() -> Result<T>) -> Result<T> {
    bounded(deadline, is_cancel, work)
}

/// A subtransaction that a session runs until the deadline at most. The errors for which `is_foreign` says so are not
/// caught, if the time is not over.
fn bounded<T>(
    deadline: Deadline,
    is_foreign: impl Fn(&CaughtError) -> bool,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (left, limit) = (deadline.remaining(), deadline.limit());
    if left.is_zero() {
        return Err(Error::TimedOut { limit });
    }
    let work = || {
        // Stopped before the subtransaction ends, which a cancel must not hit.
        let _timer = SessionTimer::start(left);
        work()
    };
    let result = subtransaction_unless(|error| !SessionTimer::has_fired() && is_foreign(error), work);
    result.map_err(|error| match error.is_cancel() && SessionTimer::has_fired() {
        true => Error::TimedOut { limit },
        false => error,
    })
}

/// The errors for which `is_foreign` says so are not caught.
fn subtransaction_unless<T>(
    is_foreign: impl Fn(&CaughtError) -> bool,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    // SAFETY: a global that only this thread writes; it says where results are to live.
    let context = unsafe { pg_sys::CurrentMemoryContext };
    // SAFETY: as above; it names the owner of what the work opens.
    let owner = unsafe { pg_sys::CurrentResourceOwner };
    // SAFETY: ended by exactly one of the two branches below.
    unsafe { pg_sys::BeginInternalSubTransaction(std::ptr::null()) };
    // SAFETY: the caller's context outlives the subtransaction, whose own would take the results along.
    unsafe { pg_sys::MemoryContextSwitchTo(context) };
    let result = PgTryBuilder::new(AssertUnwindSafe(|| work().map_err(Failure::Returned)))
        .catch_others(|error| Err(Failure::Raised(error)))
        .execute();
    match &result {
        // SAFETY: the subtransaction begun above is the innermost one: everything inside it nests.
        Ok(_) => unsafe { pg_sys::ReleaseCurrentSubTransaction() },
        // SAFETY: as above.
        Err(_) => unsafe { pg_sys::RollbackAndReleaseCurrentSubTransaction() },
    }
    // SAFETY: valid before the subtransaction, and it has not ended since.
    unsafe { pg_sys::MemoryContextSwitchTo(context) };
    // SAFETY: as above.
    unsafe { pg_sys::CurrentResourceOwner = owner };
    result.map_err(|failure| match failure {
        Failure::Returned(error) => error,
        Failure::Raised(error) if is_foreign(&error) => error.rethrow(),
        Failure::Raised(error) => caught(&error),
    })
}

/// How the work of a subtransaction failed.
enum Failure {
    /// By its result.
    Returned(Error),
    /// By an error of Postgres, or a panic.
    Raised(CaughtError),
}

/// Runs `work` in a transaction of a background worker's own; an error aborts it and is returned.
pub fn transaction<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: workers run no transaction outside of this function; see the two branches for the end.
    unsafe { pg_sys::SetCurrentStatementStartTimestamp() };
    // SAFETY: as above.
    unsafe { pg_sys::StartTransactionCommand() };
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: in a transaction; popped below, or dropped by the abort.
        let snapshot = unsafe { pg_sys::GetTransactionSnapshot() };
        // SAFETY: as above.
        unsafe { pg_sys::PushActiveSnapshot(snapshot) };
        let result = work()?;
        // SAFETY: the one pushed above: whatever the work pushed, it popped.
        unsafe { pg_sys::PopActiveSnapshot() };
        // SAFETY: the transaction begun above. An error in it, as in a deferred constraint, is caught here.
        unsafe { pg_sys::CommitTransactionCommand() };
        Ok(result)
    }))
    .catch_others(|error| Err(caught(&error)))
    .execute();
    if result.is_err() {
        // SAFETY: ends whatever state the error left; without it the next transaction finds this one open.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    // SAFETY: outside of a transaction. Without it autovacuum does not count the rows changed here.
    unsafe { pg_sys::pgstat_report_stat(true) };
    result
}

fn report_of(error: &CaughtError) -> &ErrorReportWithLevel {
    match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
        CaughtError::RustPanic { ereport, .. } => ereport,
    }
}

/// Whether the statement was cancelled. In a session that is not the catcher's to handle. In a process that limits its
/// statements it ends the work at hand like any error.
fn is_cancel(error: &CaughtError) -> bool {
    report_of(error).sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED && is_interrupt(error)
}

/// Whether PostgreSQL itself has stopped the statement, by a cancel or a timeout. Code that raises an error with the
/// same SQLSTATE raises it in another place of the source.
fn is_interrupt(error: &CaughtError) -> bool {
    report_of(error).function_name() == Some("ProcessInterrupts")
}

/// What an error said.
fn caught(error: &CaughtError) -> Error {
    let report = report_of(error);
    let kind = if is_interrupt(error) { Error::Interrupted } else { Error::Caught };
    kind(Report {
        code: report.sql_error_code(),
        message: report.message().to_owned(),
        detail: report.detail().map(str::to_owned),
        hint: report.hint().map(str::to_owned),
    })
}

/// Whether the current transaction keeps one snapshot for all of its statements (REPEATABLE READ, SERIALIZABLE).
pub fn has_one_snapshot() -> bool {
    // SAFETY: a global that only this thread writes.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Runs `work` with a snapshot of this moment, also in a transaction that keeps an older one.
pub fn with_latest_snapshot<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: in a transaction.
    let snapshot = unsafe { pg_sys::GetLatestSnapshot() };
    // SAFETY: popped below; dropped by the abort of the (sub)transaction when an error passes.
    unsafe { pg_sys::PushActiveSnapshot(snapshot) };
    let result = work();
    // SAFETY: the one pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}
