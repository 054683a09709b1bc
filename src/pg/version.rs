//! What differs between the major versions of PostgreSQL, 15 to 18: the only place that depends on the version.
//!
//! Runs in all processes. Naming a wait event takes a lock of Postgres' own, once a process.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ffi::CStr;

use pgrx::pg_sys;

/// Settings that this version has beside those of all versions, and what a worker needs them to be.
#[cfg(any(feature = "pg15", feature = "pg16"))]
pub const WORKER_SETTINGS: &[(&CStr, &CStr)] = &[];
/// Settings that this version has beside those of all versions, and what a worker needs them to be.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub const WORKER_SETTINGS: &[(&CStr, &CStr)] = &[(c"transaction_timeout", c"0")];

/// Whether an AFTER trigger runs as the role whose statement has changed the row, also when that was a statement for a
/// foreign key. Until 17 it runs as the role of the statement that set off the other one.
pub const RUNS_TRIGGERS_AS_QUEUED: bool = cfg!(feature = "pg18");

/// Installs a handler for a signal in this process.
///
/// # Safety
///
/// The handler must be one that may run between any two instructions.
pub unsafe fn handle_signal(signal: u32, handler: unsafe extern "C-unwind" fn(i32)) {
    #[cfg(not(feature = "pg18"))]
    use pg_sys::pqsignal;
    // Since 18 there is one for the server and one for its clients.
    #[cfg(feature = "pg18")]
    use pg_sys::pqsignal_be as pqsignal;

    // SAFETY: the caller vouches for the handler.
    unsafe { pqsignal(signal as i32, Some(handler)) };
}

/// Whether a client without special rights could connect now.
pub fn has_free_connection() -> bool {
    // SAFETY: a setting that is fixed when the server starts.
    #[cfg(feature = "pg15")]
    let reserved = unsafe { pg_sys::ReservedBackends };
    // SAFETY: as above.
    #[cfg(not(feature = "pg15"))]
    let reserved = unsafe { pg_sys::SuperuserReservedConnections + pg_sys::ReservedConnections };
    // SAFETY: counts free entries of the array of processes, under a spinlock.
    #[cfg(feature = "pg15")]
    let has_free = unsafe { pg_sys::HaveNFreeProcs(reserved + 1) };
    #[cfg(not(feature = "pg15"))]
    let has_free = {
        let mut free = 0;
        // SAFETY: as above; the number is valid for the call.
        unsafe { pg_sys::HaveNFreeProcs(reserved + 1, &mut free) }
    };
    has_free
}

/// Whether a role may SET ROLE to another one. Since 16 a membership can be without that right.
pub fn may_set_role(role: pg_sys::Oid, other: pg_sys::Oid) -> bool {
    #[cfg(feature = "pg15")]
    use pg_sys::is_member_of_role as may;
    #[cfg(not(feature = "pg15"))]
    use pg_sys::member_can_set_role as may;

    // SAFETY: two role OIDs.
    unsafe { may(role, other) }
}

/// The index of a table's primary key; `InvalidOid` when it has none.
///
/// # Safety
///
/// The table is open.
pub unsafe fn primary_key(table: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: the caller's promise.
    #[cfg(not(feature = "pg18"))]
    let key = unsafe { pg_sys::RelationGetPrimaryKeyIndex(table) };
    // SAFETY: as above. One that is deferrable serves for looking up.
    #[cfg(feature = "pg18")]
    let key = unsafe { pg_sys::RelationGetPrimaryKeyIndex(table, true) };
    key
}

/// A reason to wait, as `pg_stat_activity` shows it in `wait_event`. Until 16 every extension's is "Extension".
#[cfg(any(feature = "pg15", feature = "pg16"))]
pub fn wait_event(_name: &'static CStr) -> u32 {
    pg_sys::PG_WAIT_EXTENSION
}

/// A reason to wait, as `pg_stat_activity` shows it in `wait_event`. Until 16 every extension's is "Extension".
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub fn wait_event(name: &'static CStr) -> u32 {
    // SAFETY: the name is static; a second call with the same name returns the same number.
    unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) }
}

/// Begins a scan of an index that collects the places of rows in a bitmap.
///
/// # Safety
///
/// The index is open and locked, and the snapshot is registered or active, until the scan ends.
pub unsafe fn begin_bitmap_scan(
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: i32,
) -> pg_sys::IndexScanDesc {
    #[cfg(not(feature = "pg18"))]
    // SAFETY: the caller's promise.
    let scan = unsafe { pg_sys::index_beginscan_bitmap(index, snapshot, keys) };
    // SAFETY: as above; nothing is counted.
    #[cfg(feature = "pg18")]
    let scan = unsafe { pg_sys::index_beginscan_bitmap(index, snapshot, std::ptr::null_mut(), keys) };
    scan
}
