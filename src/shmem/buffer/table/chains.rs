//! The chains of the table: finding an entry, taking a slot from the free list, putting it back.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::{HEAD_WORDS, Key, Locks, Slot, Table, Tail, Tie, WORDS, index};

impl<'a, L: Locks> Table<'a, L> {
    /// The entry of a key. Partition locked.
    pub(super) fn find(&self, key: &Key, hash: u64) -> Option<&'a Slot> {
        self.find_number(key, hash).map(|(_, slot)| slot)
    }

    /// The same with the slot's number, plus one.
    pub(super) fn find_number(&self, key: &Key, hash: u64) -> Option<(u32, &'a Slot)> {
        let mut next = self.bucket(hash).load(Relaxed);
        while let Some(slot) = self.slot(next) {
            if self.is(slot, next, key, hash) {
                return Some((next, slot));
            }
            next = slot.next.load(Relaxed);
        }
        None
    }

    /// Takes a slot from the free list and puts it into the key's chain. Partition locked exclusively.
    pub(super) fn take_free(&self, key: &Key, hash: u64) -> Option<&'a Slot> {
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

    /// The number, plus one, of a slot that is not in use.
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

    /// Removes a slot from its chain and puts it on the free list. Partition locked exclusively.
    pub(super) fn unlink(&self, slot: &Slot, hash: u64) {
        let mut link = self.bucket(hash);
        while let Some(candidate) = self.slot(link.load(Relaxed)) {
            if std::ptr::eq(candidate, slot) {
                let number = link.load(Relaxed);
                link.store(slot.next.load(Relaxed), Relaxed);
                slot.database.store(0, Relaxed);
                self.tie(number).into_iter().for_each(Tie::clear);
                let _locked = self.locks.free_list();
                slot.next.store(self.header.free.load(Relaxed), Relaxed);
                self.header.free.store(number, Relaxed);
                return;
            }
            link = &candidate.next;
        }
    }

    pub(super) fn bucket(&self, hash: u64) -> &'a AtomicU32 {
        let mask = self.buckets.len() - 1;
        &self.buckets[usize::try_from(hash).unwrap_or(0) & mask]
    }

    /// The slot with a number that was stored plus one; `None` for zero.
    pub(super) fn slot(&self, number: u32) -> Option<&'a Slot> {
        self.slots.get(index(number).checked_sub(1)?)
    }

    /// The rest of the id in that slot.
    fn tail(&self, number: u32) -> Option<&'a Tail> {
        self.tails.get(index(number).checked_sub(1)?)
    }

    /// The tie of the worker in that slot.
    pub(super) fn tie(&self, number: u32) -> Option<&'a Tie> {
        self.ties.get(index(number).checked_sub(1)?)
    }

    /// Whether a slot has this key; compares no more of it than needed. Partition locked.
    pub(super) fn is(&self, slot: &Slot, number: u32, key: &Key, hash: u64) -> bool {
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
    pub(super) fn key(&self, number: u32) -> Option<Key> {
        let (slot, tail) = self.slot(number).zip(self.tail(number))?;
        let mut words = [0; WORDS];
        for (word, stored) in words.iter_mut().zip(slot.words.iter().chain(&tail.words)) {
            *word = stored.load(Relaxed);
        }
        Some(Key { database: slot.database.load(Relaxed), words })
    }
}
