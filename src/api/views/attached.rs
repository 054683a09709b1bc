//! How many workers of each database are attached to sessions, and the sessions that were lost: for the view
//! `pg_stat_rgrid_heartbeat`, which documents the columns. Runs in the caller's backend and reads no table.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::number;
use crate::error::Error;
use crate::shmem::{buffer::ties, databases, is_preloaded};

/// What is known of attached workers in every database that the launcher knows.
///
/// # Errors
///
/// `object_not_in_prerequisite_state` when the library was not preloaded.
#[pg_extern]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn rgrid_stat_attached() -> Result<
    TableIterator<
        'static,
        (
            name!(datid, pg_sys::Oid),
            name!(attached_workers, i64),
            name!(sessions_lost, i64),
            name!(workers_lost_together, i64),
        ),
    >,
    ErrorReport,
> {
    if !is_preloaded() {
        return Err(Error::NotPreloaded.into());
    }
    let tied = ties::tied_workers();
    Ok(TableIterator::new(databases::states().into_iter().map(move |state| {
        (
            state.oid,
            number(tied.get(&state.oid).copied().unwrap_or(0)),
            number(state.counters.sessions_lost),
            number(state.counters.spared),
        )
    })))
}
