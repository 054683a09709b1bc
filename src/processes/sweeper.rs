//! The sweeper: a short-lived process that writes heartbeats and sweeps in one database once.
//!
//! Started by the launcher, one at a time for a database. It connects, ends at once if the extension is missing or of
//! another version, flushes, sweeps, and ends. So a session that drops or copies the database does not wait for it
//! long. Each batch of workers is a transaction of its own, and looks the extension up again. A problem is logged when
//! it is new, and not again until it changes.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::databases::Database;
use crate::pg::locks::TableLock;
use crate::pg::{self, process, report, scope};
use crate::rules::schedule::{self, Presence, Task};
use crate::settings;
use crate::shmem::observation::{self, Suspension};
use crate::shmem::problems::{self, Place, Problem};
use crate::shmem::{buffer, databases};
use crate::sweep::disconnected::judge_disconnected;
use crate::sweep::{Mode, filling, flush, own_tables, prune, replicated, sweep};

/// Starts a sweeper; `None` when there is no worker slot for it.
pub fn start(database: &Database, task: Task) -> Option<process::Worker> {
    let name = format!("{} for database {}", process::SWEEPER, database.name);
    let argument = u64::from(database.oid.to_u32()) | (task as u64) << TASK;
    process::Worker::start(process::SWEEPER, &name, "rgrid_heartbeat_sweeper_main", argument)
}

/// Where in a sweeper's argument its task is; the lower half is the database's OID.
const TASK: u32 = 32;

/// Where a sweeper's process begins.
#[pg_guard]
#[unsafe(no_mangle)]
#[allow(unsafe_code, reason = "the entry point is called by name")]
pub extern "C-unwind" fn rgrid_heartbeat_sweeper_main(argument: pg_sys::Datum) {
    let argument = argument.value() as u64;
    let tasks = [Task::Flush, Task::Judge, Task::Sweep];
    let task = tasks.into_iter().find(|task| *task as u64 == argument >> TASK).unwrap_or(Task::Sweep);
    process::accept_signals();
    process::connect(pg_sys::Oid::from(argument as u32));
    process::report_name(c"rgrid_heartbeat sweeper");
    process::reset_session_settings();
    scope::limit_statements(settings::statement_timeout());
    let mut problems = Vec::new();
    let round = round(task, &mut problems).map_err(explained);
    finish(task, round, problems);
}

/// How a round without an error ended.
enum Round {
    /// The database does not have the extension.
    Absent,
    /// Its SQL objects are of another version than the library.
    Foreign {
        /// Their version.
        version: String,
    },
    /// Everything was done, except for what is a problem.
    Done,
}

/// Does what the sweeper was started for. What was met until an error stays in `problems`.
fn round(task: Task, problems: &mut Vec<Problem>) -> Result<Round> {
    if let Some(round) = scope::transaction(|| recognise(problems))? {
        return Ok(round);
    }
    if task == Task::Judge {
        problems.append(&mut judge_disconnected(&mut |_| ())?);
        return Ok(Round::Done);
    }
    problems.extend(fill());
    process::report_activity("writing heartbeats");
    flush::sample_intervals();
    // A table that refuses heartbeats does not stop the sweep, which also reads them from memory.
    problems.extend(flush());
    if observation::is_suspended() {
        scope::transaction(|| Installation::find()?.as_ref().map_or(Ok(()), replicated::observe))?;
    }
    if task == Task::Sweep {
        databases::sweep_begins();
        problems.append(&mut sweep(Mode::Sweeper, &mut |_| ())?);
        problems.extend(prune());
        databases::sweep_ends();
    }
    Ok(Round::Done)
}

/// Fills memory, if it is empty after a start. Returns what there is to say of it.
fn fill() -> Option<Problem> {
    let error = explained(filling::fill().err()?);
    Some(Problem::new(Place::Memory, "fill memory from the rows", &error))
}

/// Writes heartbeats. Returns what there is to say of it.
fn flush() -> Option<Problem> {
    let flushed = process::without_waiting_for_commits(flush::flush);
    Some(match explained(flushed.err()?) {
        error @ Error::SnapshotHeld => Problem::with_advice(Place::Flush, &error),
        error => Problem::new(Place::Flush, "write heartbeats", &error),
    })
}

/// An error that a lock on a table of the extension explains: names the table and who holds the lock.
fn explained(error: Error) -> Error {
    if !error.is_lock_not_available() {
        return error;
    }
    let lock = scope::transaction(|| match Installation::find()? {
        Some(installation) => installation.locked_table(),
        None => Ok(None),
    });
    match lock {
        Ok(Some(TableLock { table, pid, mode })) => Error::OwnTableLocked { table, pid, mode },
        _ => error,
    }
}

/// The first transaction of a round: checks the extension in this database, and takes back what is not its own. Returns
/// how the round ends if there is nothing to do.
fn recognise(problems: &mut Vec<Problem>) -> Result<Option<Round>> {
    match Installation::find()? {
        None => {
            buffer::forget(pg::current_database());
            Ok(Some(Round::Absent))
        }
        Some(installation) if installation.is_foreign() => {
            observation::suspend(Suspension::ForeignVersion);
            Ok(Some(Round::Foreign { version: installation.version }))
        }
        Some(installation) => {
            problems.extend(own_tables::take_back(&installation));
            problems.extend(replicated::suspend(&installation)?);
            Ok(None)
        }
    }
}

/// Removes what is older than the retention, if that is due. Returns what went wrong.
fn prune() -> Option<Problem> {
    let last = databases::current().and_then(|state| state.pruned());
    let horizon = schedule::prune_horizon(pg::now(), last, settings::retention())?;
    process::report_activity("pruning old deaths");
    let pruned = prune::prune(horizon);
    databases::pruned(pg::now());
    pruned.err().map(|error| Problem::new(Place::Pruning, "prune old deaths", &error))
}

/// Reports how the round ended to the launcher, and its new problems to the log.
fn finish(task: Task, round: Result<Round>, mut problems: Vec<Problem>) {
    let database = pg::current_database();
    let presence = match &round {
        Ok(Round::Absent) => Some(Presence::Absent),
        Ok(_) => Some(Presence::Present),
        Err(_) => None,
    };
    let failed = round.is_err();
    // Which problems this round would have met if they were still there; the others may last.
    let looked_for: fn(Task, Place) -> bool = match &round {
        Ok(Round::Done) => |task, place| {
            let in_each = [Place::Round, Place::OwnTables, Place::Subscription];
            let is_flush = [Place::Flush, Place::Memory].contains(&place) && task != Task::Judge;
            task == Task::Sweep || is_flush || in_each.contains(&place)
        },
        Ok(_) => |_, _| true,
        Err(_) => |_, _| false,
    };
    problems.extend(match round {
        Ok(Round::Absent | Round::Done) => None,
        Ok(Round::Foreign { version }) => Some(Problem::of_round(&Error::ForeignVersion { version })),
        Err(error) => Some(Problem::of_round(&error)),
    });
    databases::change(database, |state| {
        state.rounds += 1;
        state.presence = presence.unwrap_or(state.presence);
        state.failures = if failed { state.failures.saturating_add(1) } else { 0 };
        state.counters.errors += u64::from(problems.iter().any(|problem| !problem.is_standing()));
    });
    for problem in problems::note(database, problems, |place| looked_for(task, place), pg::now()) {
        let needs_no_hint = problem.place == Place::Round || problem.has_advice();
        let report = ErrorReport::from(problem);
        report::warn(if needs_no_hint { report } else { report.set_hint(TRIED_AGAIN) });
    }
}

/// The hint for a problem that did not end the round.
const TRIED_AGAIN: &str = "Everything else was done; this is tried again, and logged again when it changes.";
