//! The sweeper: a short-lived process that writes heartbeats and sweeps in one database once.
//!
//! Started by the launcher, one at a time for a database. It connects, leaves if the extension is not there or
//! not of its version, flushes, sweeps, and ends, so that nobody waits for it long who wants to drop or copy the
//! database. Each batch of workers is a transaction of its own; before each the extension is looked up again. A
//! problem is logged when it is new, and not again until it changes.
#![allow(unsafe_code, reason = "the entry point is called by name")]

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::registry;
use crate::liveness::{Presence, Task};
use crate::pg::catalog::Database;
use crate::pg::{self, process, scope};
use crate::settle::Problem;
use crate::sweep::{Leftovers, Report, Sweep};
use crate::workers::Worker;
use crate::{buffer, databases, flush, liveness, prune, settings};

/// What sweepers are called in `pg_stat_activity`.
pub const KIND: &str = "rgrid_heartbeat sweeper";

/// Starts a sweeper; `None` when there is no slot for it.
pub fn start(database: &Database, task: Task) -> Option<process::Worker> {
    let name = format!("{KIND} for database {}", database.name);
    let argument = u64::from(database.oid.to_u32()) | if task == Task::Sweep { SWEEP } else { 0 };
    process::Worker::start(KIND, &name, "rgrid_heartbeat_sweeper_main", argument)
}

/// Set in a sweeper's argument when it is to sweep, and not only to flush; the lower half is the database's OID.
const SWEEP: u64 = 1 << 32;

/// Where a sweeper's process begins.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn rgrid_heartbeat_sweeper_main(argument: pg_sys::Datum) {
    let argument = argument.value() as u64;
    let task = if argument & SWEEP == 0 { Task::Flush } else { Task::Sweep };
    process::become_sweeper();
    process::accept_signals();
    process::connect(pg_sys::Oid::from((argument & !SWEEP) as u32));
    process::report_name(c"rgrid_heartbeat sweeper");
    process::reset_session_settings();
    finish(task, round(task));
}

/// How a round without an error ended.
enum Outcome {
    /// The database does not have the extension.
    Absent,
    /// Its SQL objects are of another version than the library.
    Foreign {
        /// Their version.
        version: String,
    },
    /// What was to be done is done.
    Done {
        /// What of it could not be done.
        problems: Vec<Problem>,
    },
}

/// Does what the sweeper was started for.
fn round(task: Task) -> Result<Outcome> {
    if let Some(outcome) = scope::transaction(recognise)? {
        return Ok(outcome);
    }
    process::report_activity("writing heartbeats");
    // A table that refuses heartbeats does not stop the sweep: that looks into memory, too.
    let flushed = process::without_waiting_for_commits(flush::flush);
    let flush_problem = flushed.err().map(|error| Problem::of_flush(&error));
    let mut problems = Vec::new();
    if task == Task::Sweep {
        databases::sweep_begins();
        problems.append(&mut sweep()?);
        problems.extend(prune());
        databases::sweep_ends();
    }
    problems.extend(flush_problem);
    Ok(Outcome::Done { problems })
}

/// Sweeps the database. Returns the tables that could not be settled.
fn sweep() -> Result<Vec<Problem>> {
    process::report_activity("looking for dead workers");
    let Found { early, silent, mut leftovers } = scope::transaction(look)?;
    let mut problems = pull_back(&early);
    if silent.len() + leftovers.workers.len() > 0 {
        process::report_activity("settling jobs of dead workers");
    }
    for batch in silent.chunks(settings::batch_size()) {
        problems.append(&mut with_sweep(|sweep| sweep.declare_dead(batch))?.problems);
    }
    let workers = std::mem::take(&mut leftovers.workers);
    for batch in workers.chunks(settings::batch_size()) {
        let mut report = with_sweep(|sweep| sweep.settle_leftovers(batch))?;
        leftovers.take_off(&report);
        problems.append(&mut report.problems);
    }
    problems.append(&mut leftovers.problems);
    let (count, locked) = leftovers.locked(&problems);
    databases::change(pg::current_database(), |state| state.locked_jobs = count);
    problems.extend(locked);
    Ok(problems)
}

/// Removes what is older than the retention, now and then. Returns what went wrong.
fn prune() -> Option<Problem> {
    let last = databases::present().and_then(|state| state.pruned());
    let horizon = liveness::prune_horizon(pg::now(), last, settings::retention())?;
    process::report_activity("pruning old deaths");
    let pruned = prune::prune(horizon);
    databases::pruned(pg::now());
    pruned.err().map(|error| Problem::of_pruning(&error))
}

/// Has workers who have beaten later than the clock says have beaten now. Whom that fails for is tried again.
fn pull_back(early: &[String]) -> Vec<Problem> {
    let batches = early.chunks(settings::batch_size());
    let failed = batches
        .filter_map(|batch| with_sweep(|sweep| sweep.pull_back(batch).map(|()| Report::default())).err());
    failed.map(|error| Problem::of_pull_back(&error)).collect()
}

/// The first transaction of a round: is this a database to work in? How the round ends if not.
fn recognise() -> Result<Option<Outcome>> {
    match Installation::find()? {
        None => {
            buffer::forget(pg::current_database());
            Ok(Some(Outcome::Absent))
        }
        Some(installation) if installation.is_foreign() => {
            databases::cannot_hear();
            Ok(Some(Outcome::Foreign { version: installation.version }))
        }
        Some(_) => {
            databases::can_hear(pg::now());
            Ok(None)
        }
    }
}

/// Whom the sweep has to deal with, by id.
#[derive(Default)]
struct Found {
    early: Vec<String>,
    silent: Vec<String>,
    leftovers: Leftovers,
}

/// The first transaction of a sweep: is there anything to do?
fn look() -> Result<Found> {
    let Some(installation) = Installation::find()? else { return Ok(Found::default()) };
    registry::forget_dropped(&installation)?;
    let sweep = Sweep::new(installation)?;
    let seen = sweep.look()?;
    if let Some((warning, true)) = sweep.note_future(&seen.future) {
        warning.warn();
    }
    let is_held = sweep.held_back(&seen)?.is_some();
    let dead = sweep.close_returned(seen.dead)?;
    let leftovers = sweep.with_leftovers(&dead, usize::MAX)?;
    sweep.forget_silent();
    let ids = |workers: Vec<Worker>| workers.into_iter().map(|worker| worker.id).collect();
    let silent = if is_held { Vec::new() } else { ids(seen.silent) };
    Ok(Found { early: ids(seen.future), silent, leftovers })
}

/// Runs one batch in a transaction; nothing when the extension was dropped meanwhile.
fn with_sweep(work: impl FnOnce(Sweep) -> Result<Report>) -> Result<Report> {
    scope::transaction(|| match Installation::find()? {
        Some(installation) => work(Sweep::new(installation)?),
        None => Ok(Report::default()),
    })
}

/// Reports how the round ended, to the launcher and, when it is news, to the log.
fn finish(task: Task, outcome: Result<Outcome>) {
    let database = pg::current_database();
    let failed = outcome.is_err();
    let presence = match &outcome {
        Ok(Outcome::Absent) => Some(Presence::Absent),
        Ok(_) => Some(Presence::Present),
        Err(_) => None,
    };
    databases::change(database, |state| {
        state.rounds += 1;
        state.presence = presence.unwrap_or(state.presence);
        state.failures = if failed { state.failures.saturating_add(1) } else { 0 };
    });
    let report = problem(outcome);
    let text = report.as_ref().map_or("", |report| report.message());
    if databases::is_news(database, text, task == Task::Sweep)
        && let Some(report) = report
    {
        report.report(PgLogLevel::WARNING);
    }
}

/// What an operator should mend.
#[allow(clippy::needless_pass_by_value, reason = "the outcome ends here")]
fn problem(outcome: Result<Outcome>) -> Option<ErrorReport> {
    match outcome {
        Ok(Outcome::Absent) => None,
        Ok(Outcome::Foreign { version }) => Some(Error::ForeignVersion { version }.into()),
        Ok(Outcome::Done { problems }) if problems.is_empty() => None,
        Ok(Outcome::Done { problems }) => {
            let mut lines: Vec<String> = problems.iter().map(Problem::message).collect();
            lines.sort_unstable();
            lines.dedup();
            Some(Error::Unsettled { problems: lines.join("; ") }.into())
        }
        Err(error) => Some(error.into()),
    }
}
