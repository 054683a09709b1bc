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
//! A heartbeat costs what it takes to fetch memory that no cache has: with many workers, each beats long after its
//! entry was last looked at. So a slot is one cache line, with the beginning of the id in it; the rest of a long id
//! is kept apart, in `tails`.
//!
//! # The states of an entry
//!
//! There is none, or it is open and takes heartbeats, or it is closed and sends them to the row. What an event makes
//! of it; `+1` means that the partition's generation is incremented:
//!
//! | event | none | open | closed |
//! | --- | --- | --- | --- |
//! | `beat` | no action: to the row | time stored; of another host, no action: to the row | no action: to the row |
//! | `clamp` | no action | a time after the limit replaced | as if open |
//! | `add` at commit, same generation | open; without a free slot, refused | open; the later time stays | open |
//! | `add` at commit, newer generation | no action | no action | no action |
//! | `close` | no action, +1 | closed, +1 | no action, +1 |
//! | `remove`; a flush finds no row | no action, +1 | none, +1 | none, +1 |
//! | `remove_silent` | no action, +1 | none, +1; if it has beaten since, no action | as if open |
//! | a flush has written its row | no action | the time noted as written | as if open |
//! | `forget_silent` | no action | none, +1; if it has beaten since, or is not written, no action | as if open |
//! | `retain` without its database | no action | none, +1 | none, +1 |
//! | rollback after `close`, or before `add` | no action | no action | no action: the next `add` opens it |
//! | crash or restart of the server | none | none | none |
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};

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

/// Which worker of which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    database: u32,
    /// The id, eight bytes a word, filled up with zeroes, which no text of Postgres contains.
    words: [u64; WORDS],
}

impl Key {
    /// `None` when the id is too long for an entry.
    pub fn new(database: u32, id: &str) -> Option<Self> {
        let mut bytes = [0; ID_LENGTH];
        bytes.get_mut(..id.len())?.copy_from_slice(id.as_bytes());
        let mut words = [0; WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_be_bytes(*chunk);
        }
        Some(Self { database, words })
    }

    /// The worker's id.
    pub fn id(&self) -> String {
        let mut bytes = [0; ID_LENGTH];
        for (chunk, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.words) {
            *chunk = word.to_be_bytes();
        }
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(ID_LENGTH);
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// The words that tell it from others: a word that ends with a zero is an id's last.
    fn significant(&self) -> &[u64] {
        let last = self.words.iter().position(|word| word & 0xff == 0);
        &self.words[..last.map_or(WORDS, |last| last + 1)]
    }

    /// Which entries share a chain must not be foreseen by whoever chooses the ids: hence the seed, also as the
    /// factor that mixes the words.
    fn hash(&self, seed: u64) -> u64 {
        mixed(seed, self.significant().iter().copied(), u64::from(self.database))
    }
}

/// A hash of words. The last round spreads what tells apart ids that are counted up.
fn mixed(seed: u64, words: impl Iterator<Item = u64>, start: u64) -> u64 {
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(seed | 1);
        product as u64 ^ (product >> 64) as u64
    };
    let hash = words.fold(seed.rotate_left(32) ^ start, mix);
    mix(hash, hash >> 32)
}

/// What the first heartbeat of a worker leaves for the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The last heartbeat, in Postgres' microseconds.
    pub beat_at: i64,
    /// The answer to a heartbeat.
    pub incarnation: i64,
    /// A hash of the hostname, to notice another one.
    pub hostname: u64,
}

/// An entry in shared memory, but for the rest of a long id: one cache line.
#[derive(Default)]
#[repr(C, align(64))]
pub struct Slot {
    /// The key's hash, which tells the bucket. Changed with the partition locked exclusively, as all but `beat_at`
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
    /// The answer to a heartbeat; [`CLOSED`] when the row has to be asked.
    incarnation: AtomicI64,
    /// A hash of the hostname.
    hostname: AtomicU64,
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
pub struct Unwritten {
    /// Whose it is.
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
}

/// A view of the table, the same in all processes.
pub struct Table<'a, L> {
    header: &'a Header,
    buckets: &'a [AtomicU32],
    slots: &'a [Slot],
    tails: &'a [Tail],
    locks: L,
}

impl<'a, L: Locks> Table<'a, L> {
    /// Over memory that was all zeroes, but for the header's seed, when the first of them was made. `buckets` is as
    /// long as a power of two, and there are as many `tails` as `slots`.
    pub fn new(
        header: &'a Header,
        buckets: &'a [AtomicU32],
        slots: &'a [Slot],
        tails: &'a [Tail],
        locks: L,
    ) -> Self {
        Self { header, buckets, slots, tails, locks }
    }

    /// A hash of a hostname, to be compared with an entry's.
    pub fn hash_hostname(&self, hostname: &str) -> u64 {
        let (words, rest) = hostname.as_bytes().as_chunks();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let words = words.iter().chain([&last]).map(|word| u64::from_be_bytes(*word));
        mixed(self.seed(), words, hostname.len() as u64)
    }

    /// Stores the time of a heartbeat and answers the worker's incarnation; `None` when there is no entry, or the
    /// hostname is another one: then the row has to be written.
    pub fn beat(&self, key: &Key, hostname: Option<u64>, now: i64) -> Option<i64> {
        let hash = self.hash(key);
        let _locked = self.locks.shared(Partition::of(hash));
        let slot = self.find(key, hash)?;
        if hostname.is_some_and(|hostname| hostname != slot.hostname.load(Relaxed)) {
            return None;
        }
        let incarnation = slot.incarnation.load(Relaxed);
        if incarnation == CLOSED {
            return None;
        }
        slot.beat_at.store(now, Relaxed);
        Some(incarnation)
    }

    /// When a worker last beat, as far as is known here.
    pub fn beat_at(&self, key: &Key) -> Option<i64> {
        let hash = self.hash(key);
        let _locked = self.locks.shared(Partition::of(hash));
        self.find(key, hash).map(|slot| slot.beat_at.load(Relaxed))
    }

    /// Has a worker that beat after `limit`, by a clock that was set back since, have beaten `now`.
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
        slot.beat_at.store(beat_at, Relaxed);
        slot.written.store(entry.beat_at, Relaxed);
        slot.incarnation.store(entry.incarnation, Relaxed);
        slot.hostname.store(entry.hostname, Relaxed);
    }

    /// Has the worker's next heartbeats go to its row, and keeps what is known of the last one: the transaction that
    /// asks for this may be rolled back.
    pub fn close(&self, key: &Key) {
        let hash = self.hash(key);
        let partition = Partition::of(hash);
        let _locked = self.locks.exclusive(partition);
        if let Some(slot) = self.find(key, hash) {
            slot.incarnation.store(CLOSED, Relaxed);
        }
        self.header.generations[partition.0].fetch_add(1, Relaxed);
    }

    /// Takes an entry out, so that the worker's next heartbeat goes to its row.
    pub fn remove(&self, key: &Key) {
        self.remove_if(key, |_| true);
    }

    /// Takes an entry out unless it has beaten at or after `cutoff`; whether it is out, or never was in.
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

    /// Takes out all entries of the databases that fail the test.
    pub fn retain(&self, keep: impl Fn(u32) -> bool) {
        self.remove_all(|slot| !keep(slot.database.load(Relaxed)));
    }

    /// Takes out the entries of a database that have not beaten since `cutoff` and have nothing left to write.
    pub fn forget_silent(&self, database: u32, cutoff: i64) {
        self.remove_all(|slot| {
            slot.database.load(Relaxed) == database
                && slot.beat_at.load(Relaxed) < cutoff
                && !slot.is_unwritten()
        });
    }

    fn remove_all(&self, condition: impl Fn(&Slot) -> bool) {
        let is_used = |slot: &Slot| slot.database.load(Relaxed) != 0;
        for slot in self.used().filter(|slot| is_used(slot) && condition(slot)) {
            let hash = slot.hash.load(Relaxed);
            let _locked = self.locks.exclusive(Partition::of(hash));
            // Without the lock this was only a hint. If it is another worker's by now, the hash tells, mostly;
            // otherwise that one is asked, too.
            if slot.hash.load(Relaxed) == hash && is_used(slot) && condition(slot) {
                self.unlink(slot, hash);
                self.header.generations[Partition::of(hash).0].fetch_add(1, Relaxed);
            }
        }
    }

    /// The databases that have heartbeats that are not in their rows yet. A hint: nothing is locked.
    pub fn unwritten_databases(&self) -> Vec<u32> {
        let mut databases = Vec::new();
        for slot in self.used().filter(|slot| slot.is_unwritten()) {
            let database = slot.database.load(Relaxed);
            if database != 0 && !databases.contains(&database) {
                databases.push(database);
            }
        }
        databases
    }

    /// The heartbeats of a database that are not in their rows yet, as they are when each is asked for. Nothing is
    /// locked in between.
    pub fn unwritten(&self, database: u32) -> impl Iterator<Item = Unwritten> {
        let is_hinted = move |slot: &Slot| slot.database.load(Relaxed) == database && slot.is_unwritten();
        (1..).zip(self.used()).filter(move |(_, slot)| is_hinted(slot)).filter_map(move |(number, slot)| {
            let hash = slot.hash.load(Relaxed);
            let _locked = self.locks.shared(Partition::of(hash));
            // Another worker's by now: it may be of another partition, where this lock means nothing.
            let is_same = slot.hash.load(Relaxed) == hash && slot.database.load(Relaxed) == database;
            let key = is_same.then(|| self.key(number)).flatten()?;
            Some(Unwritten { key, beat_at: slot.beat_at.load(Relaxed), number })
        })
    }

    /// How long workers of a database who have beaten since then had been silent at a moment, of as many workers as are
    /// asked for: the first, which a flush that takes long has read when it began. Nothing is locked: a slot that
    /// changes hands meanwhile may give a wrong one.
    pub fn silences(&self, database: u32, moment: i64, wanted: usize) -> Vec<i64> {
        self.used()
            .filter(|slot| slot.database.load(Relaxed) == database)
            .take(wanted)
            .filter_map(|slot| {
                let (beat_at, before) = (slot.beat_at.load(Relaxed), slot.written.load(Relaxed));
                (before < moment && moment < beat_at).then(|| moment - before)
            })
            .collect()
    }

    /// How many entries each database has. A hint: nothing is locked.
    pub fn entries(&self) -> HashMap<u32, u64> {
        let mut entries = HashMap::new();
        for slot in self.used() {
            *entries.entry(slot.database.load(Relaxed)).or_default() += 1;
        }
        entries.remove(&0);
        entries
    }

    /// Takes note that a heartbeat is in the worker's row.
    pub fn written(&self, heartbeat: &Unwritten) {
        let Unwritten { key, beat_at, number } = heartbeat;
        let hash = self.hash(key);
        let _locked = self.locks.shared(Partition::of(hash));
        // Where it was found, unless the worker was taken out meanwhile.
        let slot = self.slot(*number).filter(|slot| self.is(slot, *number, key, hash));
        if let Some(slot) = slot.or_else(|| self.find(key, hash)) {
            slot.written.store(*beat_at, Relaxed);
        }
    }

    /// Takes note of a worker that cannot have an entry.
    pub fn refuse(&self) {
        self.header.refused.fetch_add(1, Relaxed);
    }

    /// How often a worker could not have an entry.
    pub fn refused(&self) -> u64 {
        self.header.refused.load(Relaxed)
    }

    /// Slots that may be in use; the others never were.
    fn used(&self) -> impl Iterator<Item = &'a Slot> {
        let high_water = index(self.header.high_water.load(Relaxed));
        self.slots[..high_water.min(self.slots.len())].iter()
    }

    fn seed(&self) -> u64 {
        self.header.seed.load(Relaxed)
    }

    fn hash(&self, key: &Key) -> u64 {
        key.hash(self.seed())
    }

    /// The entry of a key. Partition locked.
    fn find(&self, key: &Key, hash: u64) -> Option<&'a Slot> {
        let mut next = self.bucket(hash).load(Relaxed);
        while let Some(slot) = self.slot(next) {
            if self.is(slot, next, key, hash) {
                return Some(slot);
            }
            next = slot.next.load(Relaxed);
        }
        None
    }

    /// Takes a slot from the free list and puts it into the key's chain. Partition locked exclusively.
    fn take_free(&self, key: &Key, hash: u64) -> Option<&'a Slot> {
        let number = self.pop_free()?;
        let slot = self.slot(number)?;
        slot.hash.store(hash, Relaxed);
        for (stored, word) in slot.words.iter().chain(&self.tail(number)?.words).zip(key.words) {
            stored.store(word, Relaxed);
        }
        slot.database.store(key.database, Relaxed);
        let bucket = self.bucket(hash);
        slot.next.store(bucket.load(Relaxed), Relaxed);
        bucket.store(number, Relaxed);
        Some(slot)
    }

    /// The number, plus one, of a slot that nobody uses.
    fn pop_free(&self) -> Option<u32> {
        let _locked = self.locks.free_list();
        let first = self.header.free.load(Relaxed);
        if let Some(slot) = self.slot(first) {
            self.header.free.store(slot.next.load(Relaxed), Relaxed);
            return Some(first);
        }
        let fresh = self.header.high_water.load(Relaxed) + 1;
        self.slot(fresh)?;
        self.header.high_water.store(fresh, Relaxed);
        Some(fresh)
    }

    /// Takes a slot out of its chain and puts it on the free list. Partition locked exclusively.
    fn unlink(&self, slot: &Slot, hash: u64) {
        let mut link = self.bucket(hash);
        while let Some(candidate) = self.slot(link.load(Relaxed)) {
            if std::ptr::eq(candidate, slot) {
                let number = link.load(Relaxed);
                link.store(slot.next.load(Relaxed), Relaxed);
                slot.database.store(0, Relaxed);
                let _locked = self.locks.free_list();
                slot.next.store(self.header.free.load(Relaxed), Relaxed);
                self.header.free.store(number, Relaxed);
                return;
            }
            link = &candidate.next;
        }
    }

    fn bucket(&self, hash: u64) -> &'a AtomicU32 {
        let mask = self.buckets.len() - 1;
        &self.buckets[usize::try_from(hash).unwrap_or(0) & mask]
    }

    /// The slot with a number that was stored plus one; `None` for zero.
    fn slot(&self, number: u32) -> Option<&'a Slot> {
        self.slots.get(index(number).checked_sub(1)?)
    }

    /// The rest of the id in that slot.
    fn tail(&self, number: u32) -> Option<&'a Tail> {
        self.tails.get(index(number).checked_sub(1)?)
    }

    /// Whether a slot has this key; looks at no more of it than tells. Partition locked.
    fn is(&self, slot: &Slot, number: u32, key: &Key, hash: u64) -> bool {
        let same = |(stored, word): (&AtomicU64, &u64)| stored.load(Relaxed) == *word;
        let words = key.significant();
        slot.hash.load(Relaxed) == hash
            && slot.database.load(Relaxed) == key.database
            && slot.words.iter().zip(words).all(same)
            && words.get(HEAD_WORDS..).is_none_or(|words| {
                self.tail(number).is_some_and(|tail| tail.words.iter().zip(words).all(same))
            })
    }

    /// The key of a slot. Partition locked.
    fn key(&self, number: u32) -> Option<Key> {
        let (slot, tail) = self.slot(number).zip(self.tail(number))?;
        let mut words = [0; WORDS];
        for (word, stored) in words.iter_mut().zip(slot.words.iter().chain(&tail.words)) {
            *word = stored.load(Relaxed);
        }
        Some(Key { database: slot.database.load(Relaxed), words })
    }
}

impl Header {
    /// Chooses the seed of the hashes. Once, while nobody uses the table.
    pub fn set_seed(&self, seed: u64) {
        self.seed.store(seed, Relaxed);
    }
}

impl Slot {
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
