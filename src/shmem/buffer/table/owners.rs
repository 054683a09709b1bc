//! Which role the id of an entry belongs to.

use std::sync::atomic::Ordering::Relaxed;

use super::{CLOSED, Key, Locks, Partition, Slot, Table};

/// In the place of a role's OID: the id of the entry belongs to no role.
pub const ANY_ROLE: u32 = 0;

impl Slot {
    /// Whether this role may use the id, by its OID alone. Partition locked.
    pub(super) fn is_for(&self, caller: u32) -> bool {
        let owner = self.owner.load(Relaxed);
        owner == caller || owner == ANY_ROLE
    }
}

impl<L: Locks> Table<'_, L> {
    /// OID of the role that a worker's id belongs to; `None` when there is no open entry, or it belongs to no role.
    pub fn owner(&self, key: &Key) -> Option<u32> {
        let hash = self.hash(key);
        let _locked = self.locks.shared(Partition::of(hash));
        let slot = self.find(key, hash).filter(|slot| slot.incarnation.load(Relaxed) != CLOSED)?;
        Some(slot.owner.load(Relaxed)).filter(|owner| *owner != ANY_ROLE)
    }
}
