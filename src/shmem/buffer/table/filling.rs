//! Entries made from rows, after a start: of many workers at once, whose rows are not locked.

use std::array::from_fn;
use std::sync::atomic::Ordering::Relaxed;

use super::{Entry, Key, Locks, PARTITIONS, Partition, Slot, Table};

/// In the place of a hostname's hash: the rows have no hostname, so whichever the worker names is no other one.
pub const ANY_HOST: u32 = u32::MAX;

/// The generations of all partitions at a moment.
pub struct Generations([u64; PARTITIONS]);

/// What became of a worker that was to get an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// It has one now.
    Added,
    /// It had one, open or closed, or it may have been given up since the generations were read.
    Left,
    /// There was no free slot.
    NoRoom,
}

impl<L: Locks> Table<'_, L> {
    /// The generations now, which [`fill`](Self::fill) compares. To be read before the rows are looked at.
    pub fn generations(&self) -> Generations {
        Generations(from_fn(|number| {
            let _locked = self.locks.shared(Partition(number));
            self.header.generations[number].load(Relaxed)
        }))
    }

    /// Adds an entry of a worker that has none, unless its partition is of a newer generation. What is there is newer.
    pub fn fill(&self, key: &Key, entry: &Entry, generations: &Generations) -> Filled {
        let hash = self.hash(key);
        let partition = Partition::of(hash);
        let _locked = self.locks.exclusive(partition);
        let is_same = self.header.generations[partition.0].load(Relaxed) == generations.0[partition.0];
        if !is_same || self.find(key, hash).is_some() {
            return Filled::Left;
        }
        match self.take_free(key, hash) {
            Some(slot) => {
                slot.set(entry);
                Filled::Added
            }
            None => Filled::NoRoom,
        }
    }
}

impl Slot {
    /// Whether the worker is on this host, as far as is known. Partition locked.
    pub(super) fn is_on(&self, hostname: u32) -> bool {
        let known = self.hostname.load(Relaxed);
        // Of two heartbeats that name the first, one may have to go to the row.
        known == hostname
            || known == ANY_HOST && self.hostname.compare_exchange(known, hostname, Relaxed, Relaxed).is_ok()
    }

    /// The hash of its hostname; 0 when that is not known.
    pub(super) fn host(&self) -> u32 {
        Some(self.hostname.load(Relaxed)).filter(|hostname| *hostname != ANY_HOST).unwrap_or(0)
    }
}
