//! Going through all entries: for flushes, for what operators read, and to remove many at once.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use super::{Locks, Partition, PendingHeartbeat, Slot, Table, index};

impl<'a, L: Locks> Table<'a, L> {
    /// Removes all entries of the databases that fail the test.
    pub fn retain(&self, keep: impl Fn(u32) -> bool) {
        self.remove_all(|slot| !keep(slot.database.load(Relaxed)));
    }

    /// Removes the entries of a database whose last heartbeat is before `cutoff` and is in the worker's row.
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
            // Without the lock this was only a hint. The slot may be another worker's by now: mostly the hash tells,
            // and where it is the same, the condition is checked for that worker.
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
    pub fn unwritten(&self, database: u32) -> impl Iterator<Item = PendingHeartbeat> {
        let is_hinted = move |slot: &Slot| slot.database.load(Relaxed) == database && slot.is_unwritten();
        (1..).zip(self.used()).filter(move |(_, slot)| is_hinted(slot)).filter_map(move |(number, slot)| {
            let hash = slot.hash.load(Relaxed);
            let _locked = self.locks.shared(Partition::of(hash));
            // The slot may be another worker's by now, in another partition, which this lock does not protect.
            let is_same = slot.hash.load(Relaxed) == hash && slot.database.load(Relaxed) == database;
            let key = is_same.then(|| self.key(number)).flatten()?;
            Some(PendingHeartbeat { key, beat_at: slot.beat_at.load(Relaxed), number })
        })
    }

    /// How long workers of a database had been silent at a moment: of the first `wanted` workers, those that have sent
    /// a heartbeat since, and one before it after `begin`. The first, because a flush that takes long has read these
    /// when it began. Nothing is locked: a slot that another worker takes meanwhile may give a wrong number.
    pub fn silences(&self, database: u32, begin: i64, moment: i64, wanted: usize) -> Vec<i64> {
        self.used()
            .filter(|slot| slot.database.load(Relaxed) == database)
            .take(wanted)
            .filter_map(|slot| {
                let (beat_at, before) = (slot.beat_at.load(Relaxed), slot.written.load(Relaxed));
                (begin < before && before < moment && moment < beat_at).then(|| moment - before)
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

    /// Slots that may be in use; the others never were.
    fn used(&self) -> impl Iterator<Item = &'a Slot> {
        let high_water = index(self.header.high_water.load(Relaxed));
        self.slots[..high_water.min(self.slots.len())].iter()
    }
}
