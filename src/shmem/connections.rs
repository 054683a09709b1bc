//! When the server could take no connection: a worker that had to connect was not heard then.
//!
//! Written by the launcher, which looks often; read by all that judge, under a lock of its own.
#![allow(unsafe_code, reason = "shared memory of our own")]

use std::time::Duration;

use chrono::{DateTime, Utc};
use pgrx::lwlock::PgLwLock;
use pgrx::shmem::PGRXSharedMemory;
use pgrx::{pg_guard, pg_sys};

use super::is_preloaded;
use crate::pg::{report, version};
use crate::rules::hearing::{Change, Hearing};

#[derive(Clone, Copy, Default)]
struct Shared(Hearing);

// SAFETY: plain values.
unsafe impl PGRXSharedMemory for Shared {}

// SAFETY: the name is this extension's own.
static CONNECTIONS: PgLwLock<Shared> = unsafe { PgLwLock::new(c"rgrid_heartbeat_connections") };

/// Asks for the shared memory. Only while the library is being preloaded.
pub fn request() {
    pgrx::pg_shmem_init!(CONNECTIONS);
}

/// Looks whether a client could connect, and logs when that changes. Only in the launcher.
pub fn look(now: DateTime<Utc>) {
    let change = CONNECTIONS.exclusive().0.look(now, !version::has_free_connection());
    match change {
        Some(Change::Began) => report::log("no connection slot is free: silence does not count for a while"),
        Some(Change::Ended(after)) => {
            let seconds = after.as_secs_f64();
            report::log(&format!("connection slots are free again after {seconds:.1} s: silence counts"));
        }
        None => {}
    }
}

/// How much longer than the threshold a worker may have been silent because it could not connect.
pub fn excuse(now: DateTime<Utc>, threshold: Duration) -> Duration {
    known().map_or(Duration::ZERO, |hearing| hearing.excuse(now, threshold))
}

/// What is known; `None` without shared memory.
pub fn known() -> Option<Hearing> {
    is_preloaded().then(|| CONNECTIONS.share().0)
}
