//! `rgrid_sweep()`: a sweep in the caller's session and transaction, or what one would do.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::{Report, Sweep, ids};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{self, scope};
use crate::settle::{Problem, running};
use crate::workers::Worker;
use crate::{mass_death, settings};

/// What a sweep would do now. Changes and locks nothing.
fn dry_run(sweep: &Sweep, force: bool) -> Result<Report> {
    let mut report = Report::default();
    let mut seen = sweep.look()?;
    let back = ids(&sweep.returned(&seen.dead)?);
    seen.dead.retain(|worker| !back.contains(&worker.id));
    let hold = if force { None } else { mass_death::would_hold_back(&sweep.mass_death(&seen))? };
    if let Some(hold) = hold {
        mass_death::notice(&hold);
        seen.silent.clear();
    }
    notice_of_more(seen.silent.len());
    seen.silent.truncate(settings::batch_size());
    let settlement = running(&sweep.installation, &ids(&seen.silent))?;
    report.add(seen.silent, settlement, true);
    let settlement = running(&sweep.installation, &ids(&seen.dead))?;
    report.add(seen.dead, settlement, false);
    Ok(report)
}

/// One sweep in the caller's transaction.
fn run(sweep: &Sweep, force: bool) -> Result<Report> {
    let batch = settings::batch_size();
    let mut seen = sweep.look()?;
    let mut problems = pull_back(sweep, &seen.future);
    if !force && let Some(hold) = sweep.held_back(&seen)? {
        mass_death::notice(&hold);
        seen.silent.clear();
    }
    let dead = sweep.close_returned(std::mem::take(&mut seen.dead))?;
    let mut silent = ids(&seen.silent);
    notice_of_more(silent.len());
    match silent.len() <= batch {
        true => mass_death::forget_at_commit(force),
        false if force => mass_death::lift_at_commit(sweep.now),
        false => {}
    }
    silent.truncate(batch);
    let mut report = if silent.is_empty() { Report::default() } else { sweep.declare_dead(&silent)? };
    let mut leftovers = sweep.with_leftovers(&dead, batch)?;
    problems.append(&mut leftovers.problems);
    if !leftovers.workers.is_empty() {
        let mut settled = sweep.settle_leftovers(&leftovers.workers)?;
        leftovers.take_off(&settled);
        problems.append(&mut settled.problems);
        report.lines.append(&mut settled.lines);
    }
    report.add_problems(problems);
    let (_, locked) = leftovers.locked(&report.problems);
    report.add_problems(locked);
    Ok(report)
}

/// Has workers who have beaten later than the clock says have beaten now. Tells the caller of them.
fn pull_back(sweep: &Sweep, early: &[Worker]) -> Vec<Problem> {
    if let Some((warning, _)) = sweep.note_future(early) {
        warning.warn();
    }
    let batch = &early[..early.len().min(settings::batch_size())];
    if batch.is_empty() {
        return Vec::new();
    }
    let pulled = scope::subtransaction(|| sweep.pull_back(&ids(batch)));
    pulled.err().map(|error| Problem::of_pull_back(&error)).into_iter().collect()
}

/// Tells the caller of `rgrid_sweep()` that one call is not enough.
fn notice_of_more(silent: usize) {
    let batch = settings::batch_size();
    if silent > batch {
        notice!("{silent} workers are dead, of which one call settles {batch}; call rgrid_sweep() again");
    }
}

/// One sweep of the present database now, or what one would do.
///
/// Follows the rules of the sweeper: nobody is dead before the server has listened for a whole threshold, and a mass
/// death is held back, unless `force` is true. Waits for no lock longer than a second. Returns
/// a row for each dead worker and job table in which it had running jobs, or one with a NULL `job_table` for
/// one that had none; then rows for jobs left over from earlier deaths. The version in the name here is the one in which
/// it got its second argument.
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
    if !dry_run {
        pg::prevent_unless_writable(c"rgrid_sweep()");
    }
    let report = scope::waiting_at_most(c"1s", || sweep(dry_run, force))?;
    for problem in &report.problems {
        warning!("{}", problem.message());
    }
    Ok(TableIterator::new(report.lines.into_iter().map(|line| {
        (
            line.worker.id,
            line.worker.hostname,
            pg::timestamptz(line.worker.last_heartbeat_at),
            line.job_table,
            line.failed,
            line.requeued,
        )
    })))
}

fn sweep(only_tell: bool, force: bool) -> Result<Report> {
    let sweep = Sweep::new(Installation::of_caller()?)?;
    if only_tell { dry_run(&sweep, force) } else { run(&sweep, force) }
}

/// What `rgrid_sweep(dry_run)` calls in a database that has the objects of 0.1.0: they are to be updated first.
/// A function that gets another argument gets another name in the library, because the objects of a version may
/// meet every later library.
#[pg_extern(sql = false)]
fn rgrid_sweep(_dry_run: bool) -> Result<(), ErrorReport> {
    let Installation { version, .. } = Installation::of_caller()?;
    Err(Error::ForeignVersion { version }.into())
}
