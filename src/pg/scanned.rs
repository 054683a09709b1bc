//! Who reads a table: PostgreSQL, from this server's files, or a library that plans statements on it itself and brings
//! the rows from elsewhere, as one that distributes tables over several servers.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use pgrx::pg_sys;

use super::sql;
use crate::error::{Error, Result};

/// Whether a library takes part in planning, so that [`is_scanned_here`] may say no. Costs nothing, unlike that.
pub fn libraries_plan() -> bool {
    // SAFETY: a global that is only changed while a library is loaded.
    let hook = unsafe { pg_sys::planner_hook };
    hook.is_some()
}

/// Whether a statement on the relation of this name scans relations of this server. It is planned, and not run.
pub fn is_scanned_here(relation: &str) -> Result<bool> {
    // Without its parts: there may be very many, and one way to read them all.
    sql::prepared(&format!("SELECT FROM ONLY {relation}"), |statement| {
        // SAFETY: a statement that was prepared a moment ago, while connected to SPI.
        let cached = unsafe { pg_sys::SPI_plan_get_cached_plan(statement) };
        if cached.is_null() {
            return Err(Error::MissingValue("plan"));
        }
        let is_here = scans(cached);
        // SAFETY: got above for a statement that is not saved, and so without an owner.
        unsafe { pg_sys::ReleaseCachedPlan(cached, std::ptr::null_mut()) };
        Ok(is_here)
    })
}

/// Whether the first leaf of a plan is a scan of a relation, or nothing at all.
fn scans(cached: *mut pg_sys::CachedPlan) -> bool {
    // SAFETY: a plan of one statement, which is planned by a planner: a list of `PlannedStmt`.
    let mut plan =
        unsafe { (*pg_sys::list_nth((*cached).stmt_list, 0).cast::<pg_sys::PlannedStmt>()).planTree };
    // SAFETY: plans are trees; an inner node has a left subplan.
    while let Some(below) = unsafe { plan.as_ref() }.map(|node| node.lefttree).filter(|node| !node.is_null())
    {
        plan = below;
    }
    // SAFETY: the tag of a node says what it is.
    if plan.is_null() || unsafe { (*plan).type_ } != pg_sys::NodeTag::T_CustomScan {
        return true;
    }
    // SAFETY: as above.
    let scan = unsafe { &*plan.cast::<pg_sys::CustomScan>() };
    scan.scan.scanrelid != 0 || !scan.custom_plans.is_null()
}
