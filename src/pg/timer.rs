//! Time limits for what this process is doing, and for how long it waits for locks.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

use super::scope::set_local;

unsafe extern "C-unwind" {
    // Not among pgrx's bindings; the first argument is a TimeoutId.
    fn enable_timeout_after(id: u32, milliseconds: i32);
    fn disable_timeout(id: u32, keep_indicator: bool);
    fn get_timeout_active(id: u32) -> bool;
    fn RegisterTimeout(id: u32, handler: extern "C" fn()) -> u32;
    fn kill(process: i32, signal: i32) -> i32;
}

/// The TimeoutId of `statement_timeout`, the same in all versions.
const STATEMENT_TIMEOUT: u32 = 3;

/// Asks for any TimeoutId that is free.
const ANY_TIMEOUT: u32 = 1_000;

fn milliseconds(limit: Duration) -> i32 {
    // Never too early, and zero would be refused.
    limit.as_micros().div_ceil(1_000).max(1).try_into().unwrap_or(i32::MAX)
}

/// Cancels what this process is doing when the time is over, unless dropped before. The timer is that of
/// `statement_timeout`, which Postgres does not start for statements of a function or of a background worker.
pub struct Timer {
    /// When the time is over; `None` when the session has a timer of its own running.
    deadline: Option<Instant>,
}

impl Timer {
    /// Starts the timer.
    pub fn start(limit: Duration) -> Self {
        // SAFETY: reads a flag of this process.
        if unsafe { get_timeout_active(STATEMENT_TIMEOUT) } {
            return Self { deadline: None };
        }
        let deadline = Instant::now() + limit;
        // SAFETY: registered in every process that runs SQL, and not running; stopped by `drop`.
        unsafe { enable_timeout_after(STATEMENT_TIMEOUT, milliseconds(limit)) };
        Self { deadline: Some(deadline) }
    }

    /// Whether the time is over.
    pub fn has_expired(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if self.deadline.is_some() {
            // SAFETY: started by `start`; one that has fired or was stopped by an error can be stopped again.
            unsafe { disable_timeout(STATEMENT_TIMEOUT, false) };
        }
    }
}

/// Until when a call may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Instant, Duration);

impl Deadline {
    /// A deadline that is so far away.
    pub fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit, limit)
    }

    /// How far it was away.
    pub fn limit(self) -> Duration {
        self.1
    }

    /// How long is left.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// This deadline, or one that is so far away, if that is earlier.
    pub fn at_most(self, limit: Duration) -> Self {
        if limit < self.remaining() { Self::after(limit) } else { self }
    }

    /// A deadline after half of the time that is left.
    pub fn half(self) -> Self {
        self.at_most(self.remaining() / 2)
    }
}

/// How much longer code of a table's owner may go on that catches its cancellation, before its session is ended.
const GRACE: Duration = Duration::from_secs(2);

thread_local! {
    /// The TimeoutIds of the two signals, once they are registered.
    static SIGNALS: Cell<Option<(u32, u32)>> = const { Cell::new(None) };
    /// Whether a timer of this session is running.
    static IS_RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Whether the last timer has cancelled something.
static WAS_CANCELLED: AtomicBool = AtomicBool::new(false);

/// Whether this session is being ended because a cancellation was not enough.
static WAS_ENDED: AtomicBool = AtomicBool::new(false);

extern "C" fn cancel() {
    WAS_CANCELLED.store(true, Ordering::Relaxed);
    // SAFETY: async-signal-safe; the same as what PostgreSQL's own timeouts do.
    unsafe { kill(pg_sys::MyProcPid, pg_sys::SIGINT as i32) };
}

extern "C" fn end() {
    WAS_ENDED.store(true, Ordering::Relaxed);
    // SAFETY: as above.
    unsafe { kill(pg_sys::MyProcPid, pg_sys::SIGTERM as i32) };
}

/// Whether this session is being ended because code of a table's owner outlived its cancellation.
pub fn has_ended_session() -> bool {
    WAS_ENDED.load(Ordering::Relaxed)
}

/// Cancels what a session is doing when the time is over, and ends the session when that does not help. Unlike
/// [`Timer`] it does not care about a `statement_timeout` of the session. Stopped when dropped. One that is started
/// while another one is running, by a trigger that calls a function of ours, does nothing.
pub struct SessionTimer {
    /// `None` where another one is running.
    signals: Option<(u32, u32)>,
}

impl SessionTimer {
    /// Starts the timer.
    pub fn start(limit: Duration) -> Self {
        if IS_RUNNING.replace(true) {
            return Self { signals: None };
        }
        let signals = SIGNALS.get().unwrap_or_else(|| {
            // SAFETY: timeouts are initialised in every process that runs SQL; the handlers live as long as it does.
            let signals =
                unsafe { (RegisterTimeout(ANY_TIMEOUT, cancel), RegisterTimeout(ANY_TIMEOUT, end)) };
            SIGNALS.set(Some(signals));
            signals
        });
        WAS_CANCELLED.store(false, Ordering::Relaxed);
        // SAFETY: registered above, and not running.
        unsafe { enable_timeout_after(signals.0, milliseconds(limit)) };
        // SAFETY: as above.
        unsafe { enable_timeout_after(signals.1, milliseconds(limit + GRACE)) };
        Self { signals: Some(signals) }
    }

    /// Whether the time of the last timer of this session was over before it was stopped.
    pub fn has_fired() -> bool {
        WAS_CANCELLED.load(Ordering::Relaxed)
    }
}

impl Drop for SessionTimer {
    fn drop(&mut self) {
        let Some(signals) = self.signals else { return };
        IS_RUNNING.set(false);
        // SAFETY: started by `start`; one that has fired or was stopped by an error can be stopped again.
        unsafe { disable_timeout(signals.0, false) };
        // SAFETY: as above.
        unsafe { disable_timeout(signals.1, false) };
        if Self::has_fired() {
            // A cancel that came too late for the work would hit what comes next. SAFETY: a flag of this process.
            unsafe { (&raw mut pg_sys::QueryCancelPending).write_volatile(0) };
        }
    }
}

/// Runs `work` with this `lock_timeout`, whatever the session's own setting.
pub fn waiting_at_most<T>(lock_timeout: &CStr, work: impl FnOnce() -> T) -> T {
    // SAFETY: closed below, or by the abort of the (sub)transaction when an error passes.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    set_local(c"lock_timeout", lock_timeout);
    let result = work();
    // SAFETY: the level opened above, and the scopes nest.
    unsafe { pg_sys::AtEOXact_GUC(false, level) };
    result
}

/// Runs `work`, in which no lock is waited for longer than is left now. A shorter setting of the session's own stays.
///
/// `None` when a lock was not to be had in this time. The transaction has failed then: the caller raises an error.
pub fn waiting_until<T>(deadline: Deadline, work: impl FnOnce() -> T) -> Option<T> {
    // SAFETY: a setting of this process.
    let own = unsafe { pg_sys::LockTimeout };
    let left = deadline.remaining().as_millis().clamp(1, i32::MAX as u128) as i32;
    if own != 0 && own <= left {
        return Some(work());
    }
    let limit = CString::new(left.to_string()).ok()?;
    PgTryBuilder::new(AssertUnwindSafe(|| Some(waiting_at_most(&limit, work))))
        .catch_when(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, |_| None)
        .execute()
}
