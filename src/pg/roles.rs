//! Roles: whose rights this session has, and names and OIDs of others.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    // Declared here because pgrx's own declaration is a wrapper that prepares for an error, which takes longer than the
    // call. It reads a global and raises none.
    fn GetUserId() -> pg_sys::Oid;
}

/// The role with whose rights this session runs: after SET ROLE that one, in a SECURITY DEFINER function its owner.
pub fn current() -> pg_sys::Oid {
    // SAFETY: set since the process connected.
    unsafe { GetUserId() }
}

/// The role of this name.
pub fn named(name: &str) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name outlives the call.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (role != pg_sys::InvalidOid).then_some(role)
}

/// A role's name; `None` when it was dropped.
pub fn name(role: pg_sys::Oid) -> Option<String> {
    // SAFETY: returns a palloc'd string, or null.
    let name = unsafe { pg_sys::GetUserNameFromId(role, true) };
    // SAFETY: as above.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

/// Keeps other sessions that call this for the same table and role waiting until the transaction ends. Nothing else takes
/// or awaits this lock.
pub fn lock_in(table: pg_sys::Oid, role: pg_sys::Oid) {
    let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: an ordinary heavyweight lock, released at the end of the transaction.
    unsafe { pg_sys::LockDatabaseObject(table, role, 0, mode) };
}
