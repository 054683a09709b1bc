//! The databases of the server, listed without being connected to one: what the launcher cannot ask SQL for. And
//! noticing that one is dropped: a later one can get the same OID.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};

use pgrx::prelude::*;

use super::commit;

/// The connection limit of a database that is half dropped; DATCONNLIMIT_INVALID_DB of Postgres.
const INVALID_DATABASE: i32 = -2;

/// A database that sweepers can connect to.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its OID, which stays when it is renamed.
    pub oid: pg_sys::Oid,
    /// Its current name.
    pub name: String,
}

/// All databases but templates and those that allow no connections. Needs a transaction, no database.
pub fn databases() -> Vec<Database> {
    let mut found = Vec::new();
    let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: pg_database is shared, so it can be opened without a database; closed below.
    let relation = unsafe { pg_sys::table_open(pg_sys::DatabaseRelationId, mode) };
    // SAFETY: the relation is open; no keys; ended below.
    let scan = unsafe { pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut()) };
    loop {
        // SAFETY: the scan is open.
        let tuple = unsafe { pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection) };
        if tuple.is_null() {
            break;
        }
        // SAFETY: a tuple of pg_database begins with this struct, and it stays until the next one is fetched.
        let row = unsafe { &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>() };
        // A dropped database whose removal was interrupted takes no connections any more.
        let is_invalid = row.datconnlimit == INVALID_DATABASE;
        if row.datallowconn && !row.datistemplate && !is_invalid {
            // SAFETY: a NameData is always terminated.
            let name = unsafe { CStr::from_ptr(row.datname.data.as_ptr()) };
            found.push(Database { oid: row.oid, name: name.to_string_lossy().into_owned() });
        }
    }
    // SAFETY: opened above, ended once.
    unsafe { pg_sys::table_endscan(scan) };
    // SAFETY: opened above, closed once.
    unsafe { pg_sys::table_close(relation, mode) };
    found
}

thread_local! {
    /// What is called with the OID of a database that was dropped.
    static DROPPED: Cell<Option<fn(pg_sys::Oid)>> = const { Cell::new(None) };
    /// The hook that was there before.
    static PREVIOUS: Cell<pg_sys::object_access_hook_type> = const { Cell::new(None) };
}

/// Has `forget` called for each database that this process drops, when that has committed. No session is connected to
/// the database then, and none can connect to a new one of that OID yet. Called once, while the library is preloaded.
pub fn at_drop(forget: fn(pg_sys::Oid)) {
    DROPPED.set(Some(forget));
    // SAFETY: a global that is only changed while a library is loaded.
    PREVIOUS.set(unsafe { pg_sys::object_access_hook });
    // SAFETY: as above; the function lives as long as the process.
    unsafe { pg_sys::object_access_hook = Some(object_accessed) };
}

/// Called at each call of a function, too, by each heartbeat that is one: so it has no guard, and does nothing that can
/// fail but for the drop of a database.
unsafe extern "C-unwind" fn object_accessed(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: c_int,
    argument: *mut c_void,
) {
    if access == pg_sys::ObjectAccessType::OAT_DROP && class == pg_sys::DatabaseRelationId {
        // SAFETY: a hook is called in a transaction.
        unsafe { database_dropped(object) };
    }
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: called with what it was installed for. An error passes over this frame, which has nothing to drop.
        unsafe { previous(access, class, object, part, argument) };
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn database_dropped(database: pg_sys::Oid) {
    if let Some(forget) = DROPPED.get() {
        commit::at_commit(move || forget(database));
    }
}
