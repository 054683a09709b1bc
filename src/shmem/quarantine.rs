//! Watched tables whose owner's code has ended a sweeper or held it up: left out by sweepers for a while, with growing
//! pauses, and by workers' sessions from then on. A session that such code ends says so, too.
//!
//! Nothing outranks what an owner's trigger sets or catches in the process that runs it: `exit_on_error` turns its
//! error into the end of the process, and a handler for `query_canceled` outlives every timeout. So that is survived: a
//! sweeper says what it is at, the launcher ends it when it is overdue, and notes here which table that was. Written by
//! the launcher, by sweepers and by sessions that end, read by all that settle jobs, under a lock of its own.
#![allow(unsafe_code, reason = "shared memory of our own")]

use std::cell::Cell;
use std::time::Duration;

use pgrx::lwlock::PgLwLock;
use pgrx::shmem::PGRXSharedMemory;
use pgrx::{pg_guard, pg_sys};

use super::{databases, is_preloaded};
use crate::error::{Error, Result};
use crate::pg::{self, process, scope, timer};
use crate::rules::schedule;

/// Tables that are remembered, over all databases. Beyond, the one that has been good for longest is forgotten.
const CAPACITY: usize = 256;

/// A table that has ended or held up a sweeper.
#[derive(Clone, Copy)]
struct Entry {
    database: pg_sys::Oid,
    table: pg_sys::Oid,
    /// How often, until it has been good for long.
    times: u32,
    /// Until when it is left out, by the monotonic clock.
    until: Duration,
    /// It was not settled since.
    is_on_trial: bool,
}

impl Entry {
    const fn new(database: pg_sys::Oid, table: pg_sys::Oid) -> Self {
        Self { database, table, times: 0, until: Duration::ZERO, is_on_trial: false }
    }
}

/// The table in shared memory; entries are in no order, the first `used` are valid.
#[derive(Clone, Copy)]
struct Shared {
    used: usize,
    entries: [Entry; CAPACITY],
}

impl Default for Shared {
    fn default() -> Self {
        Self { used: 0, entries: [Entry::new(pg_sys::InvalidOid, pg_sys::InvalidOid); CAPACITY] }
    }
}

// SAFETY: plain values.
unsafe impl PGRXSharedMemory for Shared {}

impl Shared {
    fn find(&mut self, database: pg_sys::Oid, table: pg_sys::Oid) -> Option<&mut Entry> {
        let used = self.used;
        self.entries[..used].iter_mut().find(|entry| entry.database == database && entry.table == table)
    }

    fn add(&mut self, database: pg_sys::Oid, table: pg_sys::Oid, now: Duration) {
        if self.find(database, table).is_none() {
            let new = Entry::new(database, table);
            if self.used < CAPACITY {
                self.used += 1;
                self.entries[self.used - 1] = new;
            } else if let Some(oldest) = self.entries.iter_mut().min_by_key(|entry| entry.until) {
                *oldest = new;
            }
        }
        if let Some(entry) = self.find(database, table) {
            let has_been_good = now.saturating_sub(entry.until) > schedule::LONGEST_QUARANTINE;
            entry.times = if has_been_good { 1 } else { entry.times.saturating_add(1) };
            entry.until = now + schedule::quarantine(entry.times);
            entry.is_on_trial = true;
        }
    }

    fn retain(&mut self, is_kept: impl Fn(pg_sys::Oid) -> bool) {
        self.used = super::retain(&mut self.entries, self.used, |entry| is_kept(entry.database));
    }
}

// SAFETY: the name is this extension's own.
static QUARANTINE: PgLwLock<Shared> = unsafe { PgLwLock::new(c"rgrid_heartbeat_quarantine") };

/// Asks for the shared memory. Only while the library is being preloaded.
pub fn request() {
    pgrx::pg_shmem_init!(QUARANTINE);
}

/// What a table of the current database has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Nothing that is known.
    Clean,
    /// It has ended or held up a sweeper before, and was settled since.
    Settled,
    /// It has ended or held up the last sweeper that touched it, and may be tried again.
    OnTrial,
    /// The same, and it is too early to try again.
    LeftOut,
}

/// The record of a table of the current database.
pub fn record(table: pg_sys::Oid) -> Record {
    if !is_preloaded() {
        return Record::Clean;
    }
    let (database, now) = (pg::current_database(), pg::monotonic());
    let shared = QUARANTINE.share();
    let entry = shared.entries[..shared.used].iter().find(|e| e.database == database && e.table == table);
    match entry {
        None => Record::Clean,
        Some(entry) if !entry.is_on_trial => Record::Settled,
        Some(entry) if entry.until <= now => Record::OnTrial,
        Some(_) => Record::LeftOut,
    }
}

/// A table has ended a sweeper, or held it up.
pub fn add(database: pg_sys::Oid, table: pg_sys::Oid) {
    QUARANTINE.exclusive().add(database, table, pg::monotonic());
}

/// A table of the current database was settled as it should be.
pub fn settled(table: pg_sys::Oid) {
    if record(table) == Record::OnTrial
        && let Some(entry) = QUARANTINE.exclusive().find(pg::current_database(), table)
    {
        entry.is_on_trial = false;
    }
}

/// Forgets the tables of all databases but these.
pub fn retain(databases: &[pg_sys::Oid]) {
    QUARANTINE.exclusive().retain(|database| databases.contains(&database));
}

/// Forgets the tables of a database.
pub fn forget(database: pg_sys::Oid) {
    if is_preloaded() {
        QUARANTINE.exclusive().retain(|other| other != database);
    }
}

/// What a sweeper is at.
#[derive(Clone, Copy)]
pub struct AtWork {
    /// The watched table whose owner's code may be running.
    pub table: pg_sys::Oid,
    /// When it is overdue, by the monotonic clock.
    pub deadline: Duration,
}

thread_local! {
    /// The watched table that this process is at.
    static AT: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
    /// Whether the end of this session would be noticed.
    static IS_REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on a watched table of the current database. An error ends the work like a result does; the end of the
/// process leaves it noted. In a sweeper the launcher knows of it, and ends the sweeper when it takes too long.
///
/// A trigger may call a function that comes here for another table. That is still the work of the first.
pub fn at_work<T>(table: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    struct Done;
    impl Drop for Done {
        fn drop(&mut self) {
            AT.set(None);
            if scope::statement_limit().is_some() {
                databases::set_at_work(None);
            }
        }
    }
    if AT.get().is_some() {
        return work();
    }
    AT.set(Some(table));
    match scope::statement_limit() {
        Some(limit) => {
            let deadline = pg::monotonic() + schedule::overdue(limit);
            databases::set_at_work(Some(AtWork { table, deadline }));
        }
        None if !is_preloaded() || IS_REGISTERED.replace(true) => {}
        None => process::before_exit(session_ends),
    }
    let _done = Done;
    work()
}

/// The same for a table that is not one of jobs: the adopted table of heartbeats, which has an owner of its own.
///
/// # Errors
///
/// [`Error::InQuarantine`] while it is left out.
pub fn at_work_unless_left_out<T>(table: pg_sys::Oid, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match record(table) {
        Record::LeftOut => Err(Error::InQuarantine),
        _ => at_work(table, work),
    }
}

/// A session ends. If code of a table's owner has ended it, or outlived its cancellation, the table is noted.
fn session_ends() {
    if let Some(table) = AT.get()
        && (timer::has_ended_session() || process::ends_on_error())
    {
        add(pg::current_database(), table);
    }
}
