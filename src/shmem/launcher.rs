//! What the launcher publishes about itself: where it can be woken, since when it has been running, and what it lacks.
//!
//! Written by the launcher, read by backends and sweepers, under a lock of its own.
#![allow(unsafe_code, reason = "shared memory of our own")]

use std::time::Duration;

use chrono::{DateTime, Utc};
use pgrx::lwlock::PgLwLock;
use pgrx::shmem::PGRXSharedMemory;
use pgrx::{pg_guard, pg_sys};

use super::is_preloaded;
use crate::pg::{self, process::Latch};
use crate::rules::liveness;

#[derive(Clone, Copy)]
struct Launcher {
    /// Its latch; [`Latch::NONE`] before the first launcher.
    latch: Latch,
    /// Its process and its start, in Postgres' microseconds; 0 before the first.
    pid: i32,
    started: i64,
    /// There was no worker slot for the last sweeper that it wanted to start.
    out_of_slots: bool,
    /// When it wants to be awake again, by the monotonic clock; `None` while it is.
    wakes_at: Option<Duration>,
}

impl Default for Launcher {
    fn default() -> Self {
        Self { latch: Latch::NONE, pid: 0, started: 0, out_of_slots: false, wakes_at: None }
    }
}

// SAFETY: plain values, and a pointer that is valid in every process (see `Latch`).
unsafe impl PGRXSharedMemory for Launcher {}

// SAFETY: the name is this extension's own.
static LAUNCHER: PgLwLock<Launcher> = unsafe { PgLwLock::new(c"rgrid_heartbeat_launcher") };

/// Asks for the shared memory. Only while the library is being preloaded.
pub fn request() {
    pgrx::pg_shmem_init!(LAUNCHER);
}

/// Publishes that this process is the launcher, and where it can be woken.
pub fn announce() {
    let (pid, now) = (pg::process::my_pid(), pg::to_postgres(pg::now()));
    let mut launcher = LAUNCHER.exclusive();
    (launcher.latch, launcher.pid, launcher.started) = (Latch::mine(), pid, now);
}

/// The launcher's process, if it is running, and since when.
pub fn running() -> Option<(i32, DateTime<Utc>)> {
    if !is_preloaded() {
        return None;
    }
    let Launcher { pid, started, .. } = *LAUNCHER.share();
    (started != 0 && pg::process::exists(pid)).then(|| (pid, pg::from_postgres(started)))
}

/// Wakes the launcher, which begins its next round.
pub fn wake() {
    let latch = LAUNCHER.share().latch;
    latch.set();
}

/// Records whether the launcher lacked a worker slot for the last sweeper that it wanted to start.
pub fn set_out_of_slots(out_of_slots: bool) {
    LAUNCHER.exclusive().out_of_slots = out_of_slots;
}

/// Whether the launcher lacks a worker slot.
pub fn is_out_of_slots() -> bool {
    is_preloaded() && LAUNCHER.share().out_of_slots
}

/// Records when the launcher wants to be awake again; `None` while it is.
pub fn set_wakes_at(at: Option<Duration>) {
    LAUNCHER.exclusive().wakes_at = at;
}

/// When the launcher wanted to be awake again, if it is so late that the whole server must have been stopped.
pub fn overslept(now: Duration, threshold: Duration) -> Option<Duration> {
    LAUNCHER.share().wakes_at.filter(|at| liveness::was_frozen(*at, now, threshold))
}

/// Records that a standstill was dealt with. Returns whether this process is the first to do so.
pub fn forget_wakes_at(at: Duration) -> bool {
    let mut launcher = LAUNCHER.exclusive();
    let is_first = launcher.wakes_at == Some(at);
    if is_first {
        launcher.wakes_at = None;
    }
    is_first
}
