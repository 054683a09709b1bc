//! Tables and indexes in PostgreSQL's cache of relations.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

use super::catalog;

/// A table or an index in the cache; closed when dropped, and locked until the transaction ends.
pub(super) struct OpenRelation(pg_sys::Relation);

impl OpenRelation {
    /// Waits for the lock, one of PostgreSQL's modes. `None` when the relation was dropped.
    pub(super) fn open(relation: pg_sys::Oid, lock: u32) -> Option<Self> {
        // SAFETY: closed by `drop`.
        let relation = unsafe { pg_sys::try_relation_open(relation, lock as pg_sys::LOCKMODE) };
        (!relation.is_null()).then(|| Self(relation))
    }

    pub(super) fn as_ptr(&self) -> pg_sys::Relation {
        self.0
    }

    pub(super) fn entry(&self) -> &pg_sys::RelationData {
        // SAFETY: open, so PostgreSQL keeps the entry where it is. What that points to is only renewed after a change,
        // which the lock keeps away.
        unsafe { &*self.0 }
    }

    pub(super) fn class(&self) -> &pg_sys::FormData_pg_class {
        // SAFETY: the entry's.
        unsafe { &*self.entry().rd_rel }
    }

    /// Its triggers that are enabled, for whatever sessions.
    pub(super) fn triggers(&self) -> impl Iterator<Item = &pg_sys::Trigger> {
        // SAFETY: null, or the entry's.
        let all = unsafe { self.entry().trigdesc.as_ref() };
        // SAFETY: so many are there.
        let triggers = all.map(|all| unsafe {
            std::slice::from_raw_parts(all.triggers, usize::try_from(all.numtriggers).unwrap_or(0))
        });
        triggers
            .unwrap_or_default()
            .iter()
            .filter(|trigger| trigger.tgenabled as u8 != pg_sys::TRIGGER_DISABLED)
    }

    /// Whether one of its triggers is the extension's own: it only acts on what logical replication brings.
    pub(super) fn is_ours(&self, trigger: &pg_sys::Trigger) -> bool {
        catalog::is_trigger_function(trigger.tgfoid, "rgrid_replicated", self.entry().rd_id)
    }

    /// Whether it has rules, enabled or not.
    pub(super) fn has_rules(&self) -> bool {
        self.class().relhasrules && !self.entry().rd_rules.is_null()
    }
}

impl Drop for OpenRelation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The abort of the (sub)transaction closes it. While an error unwinds, Postgres must not be called.
            return;
        }
        // SAFETY: opened by `open`; the lock stays.
        unsafe { pg_sys::relation_close(self.0, pg_sys::NoLock as pg_sys::LOCKMODE) };
    }
}

/// A name in the cache.
pub(super) fn text(name: *const c_char) -> String {
    // SAFETY: the caller's name is the cache's.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}
