//! The databases of the server, listed without being connected to one: what the launcher cannot ask SQL for.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ffi::CStr;

use pgrx::pg_sys;

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
