//! Which session a worker is tied to, and when a session was lost whose client vanished.
//!
//! There is a tie for each slot, which heartbeats never touch. What becomes of it, by its events; all but the scans
//! hold the partition's lock exclusively:
//!
//! | event | untied | tied | disconnected |
//! | --- | --- | --- | --- |
//! | `attach` commits, for the incarnation of the open entry | tied | tied to the newest session | tied, as one that came back |
//! | `release`, when `attach` is called | no action | untied, if tied to another session | no action |
//! | `untie` | no action | untied | untied |
//! | its session's client vanishes | no action | disconnected; tied to another session, no action | no action |
//! | its session ends otherwise | no action | untied; likewise | no action |
//! | `spare` | no action | no action | disconnected, and judged by silence alone |
//! | its death commits | no action | no action | untied |
//! | the entry is removed | no action | untied | untied |
//!
//! A worker that is disconnected is heard again by a heartbeat later than the end of its session.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use super::{CLOSED, Key, Locks, Partition, Slot, Table};

/// A worker's tie in shared memory.
#[derive(Default)]
#[repr(C)]
pub struct Tie {
    /// The number of the session and two flags in the upper half, a hash of the client's address in the lower. Zero
    /// when the worker is not tied. Partition's lock, exclusive, as `since`.
    session: AtomicU64,
    /// Since when it is tied, or when the session was lost, in Postgres' microseconds.
    since: AtomicI64,
}

/// The session is there.
const CONNECTED: u64 = 1 << 63;

/// Of a tied worker: it had lost its session. Of a disconnected one: it is judged by its silence alone.
const MARKED: u64 = 1 << 62;

/// Numbers of sessions; they begin anew after so many.
const SESSIONS: u32 = 1 << 30;

/// A session that workers can be tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its number, which no other session has.
    pub number: u32,
    /// A hash of its client's address.
    pub address: u32,
}

impl Session {
    fn bits(self) -> u64 {
        u64::from(self.number) << 32 | u64::from(self.address)
    }

    fn of(bits: u64) -> Self {
        Self { number: (bits >> 32) as u32 & (SESSIONS - 1), address: bits as u32 }
    }
}

/// How a worker is tied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TieState {
    /// To this session since then.
    Tied {
        /// The session.
        session: Session,
        /// In Postgres' microseconds.
        since: i64,
        /// It had lost a session before.
        came_back: bool,
    },
    /// Its session was lost then, and it may have been heard since.
    Disconnected {
        /// The session.
        session: Session,
        /// In Postgres' microseconds.
        at: i64,
        /// It is judged by its silence alone.
        is_spared: bool,
    },
}

impl Tie {
    /// The worker is not tied.
    pub(super) fn clear(&self) {
        self.session.store(0, Relaxed);
    }

    fn set(&self, bits: u64, since: i64) {
        self.since.store(since, Relaxed);
        self.session.store(bits, Relaxed);
    }

    /// `None` while the worker is not tied. Partition locked.
    fn state(&self) -> Option<TieState> {
        let (bits, since) = (self.session.load(Relaxed), self.since.load(Relaxed));
        let (session, is_marked) = (Session::of(bits), bits & MARKED != 0);
        match bits {
            0 => None,
            _ if bits & CONNECTED != 0 => Some(TieState::Tied { session, since, came_back: is_marked }),
            _ => Some(TieState::Disconnected { session, at: since, is_spared: is_marked }),
        }
    }

    fn is_tied_to(&self, session: u32) -> bool {
        matches!(self.state(), Some(TieState::Tied { session: mine, .. }) if mine.number == session)
    }
}

/// A worker whose session was lost.
#[derive(Clone, Debug)]
pub struct Disconnected {
    /// The worker.
    pub key: Key,
    /// The session that was lost.
    pub session: Session,
    /// When that was, in Postgres' microseconds.
    pub at: i64,
    /// A hash of the worker's hostname; 0 when it has named none.
    pub host: u32,
    /// It was heard since.
    pub is_heard: bool,
    /// It is judged by its silence alone.
    pub is_spared: bool,
}

/// A session that a worker is tied to.
#[derive(Clone, Copy, Debug)]
pub struct TiedSession {
    /// The session.
    pub session: Session,
    /// Since when, in Postgres' microseconds.
    pub since: i64,
    /// A hash of the worker's hostname; 0 when it has named none.
    pub host: u32,
    /// The worker had lost a session before.
    pub came_back: bool,
}

impl<L: Locks> Table<'_, L> {
    /// A number for a session that workers are going to be tied to.
    pub fn next_session(&self) -> u32 {
        // Never zero.
        self.header.sessions.fetch_add(1, Relaxed) % (SESSIONS - 1) + 1
    }

    /// Whether a worker is tied to this session.
    pub fn is_tied_to(&self, key: &Key, session: u32) -> bool {
        let hash = self.hash(key);
        let _locked = self.locks.shared(Partition::of(hash));
        let found = self.find_number(key, hash).and_then(|(number, _)| self.tie(number));
        found.is_some_and(|tie| tie.is_tied_to(session))
    }

    /// How a worker is tied, and its last heartbeat.
    pub fn tie_state(&self, key: &Key) -> Option<(TieState, i64)> {
        let hash = self.hash(key);
        let _locked = self.locks.shared(Partition::of(hash));
        let (number, slot) = self.find_number(key, hash)?;
        Some((self.tie(number)?.state()?, slot.beat_at.load(Relaxed)))
    }

    /// Ties a worker to a session if it still has this incarnation. Returns the slot's number, plus one, and whether
    /// the worker had lost its session before.
    pub fn attach(&self, key: &Key, session: Session, incarnation: i64, now: i64) -> Option<(u32, bool)> {
        let hash = self.hash(key);
        let _locked = self.locks.exclusive(Partition::of(hash));
        let (number, slot) = self.find_number(key, hash)?;
        let present = slot.incarnation.load(Relaxed);
        if present == CLOSED || present != incarnation {
            return None;
        }
        let tie = self.tie(number)?;
        if tie.is_tied_to(session.number) {
            return Some((number, false));
        }
        let came_back = matches!(tie.state(), Some(TieState::Disconnected { .. }));
        tie.set(session.bits() | CONNECTED | if came_back { MARKED } else { 0 }, now);
        Some((number, came_back))
    }

    /// Takes a worker from the session that it is tied to, unless that is this one: a call in this one has just come.
    pub fn release(&self, key: &Key, session: u32) {
        let hash = self.hash(key);
        let _locked = self.locks.exclusive(Partition::of(hash));
        let found = self.find_number(key, hash).and_then(|(number, _)| self.tie(number));
        let is_of_another = |tie: &&Tie| matches!(tie.state(), Some(TieState::Tied { session: other, .. }) if other.number != session);
        found.filter(is_of_another).into_iter().for_each(Tie::clear);
    }

    /// Unties a worker.
    pub fn untie(&self, key: &Key) {
        let hash = self.hash(key);
        let _locked = self.locks.exclusive(Partition::of(hash));
        let found = self.find_number(key, hash).and_then(|(number, _)| self.tie(number));
        found.into_iter().for_each(Tie::clear);
    }

    /// A session ends: its workers are disconnected from `lost_at` on, or untied. `slots` are the numbers, plus one, of
    /// the slots that it may have workers in. Returns how many workers were tied to it.
    pub fn end_session(&self, slots: impl Iterator<Item = u32>, session: u32, lost_at: Option<i64>) -> usize {
        let mut count = 0;
        for number in slots {
            let Some((slot, tie)) = self.slot(number).zip(self.tie(number)) else { continue };
            if !tie.is_tied_to(session) {
                continue;
            }
            // Without the lock that was only a hint. A slot that another worker has taken since is not tied to this
            // session.
            let _locked = self.locks.exclusive(Partition::of(slot.hash.load(Relaxed)));
            if !tie.is_tied_to(session) {
                continue;
            }
            count += 1;
            match lost_at {
                Some(at) => tie.set(tie.session.load(Relaxed) & !(CONNECTED | MARKED), at),
                None => tie.clear(),
            }
        }
        count
    }

    /// The numbers, plus one, of all slots that may be in use.
    fn numbers(&self) -> impl Iterator<Item = u32> + use<'_, L> {
        1..=self.header.high_water.load(Relaxed)
    }

    /// A disconnected worker is judged by its silence alone from here on.
    pub fn spare(&self, worker: &Disconnected) {
        let hash = self.hash(&worker.key);
        let _locked = self.locks.exclusive(Partition::of(hash));
        let found = self.find_number(&worker.key, hash);
        if let Some(tie) = found.and_then(|(number, _)| self.lost_tie(number, worker)) {
            tie.session.fetch_or(MARKED, Relaxed);
        }
    }

    /// The tie in that slot, if the worker is still disconnected as it was seen. Partition locked.
    fn lost_tie(&self, number: u32, worker: &Disconnected) -> Option<&Tie> {
        let is_same = |tie: &&Tie| {
            matches!(tie.state(), Some(TieState::Disconnected { session, at, .. })
                if session == worker.session && at == worker.at)
        };
        self.tie(number).filter(is_same)
    }

    /// Whether a worker is still disconnected as it was seen, and was not heard since.
    pub fn is_still(&self, worker: &Disconnected) -> bool {
        let hash = self.hash(&worker.key);
        let _locked = self.locks.shared(Partition::of(hash));
        self.still_lost(worker, hash).is_some()
    }

    /// Sends the next heartbeats of a disconnected worker to its row, unless it is tied again, or was heard since;
    /// returns whether that was done. The caller holds the lock on the row. Its last heartbeat and its tie stay: the
    /// transaction that gives it up may be rolled back.
    pub fn close_disconnected(&self, worker: &Disconnected) -> bool {
        let hash = self.hash(&worker.key);
        let partition = Partition::of(hash);
        let _locked = self.locks.exclusive(partition);
        let Some(slot) = self.still_lost(worker, hash) else { return false };
        slot.incarnation.store(CLOSED, Relaxed);
        self.header.generations[partition.0].fetch_add(1, Relaxed);
        true
    }

    /// Unties a worker that is still disconnected as it was seen: it was declared dead.
    pub fn untie_lost(&self, worker: &Disconnected) {
        let hash = self.hash(&worker.key);
        let _locked = self.locks.exclusive(Partition::of(hash));
        let found = self.find_number(&worker.key, hash);
        found.and_then(|(number, _)| self.lost_tie(number, worker)).into_iter().for_each(Tie::clear);
    }

    /// The slot of a worker that is still disconnected as it was seen, and was not heard since. Partition locked.
    fn still_lost(&self, worker: &Disconnected, hash: u64) -> Option<&Slot> {
        let (number, slot) = self.find_number(&worker.key, hash)?;
        self.lost_tie(number, worker)?;
        Some(slot).filter(|slot| slot.beat_at.load(Relaxed) <= worker.at)
    }

    /// The workers of a database whose sessions were lost, also those that were heard since.
    pub fn disconnected(&self, database: u32) -> Vec<Disconnected> {
        let lost = self.ties_of(database, CONNECTED, 0);
        lost.filter_map(|number| self.disconnected_at(number, database)).collect()
    }

    fn disconnected_at(&self, number: u32, database: u32) -> Option<Disconnected> {
        let (slot, tie) = self.slot(number).zip(self.tie(number))?;
        let hash = slot.hash.load(Relaxed);
        let _locked = self.locks.shared(Partition::of(hash));
        // The slot may be another worker's by now, in another partition, which this lock does not protect.
        let key =
            self.key(number).filter(|key| slot.hash.load(Relaxed) == hash && key.database == database)?;
        let TieState::Disconnected { session, at, is_spared } = tie.state()? else { return None };
        let is_heard = slot.beat_at.load(Relaxed) > at;
        Some(Disconnected { key, session, at, host: slot.host(), is_heard, is_spared })
    }

    /// The sessions that workers of a database are tied to, each once a worker. A hint: nothing is locked.
    pub fn tied_sessions(&self, database: u32) -> Vec<TiedSession> {
        let session = |number| {
            let (slot, tie) = self.slot(number).zip(self.tie(number))?;
            let TieState::Tied { session, since, came_back } = tie.state()? else { return None };
            Some(TiedSession { session, since, host: slot.host(), came_back })
        };
        self.ties_of(database, CONNECTED, CONNECTED).filter_map(session).collect()
    }

    /// How many workers of each database are tied to a session. A hint: nothing is locked.
    pub fn tied_workers(&self) -> HashMap<u32, u64> {
        let mut counts = HashMap::new();
        for (slot, tie) in self.numbers().filter_map(|number| self.slot(number).zip(self.tie(number))) {
            if tie.session.load(Relaxed) & CONNECTED != 0 {
                *counts.entry(slot.database.load(Relaxed)).or_default() += 1;
            }
        }
        counts.remove(&0);
        counts
    }

    /// The slots, by their number plus one, of the workers of a database that are tied in some way, with these of the
    /// flags. A hint: nothing is locked.
    fn ties_of(&self, database: u32, flags: u64, wanted: u64) -> impl Iterator<Item = u32> {
        self.numbers().filter(move |number| {
            let bits = self.tie(*number).map_or(0, |tie| tie.session.load(Relaxed));
            let is_here = || self.slot(*number).is_some_and(|slot| slot.database.load(Relaxed) == database);
            bits != 0 && bits & flags == wanted && is_here()
        })
    }
}
