//! The table of heartbeats as a data structure: plain Rust over a block of memory, no Postgres, no unsafe.
//!
//! Chained hashing over arrays that never move: `buckets` holds the first slot of each chain, `slots` the
//! entries, and a slot that is not in use is on the free list. Everything is an atomic because several processes
//! see it; what makes it consistent are the locks, one a partition of the buckets and one for the free list:
//!
//! - to find an entry, and to store its time: the partition's lock, shared
//! - to add or remove an entry: the partition's lock, exclusive, and the free list's inside it
//! - to look at all entries: no lock for what is only a hint, the partition's, shared, for the entry itself
//!
//! A slot number is stored plus one, so that memory of zeroes is an empty table.
//!
//! A heartbeat costs what it takes to fetch memory that no cache has: with many workers, each heartbeat comes long
//! after its entry was last looked at. So a slot is one cache line, with the beginning of the id in it; the rest of a
//! long id is kept apart, in `tails`. So is the session that the worker is tied to, in `ties`.
//!
//! # The states of an entry
//!
//! There is none, or it is open and takes heartbeats, or it is closed and sends them to the row. What an event makes
//! of it; `+1` means that the partition's generation is incremented:
//!
//! | event | none | open | closed |
//! | --- | --- | --- | --- |
//! | `beat` | no action: to the row | time stored; of another host or role, no action: to the row | no action: to the row |
//! | `clamp` | no action | a time after the limit replaced | as if open |
//! | `add` at commit, same generation | open; without a free slot, refused | open; the later time stays | open |
//! | `add` at commit, newer generation | no action | no action | no action |
//! | `fill`, same generation | open; without a free slot, no action | no action | no action |
//! | `fill`, newer generation | no action | no action | no action |
//! | `close` | no action, +1 | closed, +1 | no action, +1 |
//! | `remove`; a flush finds no row | no action, +1 | none, +1 | none, +1 |
//! | `remove_silent` | no action, +1 | none, +1; with a heartbeat since the cutoff, no action | as if open |
//! | `close_disconnected` | no action | closed, +1; tied again, or heard since, no action | as if open |
//! | a flush has written its row | no action | the time recorded as written | as if open |
//! | `forget_silent` | no action | none, +1; with a heartbeat since the cutoff or not written, no action | as if open |
//! | `retain` without its database | no action | none, +1 | none, +1 |
//! | rollback after `close`, or before `add` | no action | no action | no action: the next `add` opens it |
//! | crash or restart of the server | none | none | none |
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};

mod chains;
mod filling;
mod key;
mod owners;
mod scans;
mod ties;

pub use filling::{ANY_HOST, Filled, Generations};
pub use key::Key;
pub use owners::ANY_ROLE;
pub use ties::{Disconnected, Session, Tie, TieState, TiedSession};

/// Bytes of a worker id that fit in an entry; longer ones are not kept here.
pub const ID_LENGTH: usize = 64;

/// Locks over the buckets. Two workers meet at one with a chance of one in so many.
pub const PARTITIONS: usize = 128;

/// In the place of an incarnation, of which the first is 1.
const CLOSED: i64 = 0;

const WORDS: usize = ID_LENGTH / 8;

/// Words of an id that are in its slot: ids of fewer than 16 bytes are wholly there, and RGrid's have 15.
const HEAD_WORDS: usize = 2;

/// Which of the [`PARTITIONS`] a hash is in. A bucket lies wholly in one: there are at least as many buckets as
/// partitions, and both are powers of two.
#[derive(Clone, Copy, Debug)]
pub struct Partition(usize);

impl Partition {
    fn of(hash: u64) -> Self {
        Self(usize::try_from(hash).unwrap_or(0) % PARTITIONS)
    }

    /// Its number, less than [`PARTITIONS`].
    pub fn number(self) -> usize {
        self.0
    }
}

/// How a table is locked: by LWLocks in the server, by locks of the standard library in tests.
pub trait Locks {
    /// Held until dropped.
    type Guard;
    /// Many may hold a partition shared.
    fn shared(&self, partition: Partition) -> Self::Guard;
    /// One may hold a partition exclusively.
    fn exclusive(&self, partition: Partition) -> Self::Guard;
    /// One may change the free list. Taken last.
    fn free_list(&self) -> Self::Guard;
}

/// What the first heartbeat of a worker leaves for the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The last heartbeat, in Postgres' microseconds.
    pub beat_at: i64,
    /// What a heartbeat returns.
    pub incarnation: i64,
    /// A hash of the hostname, to notice another one; [`ANY_HOST`] until the next heartbeat names one.
    pub hostname: u32,
    /// OID of the role that the id belongs to; [`ANY_ROLE`] when it belongs to none.
    pub owner: u32,
}

/// An entry in shared memory, but for the rest of a long id: one cache line.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Slot {
    /// The key's hash, which gives the bucket. Changed with the partition locked exclusively, as all but `beat_at`
    /// and `written`.
    hash: AtomicU64,
    /// The database's OID; zero while the slot is free.
    database: AtomicU32,
    /// The next slot of the chain, or of the free list.
    next: AtomicU32,
    /// The last heartbeat, in Postgres' microseconds. Stored with the partition locked in either mode.
    beat_at: AtomicI64,
    /// The value of `beat_at` that the worker's row has. Stored by the flush, with the partition locked shared.
    written: AtomicI64,
    /// What a heartbeat returns; [`CLOSED`] when heartbeats go to the row.
    incarnation: AtomicI64,
    /// A hash of the hostname. In the place of [`ANY_HOST`] one is stored as `beat_at` is.
    hostname: AtomicU32,
    /// OID of the role that the id belongs to; [`ANY_ROLE`] when it belongs to none.
    owner: AtomicU32,
    /// The first words of the id, as in a [`Key`].
    words: [AtomicU64; HEAD_WORDS],
}

/// The other words of an entry's id. Locked like its slot.
#[derive(Default)]
#[repr(C)]
pub struct Tail {
    words: [AtomicU64; WORDS - HEAD_WORDS],
}

/// A heartbeat that is not in its row yet.
#[derive(Clone, Debug)]
pub struct PendingHeartbeat {
    /// The worker it is of.
    pub key: Key,
    /// When it came, in Postgres' microseconds.
    pub beat_at: i64,
    /// The slot that it was found in, plus one.
    number: u32,
}

/// Counters and the free list.
#[repr(C)]
pub struct Header {
    /// For the hashes; a random number, chosen before the table is used.
    seed: AtomicU64,
    /// Slots that were ever used; those after it are free without being on the list. Free list's lock.
    high_water: AtomicU32,
    /// First slot of the free list. Free list's lock.
    free: AtomicU32,
    /// Per partition, incremented whenever an entry is closed or removed, or was to be and is not there; `add` gives up
    /// if it changed since it was read. Partition's lock, exclusive.
    generations: [AtomicU64; PARTITIONS],
    /// How often a worker could not have an entry: no slot, or too long an id. No lock.
    refused: AtomicU64,
    /// Sessions that workers were tied to so far. No lock.
    sessions: AtomicU32,
}

/// A view of the table, the same in all processes.
pub struct Table<'a, L> {
    header: &'a Header,
    buckets: &'a [AtomicU32],
    slots: &'a [Slot],
    tails: &'a [Tail],
    ties: &'a [Tie],
    locks: L,
}

impl<'a, L: Locks> Table<'a, L> {
    /// Over memory that was all zeroes, but for the header's seed, when the first of them was made. `buckets` is as
    /// long as a power of two, and there are as many `tails` and `ties` as `slots`.
    pub fn new(
        header: &'a Header,
        buckets: &'a [AtomicU32],
        slots: &'a [Slot],
        (tails, ties): (&'a [Tail], &'a [Tie]),
        locks: L,
    ) -> Self {
        Self { header, buckets, slots, tails, ties, locks }
    }

    /// A hash of a hostname, to be compared with an entry's.
    pub fn hash_hostname(&self, hostname: &str) -> u32 {
        (key::hash_of_text(self.seed(), hostname) as u32).min(ANY_HOST - 1)
    }

    /// Stores the time of a heartbeat that a role sends, and returns the worker's incarnation; `None` when there is no
    /// open entry, the hostname is another one, or the id belongs to another role: then the row has to be written.
    pub fn beat(&self, key: &Key, hostname: Option<u32>, caller: u32, now: i64) -> Option<i64> {
        let hash = self.hash(key);
        let _locked = self.locks.shared(Partition::of(hash));
        let slot = self.find(key, hash)?;
        let incarnation = slot.incarnation.load(Relaxed);
        let is_open = incarnation != CLOSED && slot.is_for(caller);
        if !is_open || hostname.is_some_and(|hostname| !slot.is_on(hostname)) {
            return None;
        }
        slot.beat_at.store(now, Relaxed);
        Some(incarnation)
    }

    /// When a worker last sent a heartbeat, as far as is known here.
    pub fn beat_at(&self, key: &Key) -> Option<i64> {
        let hash = self.hash(key);
        let _locked = self.locks.shared(Partition::of(hash));
        self.find(key, hash).map(|slot| slot.beat_at.load(Relaxed))
    }

    /// Sets a worker's last heartbeat to `now` if it is later than `limit`, as after the clock was set back.
    pub fn clamp(&self, key: &Key, limit: i64, now: i64) {
        let hash = self.hash(key);
        let _locked = self.locks.shared(Partition::of(hash));
        if let Some(slot) = self.find(key, hash) {
            let beat_at = slot.beat_at.load(Relaxed);
            if beat_at > limit {
                // A heartbeat that comes just now is as good.
                let _ = slot.beat_at.compare_exchange(beat_at, now, Relaxed, Relaxed);
            }
        }
    }

    /// The generation of the key's partition, which [`add`](Self::add) compares. To be read while the worker's row is
    /// locked.
    pub fn generation(&self, key: &Key) -> u64 {
        let partition = Partition::of(self.hash(key));
        let _locked = self.locks.shared(partition);
        self.header.generations[partition.0].load(Relaxed)
    }

    /// Adds an entry, or changes the one that is there, unless the partition is of a newer generation: then the worker
    /// may have been declared dead. Not adding is never wrong.
    pub fn add(&self, key: &Key, entry: Entry, generation: u64) {
        let hash = self.hash(key);
        let partition = Partition::of(hash);
        let _locked = self.locks.exclusive(partition);
        if self.header.generations[partition.0].load(Relaxed) != generation {
            return;
        }
        let (slot, beat_at) = match (self.find(key, hash), entry.beat_at) {
            // Heartbeats may have come while the row's transaction was still open.
            (Some(slot), beat_at) => (slot, slot.beat_at.load(Relaxed).max(beat_at)),
            (None, beat_at) => match self.take_free(key, hash) {
                Some(slot) => (slot, beat_at),
                None => return self.refuse(),
            },
        };
        slot.set(&entry);
        slot.beat_at.store(beat_at, Relaxed);
    }

    /// Sends the worker's next heartbeats to its row, and keeps the time of the last one: the transaction that closes
    /// the entry may be rolled back.
    pub fn close(&self, key: &Key) {
        let hash = self.hash(key);
        let partition = Partition::of(hash);
        let _locked = self.locks.exclusive(partition);
        if let Some(slot) = self.find(key, hash) {
            slot.incarnation.store(CLOSED, Relaxed);
        }
        self.header.generations[partition.0].fetch_add(1, Relaxed);
    }

    /// Removes an entry, so that the worker's next heartbeat goes to its row.
    pub fn remove(&self, key: &Key) {
        self.remove_if(key, |_| true);
    }

    /// Removes an entry unless its last heartbeat is at or after `cutoff`; returns whether there is no entry any more.
    pub fn remove_silent(&self, key: &Key, cutoff: i64) -> bool {
        self.remove_if(key, |beat_at| beat_at < cutoff)
    }

    fn remove_if(&self, key: &Key, condition: impl FnOnce(i64) -> bool) -> bool {
        let hash = self.hash(key);
        let partition = Partition::of(hash);
        let _locked = self.locks.exclusive(partition);
        if let Some(slot) = self.find(key, hash) {
            if !condition(slot.beat_at.load(Relaxed)) {
                return false;
            }
            self.unlink(slot, hash);
        }
        self.header.generations[partition.0].fetch_add(1, Relaxed);
        true
    }

    /// Records that a heartbeat is in the worker's row.
    pub fn written(&self, heartbeat: &PendingHeartbeat) {
        let PendingHeartbeat { key, beat_at, number } = heartbeat;
        let hash = self.hash(key);
        let _locked = self.locks.shared(Partition::of(hash));
        // Where it was found, unless the worker's entry was removed meanwhile.
        let slot = self.slot(*number).filter(|slot| self.is(slot, *number, key, hash));
        if let Some(slot) = slot.or_else(|| self.find(key, hash)) {
            slot.written.store(*beat_at, Relaxed);
        }
    }

    /// Counts a worker that cannot have an entry.
    pub fn refuse(&self) {
        self.header.refused.fetch_add(1, Relaxed);
    }

    /// How often a worker could not have an entry.
    pub fn refused(&self) -> u64 {
        self.header.refused.load(Relaxed)
    }

    fn seed(&self) -> u64 {
        self.header.seed.load(Relaxed)
    }

    fn hash(&self, key: &Key) -> u64 {
        key.hash(self.seed())
    }
}

impl Header {
    /// Chooses the seed of the hashes. Once, before any process uses the table.
    pub fn set_seed(&self, seed: u64) {
        self.seed.store(seed, Relaxed);
    }
}

impl Slot {
    /// Opens an entry whose last heartbeat is in the worker's row. Partition locked exclusively.
    fn set(&self, entry: &Entry) {
        self.beat_at.store(entry.beat_at, Relaxed);
        self.written.store(entry.beat_at, Relaxed);
        self.incarnation.store(entry.incarnation, Relaxed);
        self.hostname.store(entry.hostname, Relaxed);
        self.owner.store(entry.owner, Relaxed);
    }

    fn is_unwritten(&self) -> bool {
        self.beat_at.load(Relaxed) != self.written.load(Relaxed)
    }
}

/// A slot's number as an index; every platform of Postgres has room for it.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Buckets for a number of slots: a power of two, so that a chain has one entry on average at most.
pub fn buckets_for(slots: usize) -> usize {
    slots.next_power_of_two().max(PARTITIONS)
}

#[cfg(test)]
mod tests;
