//! How a session ends: whether its client took leave, or is gone without a word.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use pgrx::pg_sys::SessionEndType::{DISCONNECT_CLIENT_EOF, DISCONNECT_FATAL};
use pgrx::{pg_guard, pg_sys};

/// Calls this when the process ends: after its transaction is rolled back and its locks are released, and while it can
/// still take locks of shared memory. It must not fail, and not wait.
pub fn at_end(work: fn()) {
    #[pg_guard]
    unsafe extern "C-unwind" fn call(_code: i32, work: pg_sys::Datum) {
        // The error that ended the process may have left some. SAFETY: nothing goes on that could need them.
        unsafe { pg_sys::LWLockReleaseAll() };
        // SAFETY: the function that `at_end` was given.
        let work: fn() = unsafe { std::mem::transmute(work.value()) };
        work();
    }
    // SAFETY: the function lives as long as the process.
    unsafe { pg_sys::on_shmem_exit(Some(call), pg_sys::Datum::from(work as usize)) };
}

/// Whether the client of the session that ends now is gone without a word. A session that says goodbye, or is ended by
/// an administrator, a timeout or a shutdown, has another cause.
pub fn client_has_vanished() -> bool {
    // SAFETY: a plain value of this process.
    let cause = unsafe { pg_sys::pgStatSessionEndCause };
    // SAFETY: a flag that a signal handler sets: read as volatile.
    let is_lost = unsafe { (&raw const pg_sys::ClientConnectionLost).read_volatile() } != 0;
    cause == DISCONNECT_CLIENT_EOF || cause == DISCONNECT_FATAL && is_lost
}
