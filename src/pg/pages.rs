//! Whether a table or an index has anything in it, found out without planning a statement. For tables of thousands of
//! partitions, of which a plan opens each one with all of its indexes.
//!
//! Locks a relation for the look alone: whatever is locked later does not meet these locks in another order.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use pgrx::{IntoDatum, direct_function_call, pg_sys};

use super::relcache::OpenRelation;
use super::version;

/// The lock of a reader, released when dropped.
struct Locked(pg_sys::Oid);

impl Locked {
    const MODE: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

    /// Waits for it as long as the setting `lock_timeout` says.
    fn new(relation: pg_sys::Oid) -> Self {
        // SAFETY: an ordinary heavyweight lock; released by `drop`, or by the abort when an error passes.
        unsafe { pg_sys::LockRelationOid(relation, Self::MODE) };
        Self(relation)
    }

    /// The size of its file in pages; `None` when it has none, or has more than one.
    fn pages(&self) -> Option<u64> {
        // SAFETY: a look-up in pg_class, for whatever OID.
        let path: String =
            unsafe { direct_function_call(pg_sys::pg_relation_filepath, &[self.0.into_datum()]) }?;
        // The server's working directory is that of its data, to which the path is relative.
        let size = std::fs::metadata(path).ok()?.len();
        Some(size.div_ceil(u64::from(pg_sys::BLCKSZ)))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // SAFETY: taken by `new`, and released only here.
        unsafe { pg_sys::UnlockRelationOid(self.0, Self::MODE) };
    }
}

/// Whether a table has no page, and so no row.
pub fn is_without_pages(table: pg_sys::Oid) -> bool {
    Locked::new(table).pages() == Some(0)
}

/// The entries of an index that are looked for.
#[derive(Clone, Copy)]
pub enum Entries<'a> {
    /// Any at all.
    All,
    /// Those whose first column is one of these texts.
    Of(&'a [String]),
}

/// Pages of an index that are read to find out that all of its entries are gone.
const MOST_PAGES: u64 = 16;

/// Whether a B-tree index has no such entry: neither of a row that somebody sees, nor of one that is not committed.
/// False also where that is not known.
pub fn is_without(index: pg_sys::Oid, entries: Entries<'_>) -> bool {
    let locked = Locked::new(index);
    match (locked.pages(), entries) {
        // The first page says where the root is, and there is none.
        (Some(1), _) => true,
        (Some(2..=MOST_PAGES), Entries::All) | (Some(2..), Entries::Of(_)) => {
            OpenRelation::open(index, pg_sys::NoLock).is_some_and(|index| scan_finds_none(&index, entries))
        }
        _ => false,
    }
}

fn scan_finds_none(index: &OpenRelation, entries: Entries<'_>) -> bool {
    let mut scan = Scan::begin(index, if matches!(entries, Entries::All) { 0 } else { 1 });
    match entries {
        Entries::All => scan.finds_none(&mut []),
        Entries::Of(texts) => texts.iter().all(|text| match key(index, text) {
            Some(key) => scan.finds_none(&mut [key]),
            None => false,
        }),
    }
}

/// The condition that the first column of an index is this text; `None` where the index compares something else.
fn key(index: &OpenRelation, text: &str) -> Option<pg_sys::ScanKeyData> {
    let entry = index.entry();
    // SAFETY: an index that is valid has at least one column.
    let (family, compared, collation) =
        unsafe { (*entry.rd_opfamily, *entry.rd_opcintype, *entry.rd_indcollation) };
    if compared != pg_sys::TEXTOID {
        return None;
    }
    // SAFETY: look-ups in the catalog.
    let operator = unsafe {
        pg_sys::get_opfamily_member(family, compared, compared, pg_sys::BTEqualStrategyNumber as i16)
    };
    // SAFETY: as above; a family of B-trees has an operator for equality.
    let equal = unsafe { pg_sys::get_opcode(operator) };
    let mut key = pg_sys::ScanKeyData::default();
    // SAFETY: the key is valid for the call, and takes the text, which stays until the memory context ends.
    unsafe {
        pg_sys::ScanKeyEntryInitialize(
            &mut key,
            0,
            1,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::InvalidOid,
            collation,
            equal,
            text.into_datum()?,
        )
    };
    Some(key)
}

/// A scan of an index that only collects places; ended when dropped.
struct Scan(pg_sys::IndexScanDesc);

impl Scan {
    fn begin(index: &OpenRelation, keys: i32) -> Self {
        // SAFETY: a statement is being run, so there is a snapshot; ended by `drop`.
        Self(unsafe { version::begin_bitmap_scan(index.as_ptr(), pg_sys::GetActiveSnapshot(), keys) })
    }

    fn finds_none(&mut self, keys: &mut [pg_sys::ScanKeyData]) -> bool {
        // SAFETY: as many keys as the scan was begun for; they are copied.
        unsafe {
            pg_sys::index_rescan(self.0, keys.as_mut_ptr(), keys.len() as i32, std::ptr::null_mut(), 0)
        };
        // SAFETY: freed below, or with the memory context when an error passes. It becomes coarser when it is full.
        let places = unsafe { pg_sys::tbm_create(64 * 1024, std::ptr::null_mut()) };
        // SAFETY: both were just made.
        let count = unsafe { pg_sys::index_getbitmap(self.0, places) };
        // SAFETY: as above.
        unsafe { pg_sys::tbm_free(places) };
        count == 0
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // SAFETY: begun by `begin`, and ended only here.
        unsafe { pg_sys::index_endscan(self.0) };
    }
}
