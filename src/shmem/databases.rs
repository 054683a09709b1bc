//! What processes share about each database.
//!
//! The launcher writes which databases there are; a sweeper, how its round ended; a backend, that a database
//! should be looked at soon. One lock over everything, held for one copy or change at a time.
//! A crash of the server empties it, and the launcher fills it again. Since when silence counts is in
//! [`super::observation`], what could not be done in [`super::problems`]. All that is under the lock is in this file.
#![allow(unsafe_code, reason = "shared memory of our own")]

use std::time::Duration;

use chrono::{DateTime, Utc};
use pgrx::lwlock::PgLwLock;
use pgrx::prelude::*;
use pgrx::shmem::PGRXSharedMemory;

use super::counters::Counters;
use super::observation::Suspension;
use super::quarantine::AtWork;
use super::refusal::Refusal;
use super::{is_preloaded, launcher};
use crate::pg::{self, commit};
use crate::rules::intervals::Histogram;
use crate::rules::liveness::{Hold, Moment};
use crate::rules::local_time::{Mark, Marks};
use crate::rules::losses::{Hourly, RecentLosses};
use crate::rules::schedule::Presence;

/// Databases that fit. A cluster with more is swept all the same for the ones that fit.
pub const CAPACITY: usize = 1_024;

/// In Postgres' microseconds.
const HOUR: u64 = 3_600_000_000;

/// What is known of one database.
#[derive(Clone, Copy)]
pub struct State {
    /// The database; it keeps its OID when it is renamed.
    pub oid: pg_sys::Oid,
    /// Whether the extension was there when a sweeper last looked.
    pub presence: Presence,
    /// Since when the server has been listening without interruption, in Postgres' microseconds. Silence
    /// before it proves nothing about a worker.
    pub(super) observing_since: i64,
    /// Memory was filled from the rows since then, or need not be.
    pub(super) is_warm: bool,
    /// A sweeper is filling it.
    pub is_being_filled: bool,
    /// Why no silence counts for now, when it was last looked.
    pub(super) suspended: Option<Suspension>,
    /// It has an enabled subscription of logical replication.
    pub(super) is_subscribed: bool,
    /// A session asked for a look at it, or its subscriptions came or went.
    pub requested: bool,
    /// Code of others at the extension's own tables was refused, and not taken back yet.
    pub was_refused: bool,
    /// Rounds that sweepers have finished; one that ends without counting here has failed.
    pub rounds: u64,
    /// Rounds in a row that failed.
    pub failures: u32,
    /// When the last sweep was begun and when it was done, in Postgres' microseconds; 0 for never.
    sweep_started: i64,
    sweep_finished: i64,
    /// When the launcher or a flush last looked for heartbeats to write, and when a sweeper last looked for old rows to
    /// remove; as above.
    looked: i64,
    pruned: i64,
    /// The oldest transaction whose versions of rows had to be kept at the last flush, when a flush first met it, and
    /// when that flush was; the times are as above.
    horizon: u32,
    horizon_since: i64,
    flushed: i64,
    /// Silent workers that are held back because they are so many; `None` while there are none.
    pub hold: Option<Hold>,
    /// Workers with a heartbeat that was ahead of the clock; a worker counts each time that it was.
    pub ahead_of_clock: u64,
    /// When there last were any, in Postgres' microseconds; 0 for never.
    pub ahead_of_clock_at: i64,
    /// The last of the calls that were refused because the worker's id belongs to another role.
    pub refusal: Option<Refusal>,
    /// What its sweeper is at, while code of a table's owner may be running; stays when that ends the sweeper.
    pub at_work: Option<AtWork>,
    /// When the next worker is to be judged that has lost its session, in Postgres' microseconds; 0 when none is.
    pub(super) judge_at: i64,
    /// The sessions of workers that were lost lately.
    pub losses: RecentLosses,
    /// The workers that came back after that.
    pub came_back: Hourly,
    /// When it was last told that many were lost together; as above.
    pub(super) told_of_losses: i64,
    /// Running jobs of dead workers that the last sweep left alone because other sessions had locked them.
    pub locked_jobs: u64,
    /// Which rows of heartbeats were written lately.
    marks: Marks,
    /// What operators read.
    pub counters: Counters,
    /// The intervals between the heartbeats of its workers.
    pub intervals: Histogram,
}

impl State {
    fn new(oid: pg_sys::Oid, now: DateTime<Utc>) -> Self {
        Self {
            oid,
            presence: Presence::Unknown,
            observing_since: pg::to_postgres(now),
            is_warm: false,
            is_being_filled: false,
            suspended: None,
            is_subscribed: false,
            requested: false,
            was_refused: false,
            rounds: 0,
            failures: 0,
            sweep_started: 0,
            sweep_finished: 0,
            looked: 0,
            pruned: 0,
            horizon: 0,
            horizon_since: 0,
            flushed: 0,
            hold: None,
            ahead_of_clock: 0,
            ahead_of_clock_at: 0,
            refusal: None,
            at_work: None,
            judge_at: 0,
            losses: RecentLosses::NONE,
            came_back: Hourly::NONE,
            told_of_losses: 0,
            locked_jobs: 0,
            marks: Marks::NONE,
            counters: Counters::since(pg::to_postgres(now)),
            intervals: Histogram::EMPTY,
        }
    }

    /// Since when a row of heartbeats that was written is that of a living worker.
    pub fn written_lately(&self) -> Option<Mark> {
        self.marks.oldest()
    }

    /// Since when silence in this database counts.
    pub fn observing_since(&self) -> DateTime<Utc> {
        pg::from_postgres(self.observing_since)
    }

    /// When the last sweep was begun.
    pub fn sweep_started(&self) -> Option<DateTime<Utc>> {
        moment(self.sweep_started)
    }

    /// When the last sweep was done.
    pub fn sweep_finished(&self) -> Option<DateTime<Utc>> {
        moment(self.sweep_finished)
    }

    /// Since when flushes have met this oldest transaction, and when the last one was; `None` if they have not.
    pub fn standing(&self, horizon: u32) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        moment(self.horizon_since).zip(moment(self.flushed)).filter(|_| self.horizon == horizon)
    }

    /// When old rows were last looked for.
    pub fn pruned(&self) -> Option<DateTime<Utc>> {
        moment(self.pruned)
    }
}

/// A time that is 0 while it has not come.
pub(super) fn moment(timestamp: i64) -> Option<DateTime<Utc>> {
    (timestamp != 0).then(|| pg::from_postgres(timestamp))
}

/// The table in shared memory; entries are in no order, the first `used` are valid.
#[derive(Clone, Copy)]
pub(super) struct DatabaseTable {
    /// What the clocks said when a process last read both; `None` until the first time.
    pub(super) clocks: Option<Moment>,
    pub(super) used: usize,
    pub(super) states: [State; CAPACITY],
}

// SAFETY: plain values.
unsafe impl PGRXSharedMemory for DatabaseTable {}

impl Default for DatabaseTable {
    fn default() -> Self {
        let unused = State::new(pg_sys::InvalidOid, DateTime::UNIX_EPOCH);
        Self { clocks: None, used: 0, states: [unused; CAPACITY] }
    }
}

impl DatabaseTable {
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
pub(super) static DATABASES: PgLwLock<DatabaseTable> = unsafe { PgLwLock::new(c"rgrid_heartbeat_databases") };

/// Asks for the shared memory. Only while the library is being preloaded.
pub fn request() {
    pgrx::pg_shmem_init!(DATABASES);
}

/// Forgets the databases that are not among these, and adds new ones; returns whether any was forgotten.
pub fn keep(databases: &[pg_sys::Oid], now: DateTime<Utc>) -> bool {
    let mut shared = DATABASES.exclusive();
    let used = shared.used;
    let kept = super::retain(&mut shared.states, used, |state| databases.contains(&state.oid));
    let forgotten = kept < used;
    shared.used = kept;
    for oid in databases {
        shared.find_or_add(*oid, now);
    }
    forgotten
}

/// Forgets a database.
pub fn forget(database: pg_sys::Oid) {
    let mut shared = DATABASES.exclusive();
    let used = shared.used;
    shared.used = super::retain(&mut shared.states, used, |state| state.oid != database);
}

/// What is known of a database; `None` when it did not fit.
pub fn state(oid: pg_sys::Oid) -> Option<State> {
    let shared = DATABASES.share();
    shared.states[..shared.used].iter().find(|state| state.oid == oid).copied()
}

/// What is known of all databases.
pub fn states() -> Vec<State> {
    if !is_preloaded() {
        return Vec::new();
    }
    let shared = DATABASES.share();
    shared.states[..shared.used].to_vec()
}

/// What is known of the current database; `None` without shared memory, and before the launcher has seen it.
pub fn current() -> Option<State> {
    if is_preloaded() { state(pg::current_database()) } else { None }
}

/// Counts something in the current database once the current transaction has committed.
pub fn count_at_commit(count: impl FnOnce(&mut Counters) + 'static) {
    if is_preloaded() {
        commit::at_commit(move || self::count(count));
    }
}

/// Counts something that has happened in the current database.
pub fn count(count: impl FnOnce(&mut Counters)) {
    if is_preloaded() {
        change(pg::current_database(), |state| count(&mut state.counters));
    }
}

/// Counts a call in the current database that was refused because the worker's id belongs to another role.
pub fn note_refusal(id: &str, caller: pg_sys::Oid) {
    if is_preloaded() {
        let refusal = Refusal::new(id, caller);
        change(pg::current_database(), |state| {
            state.counters.calls_refused += 1;
            state.refusal = Some(refusal);
        });
    }
}

/// Records that a sweep of the current database begins.
pub fn sweep_begins() {
    let now = pg::to_postgres(pg::now());
    change(pg::current_database(), |state| state.sweep_started = now);
}

/// Notes which transaction is the next one now, and returns since which a row that was written is that of a living
/// worker; `None` without shared memory.
pub fn advance_marks(now: Mark, threshold: Duration) -> Option<Mark> {
    if !is_preloaded() {
        return None;
    }
    change(pg::current_database(), |state| state.marks.advance(now, threshold))
}

/// Records that the sweep of the current database is done.
pub fn sweep_ends() {
    let now = pg::to_postgres(pg::now());
    change(pg::current_database(), |state| {
        state.sweep_finished = now;
        state.counters.sweeps += 1;
    });
}

/// Records that a flush of the current database looks for heartbeats now; returns when a process last did.
pub fn flush_begins(now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let now = pg::to_postgres(now);
    let last = change(pg::current_database(), |state| std::mem::replace(&mut state.looked, now));
    last.and_then(moment)
}

/// Records that a flush of the current database, which began now, has written rows; it met this oldest transaction.
pub fn flushed(horizon: u32, now: DateTime<Utc>) {
    let now = pg::to_postgres(now);
    change(pg::current_database(), |state| {
        if state.horizon != horizon || state.horizon_since == 0 {
            (state.horizon, state.horizon_since) = (horizon, now);
        }
        state.flushed = now;
    });
}

/// Records that the launcher has looked for heartbeats, and found some in no other databases than these.
pub fn looked(unwritten: &[pg_sys::Oid], at: DateTime<Utc>) {
    let at = pg::to_postgres(at);
    let mut shared = DATABASES.exclusive();
    let used = shared.used;
    shared.states[..used]
        .iter_mut()
        .filter(|state| state.looked != 0 && !unwritten.contains(&state.oid))
        .for_each(|state| state.looked = at);
}

/// The sweeper of the current database begins or ends work that the launcher watches.
pub fn set_at_work(at_work: Option<AtWork>) {
    if is_preloaded() {
        change(pg::current_database(), |state| state.at_work = at_work);
    }
}

/// Records that old rows of the current database have been looked for.
pub fn pruned(now: DateTime<Utc>) {
    change(pg::current_database(), |state| state.pruned = pg::to_postgres(now));
}

/// Changes what is known of a database, under the lock.
pub fn change<T>(oid: pg_sys::Oid, change: impl FnOnce(&mut State) -> T) -> Option<T> {
    DATABASES.exclusive().find(oid).map(change)
}

/// Counts workers of the current database whose heartbeats were ahead of the clock. Returns whether that is news: a
/// clock that is wrong stays wrong, and is reported once an hour at most.
pub fn note_ahead(workers: usize, now: DateTime<Utc>) -> bool {
    if !is_preloaded() {
        return true;
    }
    let now = pg::to_postgres(now);
    let earlier = change(pg::current_database(), |state| {
        state.ahead_of_clock += workers as u64;
        std::mem::replace(&mut state.ahead_of_clock_at, now)
    });
    earlier.is_none_or(|earlier| earlier == 0 || now.abs_diff(earlier) > HOUR)
}

/// Asks the launcher to look at the current database as soon as it can, unless the database is known to have the
/// extension: then it is looked at anyway, and a thousand workers that register at once cause no thousand sweeps.
pub fn request_visit() {
    ask(|state| state.presence != Presence::Present);
}

/// Notes that code of others was refused, and asks the launcher for a sweeper as soon as it can start one.
pub fn note_foreign_code() {
    ask(|state| {
        state.was_refused = true;
        true
    });
}

fn ask(is_needed: impl FnOnce(&mut State) -> bool) {
    if !is_preloaded() {
        return;
    }
    let mut shared = DATABASES.exclusive();
    let Some(state) = shared.find_or_add(pg::current_database(), pg::now()) else { return };
    if !is_needed(state) {
        return;
    }
    state.requested = true;
    drop(shared);
    launcher::wake();
}
