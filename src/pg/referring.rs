//! Foreign keys between tables of ours and others, and what a row of ours that is deleted sets off at the others.
//!
//! The threat: PostgreSQL deletes or changes the rows there as their table's owner, but until version 17 it runs the
//! AFTER triggers of that table when our statement ends, and as the role of our statement. Here they run as the owner
//! of the table. Where tables of several owners have such code, the statement is refused: each would get another's
//! rights.
//!
//! That is decided between the statement and its AFTER triggers, in every process. It locks each such table as
//! PostgreSQL does a moment later, so nobody attaches anything to it meanwhile.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::relcache::OpenRelation;
use super::role_guard::RoleGuard;
use super::syscache::SysCacheTuple;
use super::{attached, catalog, names, roles, version};
use crate::error::Error;

unsafe extern "C-unwind" {
    // Declared here because pgrx's own declaration turns an error into one of Rust's, which loses some of its fields.
    fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
}

thread_local! {
    /// The hook that was there before.
    static PREVIOUS: Cell<pg_sys::ExecutorFinish_hook_type> = const { Cell::new(None) };
}

/// Foreign keys that change the rows which refer to a row, when that goes.
const CASCADES: [u32; 3] =
    [pg_sys::F_RI_FKEY_CASCADE_DEL, pg_sys::F_RI_FKEY_SETNULL_DEL, pg_sys::F_RI_FKEY_SETDEFAULT_DEL];

/// Triggers of foreign keys that change nothing.
const CHECKS: [u32; 6] = [
    pg_sys::F_RI_FKEY_CHECK_INS,
    pg_sys::F_RI_FKEY_CHECK_UPD,
    pg_sys::F_RI_FKEY_NOACTION_DEL,
    pg_sys::F_RI_FKEY_NOACTION_UPD,
    pg_sys::F_RI_FKEY_RESTRICT_DEL,
    pg_sys::F_RI_FKEY_RESTRICT_UPD,
];

/// A foreign key at a table.
pub struct ForeignKey {
    /// The other table.
    pub other: pg_sys::Oid,
    /// Whether the table refers to the other one, and not the other one to it.
    pub refers: bool,
    /// Whether a column of the other one has a type that is not PostgreSQL's own: its casts are code. Not known while
    /// that table is being altered.
    pub is_disguised: bool,
}

/// The foreign keys at this table.
pub fn foreign_keys(table: pg_sys::Oid) -> Vec<ForeignKey> {
    let Some(table) = OpenRelation::open(table, pg_sys::AccessShareLock) else { return Vec::new() };
    let is_key =
        |trigger: &&pg_sys::Trigger| trigger.tgisinternal && trigger.tgconstrrelid != pg_sys::InvalidOid;
    let key = |trigger: &pg_sys::Trigger| ForeignKey {
        other: trigger.tgconstrrelid,
        refers: [pg_sys::F_RI_FKEY_CHECK_INS, pg_sys::F_RI_FKEY_CHECK_UPD].contains(&trigger.tgfoid.to_u32()),
        is_disguised: catalog::try_lock_for_reading(trigger.tgconstrrelid)
            && is_disguised(trigger.tgconstrrelid, trigger.tgconstraint),
    };
    table.triggers().filter(is_key).map(key).collect()
}

/// Whether a column of this table in this key has a type that is not PostgreSQL's own.
fn is_disguised(table: pg_sys::Oid, constraint: pg_sys::Oid) -> bool {
    let Some(open) = OpenRelation::open(table, pg_sys::AccessShareLock) else { return false };
    // SAFETY: a list of the entry's, which is open.
    let keys = catalog::nodes_of(unsafe { pg_sys::RelationGetFKeyList(open.as_ptr()) });
    let columns = keys.into_iter().flat_map(|key| {
        // SAFETY: a key in the list.
        let key = unsafe { &*key.cast::<pg_sys::ForeignKeyCacheInfo>() };
        let count = usize::try_from(key.nkeys).unwrap_or(0);
        if key.conoid == constraint { key.conkey[..count].to_vec() } else { Vec::new() }
    });
    let is_postgresqls = |column: i16| {
        SysCacheTuple::of_column(table, column)
            // SAFETY: a type that a column has exists for as long as the column.
            .is_none_or(|entry| attached::is_postgresqls(unsafe { pg_sys::getBaseType(entry.atttypid) }))
    };
    !columns.into_iter().all(is_postgresqls)
}

/// Puts this in place. Called once, when the library is loaded.
pub fn install() {
    if version::RUNS_TRIGGERS_AS_QUEUED {
        return;
    }
    // SAFETY: a global that is only changed while a library is loaded.
    PREVIOUS.set(unsafe { pg_sys::ExecutorFinish_hook });
    // SAFETY: as above; the function lives as long as the process.
    unsafe { pg_sys::ExecutorFinish_hook = Some(finish) };
}

/// Not guarded, because errors of the statements of all sessions pass through it: as they are, with all their fields.
/// Nothing in it has to be dropped.
unsafe extern "C-unwind" fn finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: valid for the call.
    let (operation, text) = unsafe { ((*query).operation, (*query).sourceText) };
    // SAFETY: null or terminated.
    let is_ours = || !text.is_null() && names::is_ours(unsafe { CStr::from_ptr(text) });
    // SAFETY: called with what this was called with.
    unsafe {
        match operation {
            pg_sys::CmdType::CMD_DELETE if is_ours() => finish_deletion(query),
            _ => finish_as_before(query),
        }
    }
}

unsafe extern "C-unwind" fn finish_as_before(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the function that was in place before, or else PostgreSQL's.
    unsafe { PREVIOUS.get().unwrap_or(standard_ExecutorFinish)(query) }
}

#[pg_guard]
unsafe extern "C-unwind" fn finish_deletion(query: *mut pg_sys::QueryDesc) {
    // SAFETY: a query that was just run.
    let _restored = role_for(&unsafe { targets(query) }).map(RoleGuard::enter);
    // SAFETY: the boundary lets an error in it go on as one of Rust's.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| finish_as_before(query)) };
}

/// The tables that a query changes.
///
/// # Safety
///
/// The query is valid and has been run.
unsafe fn targets(query: *mut pg_sys::QueryDesc) -> Vec<pg_sys::Oid> {
    // SAFETY: the caller's promise.
    let plan = unsafe { &*(*query).plannedstmt };
    catalog::integers_of(plan.resultRelations)
        .into_iter()
        .map(|index| {
            // SAFETY: the plan's numbers of tables count from 1.
            unsafe { (*pg_sys::list_nth(plan.rtable, index - 1).cast::<pg_sys::RangeTblEntry>()).relid }
        })
        .collect()
}

/// As whom the triggers are to run that deleting rows of these tables sets off; `None` for the current role.
fn role_for(tables: &[pg_sys::Oid]) -> Option<pg_sys::Oid> {
    let current = roles::current();
    let mut owners: Vec<pg_sys::Oid> =
        tables.iter().flat_map(|table| owners_of_code(*table, current)).collect();
    owners.sort_unstable_by_key(|owner| owner.to_u32());
    owners.dedup();
    match owners[..] {
        [] => None,
        [owner] => Some(owner).filter(|owner| *owner != current),
        _ => {
            let names: Vec<String> = owners.iter().filter_map(|owner| roles::name(*owner)).collect();
            let table = tables.first().and_then(|table| catalog::qualified_name(*table)).unwrap_or_default();
            ErrorReport::from(Error::SeveralOwners { table, owners: names.join(", ") })
                .report(PgLogLevel::ERROR);
            None
        }
    }
}

/// Whose code runs after a row of this table was deleted. A superuser's counts as the current role's.
fn owners_of_code(table: pg_sys::Oid, current: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let Some(table) = OpenRelation::open(table, pg_sys::RowExclusiveLock) else { return Vec::new() };
    let owner = |trigger: &pg_sys::Trigger| {
        if !trigger.tgisinternal {
            return (!table.is_ours(trigger)).then_some(current);
        }
        if !CASCADES.contains(&trigger.tgfoid.to_u32()) {
            return None;
        }
        let referring = OpenRelation::open(trigger.tgconstrrelid, pg_sys::RowExclusiveLock)?;
        let owner = referring.class().relowner;
        has_code(&referring).then(|| if roles::is_superuser(owner) { current } else { owner })
    };
    table.triggers().filter_map(owner).collect()
}

/// Whether a change of a row may set off more than checks: there, in its partitions, or in tables that refer to it.
fn has_code(table: &OpenRelation) -> bool {
    table.class().relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE
        || table.has_rules()
        || table.triggers().any(|trigger| !CHECKS.contains(&trigger.tgfoid.to_u32()))
}
