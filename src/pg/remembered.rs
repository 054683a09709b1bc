//! What a process has found out about relations and schemas, until PostgreSQL says that one of them may have changed.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::cell::{Cell, RefCell};

use pgrx::prelude::*;

use crate::error::Result;

thread_local! {
    /// How often PostgreSQL has said so.
    static CHANGES: Cell<u64> = const { Cell::new(0) };
}

/// Puts in place what counts the changes. Called once, when the library is loaded.
pub(super) fn install() {
    // SAFETY: the function lives as long as the process.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::null()) };
    let schemas = pg_sys::SysCacheIdentifier::NAMESPACEOID as i32;
    // SAFETY: as above.
    unsafe { pg_sys::CacheRegisterSyscacheCallback(schemas, Some(schema_changed), pg_sys::Datum::null()) };
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_changed(_argument: pg_sys::Datum, _relation: pg_sys::Oid) {
    CHANGES.set(CHANGES.get() + 1);
}

#[pg_guard]
unsafe extern "C-unwind" fn schema_changed(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    CHANGES.set(CHANGES.get() + 1);
}

/// Something that was found out about a schema or what is in it.
pub struct Remembered<T>(RefCell<Option<(u64, pg_sys::Oid, T)>>);

impl<T: Clone> Remembered<T> {
    /// Nothing yet.
    pub const fn nothing() -> Self {
        Self(RefCell::new(None))
    }

    /// What is remembered of this schema, or else what `find` finds: it says whether that may be remembered, because it
    /// changes with relations and schemas alone.
    pub fn or_find(&self, schema: pg_sys::Oid, find: impl FnOnce() -> Result<(T, bool)>) -> Result<T> {
        let changes = CHANGES.get();
        if let Some((as_of, of, known)) = self.0.borrow().as_ref()
            && (*as_of, *of) == (changes, schema)
        {
            return Ok(known.clone());
        }
        let (found, may_be_kept) = find()?;
        // Changes that were heard of meanwhile count.
        self.0.replace(may_be_kept.then(|| (changes, schema, found.clone())));
        Ok(found)
    }
}
