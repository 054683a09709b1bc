//! What the SQL objects of earlier versions call where a function has other arguments or columns now. They must be
//! updated first.
//!
//! Such a function gets another name in the library: objects of a version may meet every later library.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::Error;
use crate::installation::Installation;

fn refuse() -> Result<(), ErrorReport> {
    let Installation { version, .. } = Installation::of_caller()?;
    Err(Error::ForeignVersion { version }.into())
}

/// `rgrid_sweep(dry_run)` of 0.1.0.
#[pg_extern(sql = false)]
fn rgrid_sweep() -> Result<(), ErrorReport> {
    refuse()
}

/// `rgrid_watch_jobs()` of 0.2.0, without `notify_keys` and what follows it.
#[pg_extern(sql = false)]
fn rgrid_watch_jobs() -> Result<(), ErrorReport> {
    refuse()
}

/// `rgrid_stat_databases()` of 0.2.0, which the view `pg_stat_rgrid_heartbeat` calls, with other columns.
#[pg_extern(sql = false)]
fn rgrid_stat_databases() -> Result<(), ErrorReport> {
    refuse()
}
