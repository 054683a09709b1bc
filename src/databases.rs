//! What the processes tell one another about each database, in shared memory.
//!
//! The launcher writes which databases there are; a sweeper, how its round ended; a backend, that a database
//! should be looked at soon. One lock over everything, held for a copy at a time: nobody calls Postgres under it.
//! A crash of the server empties it, and the launcher fills it again.
#![allow(unsafe_code, reason = "shared memory of our own")]

use chrono::{DateTime, Utc};
use pgrx::lwlock::PgLwLock;
use pgrx::shmem::PGRXSharedMemory;
use pgrx::{pg_guard, pg_sys};

use crate::liveness::Presence;
use crate::pg::{self, process::Latch};

/// Databases that fit. A cluster with more is swept all the same for the ones that fit.
const CAPACITY: usize = 1_024;

/// Bytes of the last problem's text that are kept, to tell whether it is news.
const PROBLEM_LENGTH: usize = 256;

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
    /// Nobody is heard for now: when last looked, the SQL objects were of another version than the library.
    deaf: bool,
    /// Somebody asked for a look at it.
    pub requested: bool,
    /// Rounds that sweepers have finished; one that ends without counting here has failed.
    pub rounds: u64,
    /// Rounds in a row that failed.
    pub failures: u32,
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
            deaf: false,
            requested: false,
            rounds: 0,
            failures: 0,
            problem: Text::EMPTY,
        }
    }
}

/// The table in shared memory; entries are in no order, the first `used` are valid.
#[derive(Clone, Copy)]
struct Shared {
    /// The launcher's latch; no process's while there is none.
    launcher: Latch,
    used: usize,
    states: [State; CAPACITY],
}

// SAFETY: plain values, and a pointer that is valid in every process (see `Latch`).
unsafe impl PGRXSharedMemory for Shared {}

impl Default for Shared {
    fn default() -> Self {
        let unused = State::new(pg_sys::InvalidOid, DateTime::UNIX_EPOCH);
        Self { launcher: Latch::NONE, used: 0, states: [unused; CAPACITY] }
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
/// database that the launcher has not seen yet, or in which nobody is heard, is observed from now on.
pub fn observing_since() -> DateTime<Utc> {
    if !is_preloaded() {
        return pg::server_started_at();
    }
    match state(pg::current_database()) {
        Some(state) if !state.deaf => pg::from_postgres(state.observing_since),
        _ => pg::now(),
    }
}

/// Functions refuse heartbeats in the present database, so no silence counts until [`can_hear`].
pub fn cannot_hear() {
    change(pg::current_database(), |state| state.deaf = true);
}

/// Functions take heartbeats in the present database; if they did not before, observation starts anew.
pub fn can_hear(now: DateTime<Utc>) {
    change(pg::current_database(), |state| {
        if std::mem::take(&mut state.deaf) {
            state.observing_since = pg::to_postgres(now);
        }
    });
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
    let mut shared = DATABASES.exclusive();
    let used = shared.used;
    for state in &mut shared.states[..used] {
        state.observing_since = pg::to_postgres(now);
    }
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
