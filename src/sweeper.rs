//! The sweeper: a short-lived process that sweeps one database once.
//!
//! Started by the launcher, one at a time for a database. It connects, leaves if the extension is not there or
//! not of its version, sweeps, and ends, so that nobody waits for it who wants to drop or copy the database. Each
//! batch of workers is a transaction of its own; before each the extension is looked up again. A problem is
//! logged when it is new, and not again until it changes.
#![allow(unsafe_code, reason = "the entry point is called by name")]

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::databases;
use crate::error::{Error, Result};
use crate::installation::{Installation, VERSION};
use crate::liveness::Presence;
use crate::pg::catalog::Database;
use crate::pg::process::{self, Worker};
use crate::pg::{self, scope};
use crate::settings;
use crate::sweep::{Problem, Sweep};

const KIND: &str = "rgrid_heartbeat sweeper";

/// Starts a sweeper; `None` when there is no slot for it.
pub fn start(database: &Database) -> Option<Worker> {
    let name = format!("{KIND} for database {}", database.name);
    Worker::start(KIND, &name, "rgrid_heartbeat_sweeper_main", database.oid)
}

/// Where a sweeper's process begins; the argument is the database's OID.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn rgrid_heartbeat_sweeper_main(argument: pg_sys::Datum) {
    let Ok(oid) = u32::try_from(argument.value()) else { return };
    process::accept_signals();
    process::connect(pg_sys::Oid::from(oid));
    process::report_name(c"rgrid_heartbeat sweeper");
    process::reset_session_settings();
    let outcome = round();
    finish(outcome);
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
    /// It was swept.
    Swept {
        /// Tables that could not be settled.
        problems: Vec<Problem>,
    },
}

/// Sweeps the database.
fn round() -> Result<Outcome> {
    process::report_activity("looking for dead workers");
    let Found { silent, leftovers, mut problems } = match scope::transaction(look)? {
        Look::Sweep(found) => found,
        Look::Leave(outcome) => return Ok(outcome),
    };
    if silent.len() + leftovers.len() > 0 {
        process::report_activity("settling jobs of dead workers");
    }
    for batch in silent.chunks(settings::batch_size()) {
        problems.append(&mut with_sweep(|sweep| Ok(sweep.declare_dead(batch)?.problems))?);
    }
    for batch in leftovers.chunks(settings::batch_size()) {
        problems.append(&mut with_sweep(|sweep| Ok(sweep.settle_leftovers(batch)?.problems))?);
    }
    Ok(Outcome::Swept { problems })
}

/// Whom the sweep has to deal with, by id.
struct Found {
    silent: Vec<String>,
    leftovers: Vec<String>,
    problems: Vec<Problem>,
}

enum Look {
    Sweep(Found),
    Leave(Outcome),
}

/// The first transaction of a round: is there anything to do?
fn look() -> Result<Look> {
    let Some(installation) = Installation::find()? else { return Ok(Look::Leave(Outcome::Absent)) };
    if installation.version != VERSION {
        return Ok(Look::Leave(Outcome::Foreign { version: installation.version }));
    }
    let sweep = Sweep::new(installation)?;
    let dead = sweep.close_returned()?;
    let silent = sweep.silent(&dead)?.into_iter().map(|worker| worker.id).collect();
    let (leftovers, problems) = sweep.with_leftovers(&dead)?;
    Ok(Look::Sweep(Found { silent, leftovers, problems }))
}

/// Runs one batch in a transaction; nothing when the extension was dropped meanwhile.
fn with_sweep(work: impl FnOnce(Sweep) -> Result<Vec<Problem>>) -> Result<Vec<Problem>> {
    scope::transaction(|| match Installation::find()? {
        Some(installation) => work(Sweep::new(installation)?),
        None => Ok(Vec::new()),
    })
}

/// Reports how the round ended, to the launcher and, when it is news, to the log.
fn finish(outcome: Result<Outcome>) {
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
    if databases::is_news(database, text)
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
        Ok(Outcome::Swept { problems }) if problems.is_empty() => None,
        Ok(Outcome::Swept { problems }) => {
            let mut lines: Vec<String> = problems.iter().map(Problem::message).collect();
            lines.sort_unstable();
            lines.dedup();
            Some(Error::Unsettled { problems: lines.join("; ") }.into())
        }
        Err(error) => Some(error.into()),
    }
}
