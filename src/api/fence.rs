//! The functions with which the owner of a table of jobs puts a fence up and takes it down. [`crate::jobs::fence`] says
//! what a fence is.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::{fence, following, watched};
use crate::pg;

/// Puts a fence up at a watched table of jobs, or renews the one that is there.
///
/// From then on a job that a sweep has given up can only be claimed again or returned to the queue.
///
/// # Errors
///
/// `insufficient_privilege` for a caller that does not own the table, `undefined_object` for a table that is not
/// watched, `feature_not_supported` for one whose rows are elsewhere and that takes no triggers.
#[pg_extern(sql = false)]
fn rgrid_fence(job_table: Option<pg_sys::Oid>) -> Result<(), ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_fence()");
    Ok(put_up(job_table)?)
}

/// Takes the fence of a table down. Returns whether there was one.
///
/// # Errors
///
/// `insufficient_privilege` for a caller that does not own the table.
#[pg_extern(sql = false)]
fn rgrid_unfence(job_table: Option<pg_sys::Oid>) -> Result<bool, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_unfence()");
    Ok(take_down(job_table)?)
}

fn put_up(job_table: Option<pg_sys::Oid>) -> Result<()> {
    let (installation, oid) = (Installation::of_caller()?, watched::own_table(job_table)?);
    fence::put_up(&installation, oid)?;
    following::note_own(&installation, oid)
}

fn take_down(job_table: Option<pg_sys::Oid>) -> Result<bool> {
    let oid = watched::own_table(job_table)?;
    let was_up = fence::take_down(oid)?;
    following::note_own(&Installation::of_caller()?, oid)?;
    Ok(was_up)
}

/// Called when a fence refuses an update of a job. Its SQL is in `sql/fence.sql`, because pgrx's own triggers raise an
/// internal error when they are called by hand.
///
/// # Errors
///
/// `object_not_in_prerequisite_state` always; `trigger_protocol_violated` when it is not called by a trigger.
#[pg_extern(sql = false)]
fn rgrid_fence_violated(call: pg_sys::FunctionCallInfo) -> Result<(), ErrorReport> {
    let table = pg::triggering_table(call).ok_or(Error::NotATrigger)?;
    Err(Error::GivenUp { table }.into())
}
