//! The table of heartbeats as a data structure: plain Rust over a block of memory, no Postgres, no unsafe.
//!
//! Chained hashing over two arrays that never move: `buckets` holds the first slot of each chain, `slots` the
//! entries, and a slot that is not in use is on the free list. Everything is an atomic because several processes
//! see it; what makes it consistent are the locks, one a partition of the buckets and one for the free list:
//!
//! - to find an entry, and to store its time: the partition's lock, shared
//! - to add or remove an entry: the partition's lock, exclusive, and the free list's inside it
//! - to look at all entries: no lock for what is only a hint, the partition's, shared, for the entry itself
//!
//! A slot number is stored plus one, so that memory of zeroes is an empty table.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Bytes of a worker id that fit in an entry; longer ones are not kept here.
pub const ID_LENGTH: usize = 64;

/// Locks over the buckets. Two workers meet at one with a chance of one in so many.
pub const PARTITIONS: usize = 128;

/// In the place of an incarnation, of which the first is 1.
const CLOSED: i64 = 0;

const WORDS: usize = ID_LENGTH / 8;

/// How a table is locked: by LWLocks in the server, by locks of the standard library in tests.
pub trait Locks {
    /// Held until dropped.
    type Guard;
    /// Many may hold a partition shared.
    fn shared(&self, partition: usize) -> Self::Guard;
    /// One may hold a partition exclusively.
    fn exclusive(&self, partition: usize) -> Self::Guard;
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
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        Some(Self { database, words })
    }

    /// The worker's id.
    pub fn id(&self) -> String {
        let bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_be_bytes()).collect();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        Hash::hash(self, &mut hasher);
        hasher.finish()
    }
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

/// An entry in shared memory; 112 bytes.
#[derive(Default)]
#[repr(C)]
pub struct Slot {
    /// The key's hash, which tells the bucket. Changed with the partition locked exclusively, as all but `beat_at`
    /// and `written`.
    hash: AtomicU64,
    /// The database's OID; zero while the slot is free.
    database: AtomicU32,
    /// The next slot of the chain, or of the free list.
    next: AtomicU32,
    /// The id, as in a [`Key`].
    words: [AtomicU64; WORDS],
    /// The last heartbeat, in Postgres' microseconds. Stored with the partition locked in either mode.
    beat_at: AtomicI64,
    /// The value of `beat_at` that the worker's row has. Stored by the flush, with the partition locked shared.
    written: AtomicI64,
    /// The answer to a heartbeat; [`CLOSED`] when the row has to be asked.
    incarnation: AtomicI64,
    /// A hash of the hostname.
    hostname: AtomicU64,
}

/// Counters and the free list.
#[repr(C)]
pub struct Header {
    /// Slots that were ever used; those after it are free without being on the list. Free list's lock.
    high_water: AtomicU32,
    /// First slot of the free list. Free list's lock.
    free: AtomicU32,
    /// How often an entry was taken out, or looked for in vain to be taken out, in each partition. An entry is
    /// only added if nothing was since its row was looked at. Partition's lock, exclusive.
    removals: [AtomicU64; PARTITIONS],
    /// How often a worker could not have an entry: no slot, or too long an id. No lock.
    refused: AtomicU64,
}

/// A view of the table, the same in all processes.
pub struct Table<'a, L> {
    header: &'a Header,
    buckets: &'a [AtomicU32],
    slots: &'a [Slot],
    locks: L,
}

impl<'a, L: Locks> Table<'a, L> {
    /// Over memory that was all zeroes when the first of them was made. `buckets` is as long as a power of two.
    pub fn new(header: &'a Header, buckets: &'a [AtomicU32], slots: &'a [Slot], locks: L) -> Self {
        Self { header, buckets, slots, locks }
    }

    /// Stores the time of a heartbeat and answers the worker's incarnation; `None` when there is no entry, or the
    /// hostname is another one: then the row has to be written.
    pub fn beat(&self, key: &Key, hostname: Option<u64>, now: i64) -> Option<i64> {
        let hash = key.hash();
        let _locked = self.locks.shared(partition(hash));
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
        let hash = key.hash();
        let _locked = self.locks.shared(partition(hash));
        self.find(key, hash).map(|slot| slot.beat_at.load(Relaxed))
    }

    /// Has a worker that beat after `limit`, by a clock that was set back since, have beaten `now`.
    pub fn pull_back(&self, key: &Key, limit: i64, now: i64) {
        let hash = key.hash();
        let _locked = self.locks.shared(partition(hash));
        if let Some(slot) = self.find(key, hash) {
            let beat_at = slot.beat_at.load(Relaxed);
            if beat_at > limit {
                // A heartbeat that comes just now is as good.
                let _ = slot.beat_at.compare_exchange(beat_at, now, Relaxed, Relaxed);
            }
        }
    }

    /// A mark of the moment. Whoever wants to [`add`](Self::add) an entry takes it while the worker's row is
    /// locked.
    pub fn mark(&self, key: &Key) -> u64 {
        let partition = partition(key.hash());
        let _locked = self.locks.shared(partition);
        self.header.removals[partition].load(Relaxed)
    }

    /// Adds an entry, or changes the one that is there, unless an entry of the partition was taken out since the
    /// mark: then the worker may have been declared dead. Not adding is never wrong.
    pub fn add(&self, key: &Key, entry: Entry, mark: u64) {
        let hash = key.hash();
        let partition = partition(hash);
        let _locked = self.locks.exclusive(partition);
        if self.header.removals[partition].load(Relaxed) != mark {
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
        let hash = key.hash();
        let partition = partition(hash);
        let _locked = self.locks.exclusive(partition);
        if let Some(slot) = self.find(key, hash) {
            slot.incarnation.store(CLOSED, Relaxed);
        }
        self.header.removals[partition].fetch_add(1, Relaxed);
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
        let hash = key.hash();
        let partition = partition(hash);
        let _locked = self.locks.exclusive(partition);
        if let Some(slot) = self.find(key, hash) {
            if !condition(slot.beat_at.load(Relaxed)) {
                return false;
            }
            self.unlink(slot, hash);
        }
        self.header.removals[partition].fetch_add(1, Relaxed);
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
            let _locked = self.locks.exclusive(partition(hash));
            // Without the lock this was only a hint. If it is another worker's by now, the hash tells, mostly;
            // otherwise that one is asked, too.
            if slot.hash.load(Relaxed) == hash && is_used(slot) && condition(slot) {
                self.unlink(slot, hash);
                self.header.removals[partition(hash)].fetch_add(1, Relaxed);
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

    /// The heartbeats of a database that are not in their rows yet: worker and time.
    pub fn unwritten(&self, database: u32) -> Vec<(Key, i64)> {
        let is_hinted = |slot: &&Slot| slot.database.load(Relaxed) == database && slot.is_unwritten();
        self.used()
            .filter(is_hinted)
            .filter_map(|slot| {
                let hash = slot.hash.load(Relaxed);
                let _locked = self.locks.shared(partition(hash));
                // Another worker's by now: it may be of another partition, where this lock means nothing.
                let is_same = slot.hash.load(Relaxed) == hash && slot.database.load(Relaxed) == database;
                is_same.then(|| (slot.key(), slot.beat_at.load(Relaxed)))
            })
            .collect()
    }

    /// Takes note that a heartbeat is in the worker's row.
    pub fn written(&self, key: &Key, beat_at: i64) {
        let hash = key.hash();
        let _locked = self.locks.shared(partition(hash));
        if let Some(slot) = self.find(key, hash) {
            slot.written.store(beat_at, Relaxed);
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

    /// The entry of a key. Partition locked.
    fn find(&self, key: &Key, hash: u64) -> Option<&'a Slot> {
        let mut next = self.bucket(hash).load(Relaxed);
        while let Some(slot) = self.slot(next) {
            if slot.hash.load(Relaxed) == hash && slot.key() == *key {
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
        for (stored, word) in slot.words.iter().zip(key.words) {
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
}

impl Slot {
    fn is_unwritten(&self) -> bool {
        self.beat_at.load(Relaxed) != self.written.load(Relaxed)
    }

    fn key(&self) -> Key {
        Key {
            database: self.database.load(Relaxed),
            words: std::array::from_fn(|word| self.words[word].load(Relaxed)),
        }
    }
}

/// The partition that a hash is in. A bucket lies wholly in one: there are at least as many buckets as partitions,
/// and both are powers of two.
fn partition(hash: u64) -> usize {
    usize::try_from(hash).unwrap_or(0) % PARTITIONS
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
