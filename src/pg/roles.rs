//! Roles: whose rights this session has, names and OIDs of others, and the rights that they were given on tables.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use super::catalog::{self, Relation};
use super::syscache::SysCacheTuple;

unsafe extern "C-unwind" {
    // Declared here because pgrx's own declaration is a wrapper that prepares for an error, which takes longer than the
    // call. It reads a global and raises none.
    fn GetUserId() -> pg_sys::Oid;
}

/// Rights on a table, a bit each, as Postgres has them.
pub type Rights = u32;

/// To read it.
pub const READING: Rights = pg_sys::ACL_SELECT;
/// To read its rows and to change them.
pub const CHANGING_ROWS: Rights =
    pg_sys::ACL_SELECT | pg_sys::ACL_INSERT | pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE;

/// The role with whose rights this session runs: after SET ROLE that one, in a SECURITY DEFINER function its owner.
pub fn current() -> pg_sys::Oid {
    // SAFETY: set since the process connected.
    unsafe { GetUserId() }
}

/// Whether a role is a superuser; false when it was dropped.
pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: any OID will do.
    unsafe { pg_sys::superuser_arg(role) }
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

/// Keeps other sessions that call this for the same table and role waiting until the transaction ends. Nothing else
/// takes or awaits this lock.
pub fn lock_in(table: pg_sys::Oid, role: pg_sys::Oid) {
    let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: an ordinary heavyweight lock, released at the end of the transaction.
    unsafe { pg_sys::LockDatabaseObject(table, role, 0, mode) };
}

/// Whether a role that is neither `owner`, nor the table's owner, nor a superuser was given more than these rights on a
/// table or on columns of it.
pub fn has_grants_beyond(rights: Rights, table: pg_sys::Oid, owner: pg_sys::Oid) -> bool {
    let Some(relation) = catalog::relation(table) else { return false };
    let is_foreign = |item: &pg_sys::AclItem| {
        // The upper bits say what the grantee may grant in turn.
        #[allow(clippy::useless_conversion, reason = "of 64 bits since PostgreSQL 16")]
        let beyond = u64::from(item.ai_privs) & 0xFFFF & !u64::from(rights);
        let role = item.ai_grantee;
        beyond != 0 && role != owner && role != relation.owner && !is_superuser(role)
    };
    grants_on(&relation).iter().any(is_foreign)
}

/// The grants on a relation and on its columns.
fn grants_on(relation: &Relation) -> Vec<pg_sys::AclItem> {
    use pg_sys::SysCacheIdentifier::{ATTNUM, RELOID};
    let of_class = SysCacheTuple::of_relation(relation.oid);
    let mut grants = of_class.map_or(Vec::new(), |class| class.grants(RELOID, pg_sys::Anum_pg_class_relacl));
    for number in 1..=relation.column_count {
        let column = SysCacheTuple::of_column(relation.oid, number);
        grants.extend(
            column.into_iter().flat_map(|entry| entry.grants(ATTNUM, pg_sys::Anum_pg_attribute_attacl)),
        );
    }
    grants
}
