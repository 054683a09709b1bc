//! What is reported to clients and to the log below ERROR: none of it ends the statement.
//!
//! PostgreSQL checks for interrupts at the end of each report. A cancel or a termination would then jump over frames of
//! Rust, here as in pgrx's own reports, which must not happen. So interrupts are held during a report and served at the
//! next check.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ffi::{CString, c_char, c_int};

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};

unsafe extern "C-unwind" {
    // Declared here because pgrx has it for its own reports only, which cannot leave the statement out.
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

/// Interrupts are held until this is dropped.
struct InterruptHold;

impl InterruptHold {
    fn new() -> Self {
        // SAFETY: a counter that only this thread writes, and not its signal handlers; what HOLD_INTERRUPTS() does.
        unsafe { pg_sys::InterruptHoldoffCount += 1 };
        Self
    }
}

impl Drop for InterruptHold {
    fn drop(&mut self) {
        // An error sets the counter to zero. SAFETY: as above; what RESUME_INTERRUPTS() does.
        unsafe { pg_sys::InterruptHoldoffCount = pg_sys::InterruptHoldoffCount.saturating_sub(1) };
    }
}

fn say(level: PgLogLevel, report: ErrorReport) {
    let _held = InterruptHold::new();
    report.report(level);
}

fn say_plainly(level: PgLogLevel, text: &str) {
    say(
        level,
        ErrorReport::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, text.to_owned(), "rgrid_heartbeat"),
    );
}

/// Reports an error as a warning.
pub fn warn(error: impl Into<ErrorReport>) {
    say(PgLogLevel::WARNING, error.into());
}

/// Tells the client something that needs no action.
pub fn notice(text: &str) {
    say_plainly(PgLogLevel::NOTICE, text);
}

/// Writes a line to the server's log.
pub fn log(text: &str) {
    say_plainly(PgLogLevel::LOG, text);
}

/// Writes a line for developers.
pub fn debug(text: &str) {
    say_plainly(PgLogLevel::DEBUG1, text);
}

/// Writes a line to the server's log alone, without the statement that led to it: it may lead to thousands of lines.
pub fn log_to_server(line: String) {
    let Ok(line) = CString::new(line) else { return };
    let _held = InterruptHold::new();
    // SAFETY: begins a report, which ends below.
    if !unsafe { pg_sys::errstart_cold(pg_sys::LOG_SERVER_ONLY as c_int, std::ptr::null()) } {
        return;
    }
    // SAFETY: a report has begun; the text is an argument of the format.
    unsafe { pg_sys::errmsg_internal(c"%s".as_ptr(), line.as_ptr()) };
    // SAFETY: a report has begun.
    unsafe { pg_sys::errhidestmt(true) };
    // SAFETY: ends the report, without a place in the source. An error in it, as of a hook of another library, becomes
    // a panic of Rust.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| errfinish(std::ptr::null(), 0, std::ptr::null()));
    }
}
