//! Workers that are tied to this session, and those of this database that have lost theirs.
//!
//! A session is known here from its first attached worker on, and leaves at its end what became of its workers: they
//! are disconnected if its client vanished, and untied otherwise. That allocates nothing, cannot fail, and takes the
//! lock of one partition after the other, then that of the databases. Which slots the session may have workers in is
//! private to it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use pgrx::pg_sys;

use super::table::{Disconnected, Session, TieState, TiedSession};
use super::{key, table};
use crate::error::Result;
use crate::pg::{self, commit, session_end};
use crate::settings;
use crate::shmem::{databases, lost_sessions};

/// What this session knows of itself.
struct Mine {
    session: Session,
    /// The slots that it may have workers in, by their numbers plus one.
    slots: HashSet<u32>,
    /// Ties that wait for the commit.
    waiting: usize,
}

thread_local! {
    static MINE: RefCell<Option<Mine>> = const { RefCell::new(None) };
}

/// Whether a worker of the current database is tied to this session, and stays so at the commit.
pub fn is_mine(id: &str) -> bool {
    let number = MINE
        .with_borrow(|mine| mine.as_ref().filter(|mine| mine.waiting == 0).map(|mine| mine.session.number));
    let found = table().zip(key(id)).zip(number);
    found.is_some_and(|((table, key), number)| table.is_tied_to(&key, number))
}

/// Ties a worker of the current database to this session once the current transaction has committed, if it still has
/// this incarnation then. `address` is asked at the first worker, for the address of this session's client.
pub fn attach_at_commit(
    id: &str,
    incarnation: i64,
    address: impl FnOnce() -> Result<Option<String>>,
) -> Result<()> {
    let Some((table, key)) = table().zip(key(id)) else { return Ok(()) };
    let session = session(address)?;
    // The end of an older session is no news from now on, however long this transaction takes.
    table.release(&key, session.number);
    let ticket = Ticket::new();
    commit::at_commit_of_session(move || {
        let now = pg::clock();
        let Some((slot, came_back)) = table.attach(&key, session, incarnation, now) else { return };
        ticket.keep(slot);
        if came_back {
            databases::change(pg::current_database(), |state| state.came_back.add(pg::from_postgres(now)));
        }
    });
    Ok(())
}

/// Unties a worker of the current database once the current transaction has committed. Returns whether it is tied, or
/// disconnected, now.
pub fn detach_at_commit(id: &str) -> bool {
    let Some((table, key)) = table().zip(key(id)) else { return false };
    let is_tied = table.tie_state(&key).is_some();
    let ticket = Ticket::new();
    commit::at_commit_of_session(move || {
        table.untie(&key);
        drop(ticket);
    });
    is_tied
}

/// This session. The first time, it gets its number, and its end will be noticed.
fn session(address: impl FnOnce() -> Result<Option<String>>) -> Result<Session> {
    if let Some(session) = MINE.with_borrow(|mine| mine.as_ref().map(|mine| mine.session)) {
        return Ok(session);
    }
    let address = address()?.unwrap_or_default();
    let (number, address) =
        table().map_or((0, 0), |table| (table.next_session(), table.hash_hostname(&address)));
    let session = Session { number, address };
    session_end::at_end(session_ends);
    MINE.set(Some(Mine { session, slots: HashSet::new(), waiting: 0 }));
    Ok(session)
}

/// A tie that waits for the commit, for which there is room in the list: nothing is allocated after the commit.
struct Ticket;

impl Ticket {
    fn new() -> Self {
        MINE.with_borrow_mut(|mine| {
            if let Some(mine) = mine {
                mine.waiting += 1;
                mine.slots.reserve(mine.waiting);
            }
        });
        Self
    }

    fn keep(self, slot: u32) {
        MINE.with_borrow_mut(|mine| {
            if let Some(mine) = mine {
                mine.slots.insert(slot);
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        MINE.with_borrow_mut(|mine| {
            if let Some(mine) = mine {
                mine.waiting = mine.waiting.saturating_sub(1);
            }
        });
    }
}

/// At the end of a session that workers were tied to.
fn session_ends() {
    let Some(table) = table() else { return };
    let lost_at = session_end::client_has_vanished().then(pg::clock);
    let count = MINE.try_with(|mine| match mine.try_borrow().as_deref() {
        Ok(Some(Mine { session, slots, .. })) => {
            table.end_session(slots.iter().copied(), session.number, lost_at)
        }
        _ => 0,
    });
    if let Some(at) = lost_at.filter(|_| count.is_ok_and(|count| count > 0)) {
        lost_sessions::session_is_lost(pg::from_postgres(at), settings::disconnect_grace());
    }
}

/// Since when a worker of the current database is tied, and since when it is disconnected; at most one of them.
pub fn since(id: &str) -> (Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
    let state = table().zip(key(id)).and_then(|(table, key)| table.tie_state(&key));
    match state {
        Some((TieState::Tied { since, .. }, _)) => (Some(pg::from_postgres(since)), None),
        Some((TieState::Disconnected { at, .. }, beat_at)) if beat_at <= at => {
            (None, Some(pg::from_postgres(at)))
        }
        _ => (None, None),
    }
}

/// The workers of a database whose sessions were lost, also those that were heard since.
pub fn disconnected(database: pg_sys::Oid) -> Vec<Disconnected> {
    table().map(|table| table.disconnected(database.to_u32())).unwrap_or_default()
}

/// The sessions that workers of a database are tied to, each once a worker.
pub fn tied_sessions(database: pg_sys::Oid) -> Vec<TiedSession> {
    table().map(|table| table.tied_sessions(database.to_u32())).unwrap_or_default()
}

/// How many workers are tied in each database.
pub fn tied_workers() -> HashMap<pg_sys::Oid, u64> {
    let counts = table().map(|table| table.tied_workers()).unwrap_or_default();
    counts.into_iter().map(|(database, count)| (database.into(), count)).collect()
}

/// A disconnected worker is judged by its silence alone from here on.
pub fn spare(worker: &Disconnected) {
    if let Some(table) = table() {
        table.spare(worker);
    }
}

/// Whether a worker is still disconnected as it was seen, and was not heard since, as far as is known here.
pub fn is_still(worker: &Disconnected) -> bool {
    table().is_some_and(|table| table.is_still(worker))
}

/// Sends the next heartbeats of a disconnected worker to its row, unless it is tied again, or was heard since; returns
/// whether that was done. The caller holds the lock on the row.
pub fn close_disconnected(worker: &Disconnected) -> bool {
    table().is_some_and(|table| table.close_disconnected(worker))
}

/// Unties a disconnected worker once its death has committed, unless it has lost another session by then. Its entry
/// stays closed until it is forgotten like those of the silent, or opened by its return.
pub fn untie_at_commit(worker: &Disconnected) {
    let worker = worker.clone();
    if let Some(table) = table() {
        commit::at_commit(move || table.untie_lost(&worker));
    }
}

/// Unties a worker of the current database at once: another process or another role gets its id. If that is rolled
/// back, it stays untied.
pub fn untie(id: &str) {
    if let Some((table, key)) = table().zip(key(id)) {
        table.untie(&key);
    }
}
