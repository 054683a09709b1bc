//! What sweepers could not do, from shared memory: for the view `pg_stat_rgrid_problems`, which documents the columns.
//! Runs in the caller's backend and reads no table.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::{number, time};
use crate::error::Error;
use crate::rules::text::sqlstate;
use crate::shmem::{is_preloaded, problems};

/// The problems that the last round of a sweeper in each database has met, the last one first.
///
/// # Errors
///
/// `object_not_in_prerequisite_state` when the library was not preloaded.
#[pg_extern]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn rgrid_stat_problems() -> Result<
    TableIterator<
        'static,
        (
            name!(datid, pg_sys::Oid),
            name!(problem, String),
            name!(relid, Option<pg_sys::Oid>),
            name!(since, Option<TimestampWithTimeZone>),
            name!(last_at, Option<TimestampWithTimeZone>),
            name!(rounds, i64),
            name!(sqlstate, String),
            name!(message, String),
        ),
    >,
    ErrorReport,
> {
    if !is_preloaded() {
        return Err(Error::NotPreloaded.into());
    }
    let lasting = problems::all().into_iter().filter(|problem| !problem.is_over);
    Ok(TableIterator::new(lasting.map(|problem| {
        (
            problem.database,
            problem.place.as_str().to_owned(),
            problem.place.job_table(),
            time(Some(problem.since())),
            time(Some(problem.last())),
            number(problem.rounds),
            sqlstate(problem.code() as i32),
            problem.message(),
        )
    })))
}
