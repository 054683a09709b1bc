//! `rgrid_sweep()`: a sweep in the caller's session and transaction, or what one would do.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::Error;
use crate::installation::Installation;
use crate::jobs::SettledJobs;
use crate::pg::timer::{self, Deadline};
use crate::pg::{self, advisory, report};
use crate::settings;
use crate::sweep::{Mode, Step, own_tables, replicated, sweep};
use crate::tables::heartbeats::Worker;

/// A row of the result: a dead worker, and its jobs in one table if it had any.
type Line = (Worker, Option<SettledJobs>);

/// One sweep of the current database now, or what one would do.
///
/// Follows the rules of the sweeper: no worker is dead before the server has listened for a whole threshold, and a mass
/// death is held back, unless `force` is true. Waits for no lock longer than a second. Returns a row for each worker
/// that it declared dead and each job table in which that had running jobs, or one row with a NULL `job_table` for a
/// worker without running jobs; then rows for orphaned jobs. The Rust name has the version in which the function got
/// its second argument.
#[pg_extern(name = "rgrid_sweep")]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn rgrid_sweep_0_2(
    dry_run: default!(bool, "false"),
    force: default!(bool, "false"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(worker_id, String),
            name!(hostname, Option<String>),
            name!(last_heartbeat_at, Option<TimestampWithTimeZone>),
            name!(job_table, Option<String>),
            name!(jobs_failed, i64),
            name!(jobs_requeued, i64),
        ),
    >,
    ErrorReport,
> {
    let mode = match dry_run {
        true => Mode::DryRun { force, deadline: Deadline::after(settings::call_timeout()) },
        false => Mode::ByHand { force },
    };
    if !dry_run {
        pg::prevent_unless_writable(c"rgrid_sweep()");
    }
    let mut lines: Vec<Line> = Vec::new();
    let mut add = |step: &Step| lines.extend(lines_of(step));
    let sweep = || {
        let mut problems = Vec::new();
        let installation = Installation::of_caller()?;
        if !dry_run {
            problems.extend(own_tables::take_back(&installation));
            replicated::observe(&installation)?;
        }
        problems.append(&mut sweep(mode, &mut add)?);
        Ok::<_, Error>(problems)
    };
    let run = || timer::waiting_at_most(c"1s", sweep);
    let problems = advisory::without_leftovers(run)??;
    problems.into_iter().for_each(report::warn);
    Ok(TableIterator::new(lines.into_iter().map(|(worker, jobs)| {
        let (failed, requeued) = jobs.as_ref().map_or((0, 0), |jobs| (jobs.failed, jobs.requeued));
        (
            worker.id,
            worker.hostname,
            pg::timestamptz(worker.last_heartbeat_at),
            jobs.map(|jobs| jobs.table.name),
            failed,
            requeued,
        )
    })))
}

/// Workers without jobs have a line of their own only if this step declared them dead.
fn lines_of(step: &Step) -> Vec<Line> {
    let by_worker = step.jobs.by_worker();
    let mut lines = Vec::new();
    for worker in &step.workers {
        match by_worker.get(worker.id.as_str()) {
            Some(jobs) => lines.extend(jobs.iter().map(|jobs| (worker.clone(), Some((*jobs).clone())))),
            None if step.are_new => lines.push((worker.clone(), None)),
            None => {}
        }
    }
    lines
}
