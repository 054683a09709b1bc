//! What the processes tell one another about each database, in shared memory.
//!
//! The launcher writes which databases there are; a sweeper, how its round ended; a backend, that a database
//! should be looked at soon. One lock over everything, held for a copy at a time: nobody calls Postgres under it.
//! A crash of the server empties it, and the launcher fills it again.
#![allow(unsafe_code, reason = "shared memory of our own")]

use std::time::Duration;

use chrono::{DateTime, Utc};
use pgrx::lwlock::PgLwLock;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::shmem::PGRXSharedMemory;

use crate::liveness::{self, Hold, Moment, Presence};
use crate::pg::{self, process::Latch};
use crate::settings;

/// Databases that fit. A cluster with more is swept all the same for the ones that fit.
const CAPACITY: usize = 1_024;

/// Bytes of the last problem's text that are kept, to tell whether it is news.
const PROBLEM_LENGTH: usize = 256;

/// In Postgres' microseconds.
const HOUR: u64 = 3_600_000_000;

/// What is known of one database.
#[derive(Clone, Copy)]
pub struct State {
    /// The database; it keeps its OID when it is renamed.
    oid: pg_sys::Oid,
    /// Whether the extension was there when last looked.
    pub presence: Presence,
    /// Since when the server has been listening without interruption, in Postgres' microseconds. Silence
    /// before it proves nothing about a worker.
    observing_since: i64,
    /// Somebody asked for a look at it.
    pub requested: bool,
    /// Rounds that sweepers have finished; one that ends without counting here has failed.
    pub rounds: u64,
    /// Rounds in a row that failed.
    pub failures: u32,
    /// Silent workers that are held back because they are so many; `None` while there are none.
    pub hold: Option<Hold>,
    /// Workers whose heartbeats were from the future, each time that they were.
    pub from_the_future: u64,
    /// When there last were any, in Postgres' microseconds; 0 for never.
    pub from_the_future_at: i64,
    /// Running jobs of dead workers that the last sweep left alone because others had locked them.
    pub locked_jobs: u64,
    /// The last problem that was logged; cleared when a round has none.
    problem: Text,
}

/// A short text in shared memory.
#[derive(Clone, Copy)]
struct Text {
    length: usize,
    bytes: [u8; PROBLEM_LENGTH],
}

impl Text {
    const EMPTY: Self = Self { length: 0, bytes: [0; PROBLEM_LENGTH] };

    fn new(text: &str) -> Self {
        let length = text.len().min(PROBLEM_LENGTH);
        let mut this = Self { length, ..Self::EMPTY };
        this.bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        this
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.bytes[..self.length] == other.bytes[..other.length]
    }
}

impl State {
    fn new(oid: pg_sys::Oid, now: DateTime<Utc>) -> Self {
        Self {
            oid,
            presence: Presence::Unknown,
            observing_since: pg::to_postgres(now),
            requested: false,
            rounds: 0,
            failures: 0,
            hold: None,
            from_the_future: 0,
            from_the_future_at: 0,
            locked_jobs: 0,
            problem: Text::EMPTY,
        }
    }
}

/// The table in shared memory; entries are in no order, the first `used` are valid.
#[derive(Clone, Copy)]
struct Shared {
    /// The launcher's latch; no process's while there is none.
    launcher: Latch,
    /// What the clocks said when somebody last looked at both; `None` until the first look.
    clocks: Option<Moment>,
    /// When the launcher wants to be awake again, by the monotonic clock; `None` while it is.
    launcher_wakes_at: Option<Duration>,
    used: usize,
    states: [State; CAPACITY],
}

// SAFETY: plain values, and a pointer that is valid in every process (see `Latch`).
unsafe impl PGRXSharedMemory for Shared {}

impl Default for Shared {
    fn default() -> Self {
        let unused = State::new(pg_sys::InvalidOid, DateTime::UNIX_EPOCH);
        Self {
            launcher: Latch::NONE,
            clocks: None,
            launcher_wakes_at: None,
            used: 0,
            states: [unused; CAPACITY],
        }
    }
}

impl Shared {
    fn find(&mut self, oid: pg_sys::Oid) -> Option<&mut State> {
        self.states[..self.used].iter_mut().find(|state| state.oid == oid)
    }

    /// The state of a database, made when there is none yet; `None` when the table is full.
    fn find_or_add(&mut self, oid: pg_sys::Oid, now: DateTime<Utc>) -> Option<&mut State> {
        if self.find(oid).is_none() {
            *self.states.get_mut(self.used)? = State::new(oid, now);
            self.used += 1;
        }
        self.find(oid)
    }

    /// What has happened, by these clocks, since somebody last looked at them; each thing is told once.
    fn interruption(&mut self, now: Moment, threshold: Duration) -> Option<Interruption> {
        let earlier = self.clocks.replace(now);
        if earlier.is_some_and(|earlier| liveness::clock_stepped(earlier, now)) {
            return Some(Interruption::ClockStepped);
        }
        let wakes_at = self.launcher_wakes_at?;
        if liveness::was_frozen(wakes_at, now.monotonic, threshold) {
            self.launcher_wakes_at = None;
            return Some(Interruption::Frozen);
        }
        None
    }

    fn observe_from(&mut self, now: DateTime<Utc>) {
        let used = self.used;
        for state in &mut self.states[..used] {
            state.observing_since = pg::to_postgres(now);
            state.hold = None;
        }
    }
}

/// Why workers may not have been heard, or not at the times that are known of them.
enum Interruption {
    /// The wall clock was set, or the machine slept.
    ClockStepped,
    /// All processes stood still, and the clocks went on.
    Frozen,
}

// SAFETY: the name is this extension's own.
static DATABASES: PgLwLock<Shared> = unsafe { PgLwLock::new(c"rgrid_heartbeat_databases") };

/// Whether this server was started with the library preloaded; written once, before any process is forked.
static PRELOADED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Asks for the shared memory. Only while the library is being preloaded.
pub fn request_shared_memory() {
    pgrx::pg_shmem_init!(DATABASES);
    PRELOADED.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// Whether there are shared memory and a launcher.
pub fn is_preloaded() -> bool {
    PRELOADED.load(std::sync::atomic::Ordering::Relaxed)
}

/// The launcher says where it can be woken, and that it is there.
pub fn announce_launcher() {
    DATABASES.exclusive().launcher = Latch::mine();
}

/// Forgets the databases that are not among these, and takes note of new ones; whether any was forgotten.
pub fn keep(databases: &[pg_sys::Oid], now: DateTime<Utc>) -> bool {
    let mut shared = DATABASES.exclusive();
    let mut kept = 0;
    for index in 0..shared.used {
        if databases.contains(&shared.states[index].oid) {
            shared.states[kept] = shared.states[index];
            kept += 1;
        }
    }
    let forgotten = kept < shared.used;
    shared.used = kept;
    for oid in databases {
        shared.find_or_add(*oid, now);
    }
    forgotten
}

/// What is known of a database; `None` when it did not fit.
pub fn state(oid: pg_sys::Oid) -> Option<State> {
    let shared = DATABASES.share();
    shared.states[..shared.used].iter().find(|state| state.oid == oid).copied()
}

/// Changes what is known of a database, under the lock.
pub fn change<T>(oid: pg_sys::Oid, change: impl FnOnce(&mut State) -> T) -> Option<T> {
    DATABASES.exclusive().find(oid).map(change)
}

/// Since when the server has been able to hear the workers of the present database.
///
/// Without shared memory nobody keeps watch over interruptions, and the server's start has to do. With it, a
/// database that the launcher has not seen yet is observed from now on.
pub fn observing_since() -> DateTime<Utc> {
    if !is_preloaded() {
        return pg::server_started_at();
    }
    state(pg::current_database()).map_or_else(pg::now, |state| pg::from_postgres(state.observing_since))
}

/// The extension was created in the present database: silence before it proves nothing about anybody, and whatever
/// was known of its absence is out of date.
pub fn installed(now: DateTime<Utc>) {
    if is_preloaded() {
        change(pg::current_database(), |state| {
            state.observing_since = pg::to_postgres(now);
            state.presence = Presence::Unknown;
        });
        request_visit();
    }
}

/// Starts observation anew in all databases.
pub fn observe_all_from(now: DateTime<Utc>) {
    DATABASES.exclusive().observe_from(now);
}

/// Reads both clocks. If the wall clock was stepped since somebody last did, or all processes stood still, observation
/// starts anew in all databases: by the launcher in each round and before each judgement, so that nobody judges by a
/// clock that was stepped a moment ago.
pub fn watch_clocks() -> Moment {
    let now = Moment { wall: pg::now(), monotonic: pg::monotonic() };
    if !is_preloaded() {
        return now;
    }
    let threshold = settings::stale_threshold();
    let interruption = {
        let mut shared = DATABASES.exclusive();
        let interruption = shared.interruption(now, threshold);
        if interruption.is_some() {
            shared.observe_from(now.wall);
        }
        interruption
    };
    if let Some(interruption) = interruption {
        log_interruption(&interruption);
    }
    now
}

/// To the server's log alone: the caller of `rgrid_sweep()` may be the first to notice.
fn log_interruption(interruption: &Interruption) {
    let line = match interruption {
        Interruption::ClockStepped => "the system clock was stepped or the machine was suspended",
        Interruption::Frozen => "the server stood still",
    };
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        format!("{line}: silence counts from now on"),
        "rgrid_heartbeat",
    )
    .report(PgLogLevel::LOG_SERVER_ONLY);
}

/// Takes note of workers of the present database whose heartbeats were from the future; whether that is news: a clock
/// that is wrong stays wrong, and is talked of once an hour at most.
pub fn note_future(workers: usize, now: DateTime<Utc>) -> bool {
    if !is_preloaded() {
        return true;
    }
    let now = pg::to_postgres(now);
    let earlier = change(pg::current_database(), |state| {
        state.from_the_future += workers as u64;
        std::mem::replace(&mut state.from_the_future_at, now)
    });
    earlier.is_none_or(|earlier| earlier == 0 || now.abs_diff(earlier) > HOUR)
}

/// The launcher says when it wants to be awake again; `None` when it is.
pub fn launcher_wakes_at(at: Option<Duration>) {
    DATABASES.exclusive().launcher_wakes_at = at;
}

/// Asks the launcher to look at the present database as soon as it can, unless it is known to have the extension:
/// then it is looked at anyway, and a thousand workers that register at once are no reason for a thousand sweeps.
pub fn request_visit() {
    if !is_preloaded() {
        return;
    }
    let launcher = {
        let mut shared = DATABASES.exclusive();
        match shared.find_or_add(pg::current_database(), pg::now()) {
            Some(state) if state.presence != Presence::Present => state.requested = true,
            _ => return,
        }
        shared.launcher
    };
    launcher.set();
}

/// Takes note of what went wrong in a round, or of nothing; says whether that is news worth a log line.
pub fn is_news(oid: pg_sys::Oid, problem: &str) -> bool {
    let text = Text::new(problem);
    let known = change(oid, |state| std::mem::replace(&mut state.problem, text));
    known != Some(text) && !problem.is_empty()
}
