//! Tuples of the system caches.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::ops::Deref;

use pgrx::pg_sys;

/// A tuple of the system cache, which begins with the struct `Form`; released when dropped.
pub struct SysCacheTuple<Form>(pg_sys::HeapTuple, PhantomData<Form>);

impl SysCacheTuple<pg_sys::FormData_pg_class> {
    /// `None` when there is no such relation.
    pub fn of_relation(oid: pg_sys::Oid) -> Option<Self> {
        let cache = pg_sys::SysCacheIdentifier::RELOID as i32;
        // SAFETY: a look-up in the cache of pg_class that is by OID; released by `drop`.
        let tuple = unsafe { pg_sys::SearchSysCache1(cache, oid.into()) };
        (!tuple.is_null()).then(|| Self(tuple, PhantomData))
    }
}

impl SysCacheTuple<pg_sys::FormData_pg_attribute> {
    /// `None` when the relation has no column of this number.
    pub fn of_column(relation: pg_sys::Oid, number: i16) -> Option<Self> {
        let cache = pg_sys::SysCacheIdentifier::ATTNUM as i32;
        // SAFETY: a look-up in the cache of pg_attribute that is by these two; released by `drop`.
        let tuple = unsafe { pg_sys::SearchSysCache2(cache, relation.into(), number.into()) };
        (!tuple.is_null()).then(|| Self(tuple, PhantomData))
    }
}

impl SysCacheTuple<pg_sys::FormData_pg_operator> {
    /// `None` when there is no such operator.
    pub fn of_operator(oid: pg_sys::Oid) -> Option<Self> {
        let cache = pg_sys::SysCacheIdentifier::OPEROID as i32;
        // SAFETY: a look-up in the cache of pg_operator that is by OID; released by `drop`.
        let tuple = unsafe { pg_sys::SearchSysCache1(cache, oid.into()) };
        (!tuple.is_null()).then(|| Self(tuple, PhantomData))
    }
}

impl SysCacheTuple<pg_sys::FormData_pg_index> {
    const CACHE: u32 = pg_sys::SysCacheIdentifier::INDEXRELID;

    /// `None` when there is no such index.
    pub fn of_index(oid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: a look-up in the cache of pg_index that is by OID; released by `drop`.
        let tuple = unsafe { pg_sys::SearchSysCache1(Self::CACHE as i32, oid.into()) };
        (!tuple.is_null()).then(|| Self(tuple, PhantomData))
    }

    /// A column of text, if it is not NULL.
    pub fn text(&self, column: u32) -> Option<CString> {
        self.text_of(Self::CACHE, column)
    }
}

/// The struct of extended statistics, which is not among pgrx's bindings for all versions. Nothing of it is read.
pub struct Statistics;

/// The column of their expressions, in all versions that are supported.
pub const STATISTICS_EXPRESSIONS: u32 = 9;

impl SysCacheTuple<Statistics> {
    const CACHE: u32 = pg_sys::SysCacheIdentifier::STATEXTOID;

    /// `None` when there are no such statistics.
    pub fn of_statistics(oid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: a look-up in the cache of pg_statistic_ext that is by OID; released by `drop`.
        let tuple = unsafe { pg_sys::SearchSysCache1(Self::CACHE as i32, oid.into()) };
        (!tuple.is_null()).then(|| Self(tuple, PhantomData))
    }

    /// A column of text, if it is not NULL.
    pub fn text(&self, column: u32) -> Option<CString> {
        self.text_of(Self::CACHE, column)
    }
}

impl<Form> SysCacheTuple<Form> {
    fn text_of(&self, cache: u32, column: u32) -> Option<CString> {
        let mut is_null = true;
        // SAFETY: a column of the catalog that the cache is for.
        let text = unsafe { pg_sys::SysCacheGetAttr(cache as i32, self.0, column as i16, &mut is_null) };
        if is_null {
            return None;
        }
        // SAFETY: text, or a type that is stored like it; the copy is palloc'd and terminated.
        Some(unsafe { CStr::from_ptr(pg_sys::text_to_cstring(text.cast_mut_ptr())) }.to_owned())
    }

    /// The grants in a column of the tuple, in a copy.
    pub fn grants(&self, cache: u32, column: u32) -> Vec<pg_sys::AclItem> {
        let mut is_null = true;
        // SAFETY: a column of the catalog that the cache is for.
        let grants = unsafe { pg_sys::SysCacheGetAttr(cache as i32, self.0, column as i16, &mut is_null) };
        if is_null {
            return Vec::new();
        }
        // SAFETY: an array of one dimension without NULLs, as PostgreSQL makes them for grants; palloc'd, or the
        // tuple's.
        let array: *const pg_sys::ArrayType =
            unsafe { pg_sys::pg_detoast_datum(grants.cast_mut_ptr()) }.cast();
        // SAFETY: the number of items comes after the head of the array.
        let count = unsafe { array.add(1).cast::<i32>().read() };
        // SAFETY: then its lower bound, and then the items, aligned to eight bytes.
        let items = unsafe { array.cast::<u8>().add(24).cast::<pg_sys::AclItem>() };
        // SAFETY: so many are there, for as long as the tuple.
        unsafe { std::slice::from_raw_parts(items, usize::try_from(count).unwrap_or(0)) }.to_vec()
    }
}

impl<Form> Deref for SysCacheTuple<Form> {
    type Target = Form;

    fn deref(&self) -> &Form {
        // SAFETY: the constructors pair cache and struct, and the cache keeps the tuple until `drop`.
        unsafe { &*pg_sys::GETSTRUCT(self.0).cast() }
    }
}

impl<Form> Drop for SysCacheTuple<Form> {
    fn drop(&mut self) {
        // SAFETY: found by a constructor, and released only here.
        unsafe { pg_sys::ReleaseSysCache(self.0) };
    }
}
