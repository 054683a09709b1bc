//! Whether everything works, and if not, why not and how to fix it: `rgrid_health()`.
//!
//! Runs in the caller's backend, also on a standby, in a read-only transaction and without preloading. It changes
//! nothing and locks no row, and waits no longer than 50 ms for a lock on a table. Each check is a subtransaction of
//! its own, so one that fails leaves the others alone. Tables are read as their owners. Of jobs the findings show only
//! how many there are, their worker, and which process has locked them.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::scope::{self, Scope};
use crate::pg::timer::Deadline;
use crate::settings;

mod attached;
mod database;
mod failover;
mod fitness;
mod idle;
mod jobs;
mod locks;
mod own;
mod plans;
mod queues;
mod registry;
mod server;
mod workers;

/// How severe a finding is.
#[derive(Clone, Copy)]
enum Status {
    /// As it should be.
    Good,
    /// Needs attention.
    Warning,
    /// Something does not work.
    Error,
}

/// One row of `rgrid_health()`.
struct Finding {
    /// What was looked at.
    check: String,
    status: Status,
    /// What was found, in full sentences.
    detail: String,
    /// The statement or setting that fixes it.
    hint: Option<String>,
}

impl Finding {
    fn good(check: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { check: check.into(), status: Status::Good, detail: detail.into(), hint: None }
    }

    fn warning(check: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        let (check, detail, hint) = (check.into(), detail.into(), Some(hint.into()));
        Self { check, status: Status::Warning, detail, hint }
    }

    fn error(check: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status: Status::Error, ..Self::warning(check, detail, hint) }
    }
}

/// Makes one check. An error in it becomes the finding.
fn attempt(check: &str, look: impl FnOnce() -> Result<Finding>) -> Finding {
    scope::subtransaction(look).unwrap_or_else(|error| not_checked(check, &error))
}

/// Makes one check that has time until then.
fn attempt_until(deadline: Deadline, check: &str, look: impl FnOnce() -> Result<Finding>) -> Finding {
    scope::subtransaction_until(deadline, look).unwrap_or_else(|error| not_checked(check, &error))
}

fn not_checked(check: &str, error: &Error) -> Finding {
    Finding::warning(
        check,
        format!("This could not be checked: {}.", error.message()),
        "Try again. The cause in the message may have to be fixed first.",
    )
}

/// Is it working, and if not, why not? One row for each check; 'ok' in all of them means that it works.
#[pg_extern]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn rgrid_health() -> Result<
    TableIterator<
        'static,
        (
            name!(check_name, String),
            name!(status, String),
            name!(detail, String),
            name!(hint, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let installation = Installation::of_any_version()?;
    let findings = Scope::of(installation.owner, &[]).lock_timeout(c"50ms").run(|| findings(&installation));
    Ok(TableIterator::new(findings.into_iter().map(|finding| {
        let status = match finding.status {
            Status::Good => "ok",
            Status::Warning => "warning",
            Status::Error => "error",
        };
        (finding.check, status.to_owned(), finding.detail, finding.hint)
    })))
}

fn findings(installation: &Installation) -> Vec<Finding> {
    let mut findings = server::findings();
    findings.extend(database::findings(installation));
    // The others read objects of this version.
    if installation.is_foreign() {
        return findings;
    }
    findings.push(own::finding(installation));
    findings.extend(workers::findings(installation));
    findings.push(attempt(attached::CHECK, || attached::finding(installation)));
    findings.extend(jobs::findings(installation, Deadline::after(settings::call_timeout())));
    findings.extend(queues::findings(installation));
    findings
}
