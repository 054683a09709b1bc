//! Checks of the current database's sweeper and of its state in shared memory.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

use super::{Finding, attempt};
use crate::VERSION;
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{self, catalog, scope, sql};
use crate::rules::{liveness, schedule};
use crate::settings;
use crate::shmem::databases::{self, State};
use crate::shmem::problems::{self, Place};
use crate::shmem::{is_preloaded, launcher};
use crate::sweep::{mass_death, replicated};

pub fn findings(installation: &Installation) -> Vec<Finding> {
    let state = databases::current();
    vec![
        version(installation),
        sweeper(state.as_ref()),
        attempt("subscription", || subscription(installation)),
        last_error(),
        threshold(state.as_ref()),
        mass_death(state.as_ref(), installation),
    ]
}

/// A time for people, to the second.
pub fn time(time: DateTime<Utc>) -> String {
    time.trunc_subsecs(0).to_string()
}

/// A length of time for people, in seconds.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn version(installation: &Installation) -> Finding {
    if installation.version == VERSION {
        return Finding::good("version", format!("Library and SQL objects are of version {VERSION}."));
    }
    let foreign = Error::ForeignVersion { version: installation.version.clone() };
    Finding::error(
        "version",
        format!("This database is not swept: {}.", foreign.message()),
        "ALTER EXTENSION rgrid_heartbeat UPDATE; or restart the server, if the library is the older one.",
    )
}

fn sweeper(state: Option<&State>) -> Finding {
    const CHECK: &str = "sweeper";
    if pg::is_standby() {
        return Finding::good(CHECK, "A standby has no sweeper.");
    }
    if !is_preloaded() {
        return Finding::error(
            CHECK,
            "There is no sweeper, because the library was not preloaded.",
            "Call rgrid_sweep() regularly, or see the check \"preload\".",
        );
    }
    if is_template() {
        return Finding::error(
            CHECK,
            "This database is a template, and templates are not swept.",
            format!("ALTER DATABASE {} IS_TEMPLATE false;", catalog::quoted_database()),
        );
    }
    if let Some(state) = state.filter(|state| state.failures > 0) {
        let round = problems::current().into_iter().find(|problem| problem.place == Place::Round);
        let last = round.map_or(String::new(), |problem| format!(": {}", problem.message()));
        return Finding::error(
            CHECK,
            format!("The last {} sweepers of this database have failed{last}.", state.failures),
            "See the server's log. Sweepers are started again.",
        );
    }
    if !settings::enabled() {
        return Finding::good(CHECK, "Sweeping is paused, see the check \"enabled\".");
    }
    on_time(CHECK, state)
}

fn subscription(installation: &Installation) -> Result<Finding> {
    const CHECK: &str = "subscription";
    let Some(error) = replicated::reason(installation)? else {
        return Ok(Finding::good(
            CHECK,
            "No enabled subscription writes to the heartbeats or to the ledger.",
        ));
    };
    let report = error.report();
    let message = report.message.replacen("no worker", "No worker", 1);
    let detail = format!("{message}. {}", report.detail.unwrap_or_default());
    Ok(Finding::warning(CHECK, detail, report.hint.unwrap_or_default()))
}

fn is_template() -> bool {
    let statement = "SELECT d.datistemplate FROM pg_catalog.pg_database d \
                     WHERE d.oid OPERATOR(pg_catalog.=) $1";
    let found = scope::subtransaction(|| {
        sql::read(statement, &[pg::current_database().into()], |row| row.required::<bool>(1, "kind"))
    });
    found.is_ok_and(|found| found == [true])
}

fn on_time(check: &str, state: Option<&State>) -> Finding {
    let now = pg::now();
    let sweep = state.and_then(State::sweep_started);
    let observing = state.map(State::observing_since);
    // Before the first sweep, the launcher has as much time as between two sweeps.
    let due_since = sweep.or(observing).max(launcher::running().map(|(_, started)| started));
    let found = match sweep {
        Some(sweep) => format!("The last sweep began {} ago", seconds(liveness::silence(now, sweep))),
        None => "There was no sweep yet".to_owned(),
    };
    let counts = observing.map_or(String::new(), |since| format!("; silence counts since {}", time(since)));
    let late = due_since.map(|since| schedule::lateness(now, since, settings::check_interval()));
    match late {
        Some(None) => Finding::good(check, format!("{found}{counts}.")),
        Some(Some(late)) => Finding::error(
            check,
            format!("{found}; the next one is {} late.{}", seconds(late), at_work(state)),
            "See the checks \"launcher\" and \"worker slots\", and wait_event in pg_stat_activity for sweepers.",
        ),
        None => Finding::error(
            check,
            format!(
                "Nothing is known about this database: no launcher is running, or there are more than {} databases.",
                databases::CAPACITY
            ),
            "See the check \"launcher\".",
        ),
    }
}

/// Says so when the last sweep has begun and not finished.
fn at_work(state: Option<&State>) -> &'static str {
    match state.and_then(|state| state.sweep_started().map(|started| state.sweep_finished() < Some(started)))
    {
        Some(true) => " The last one has not finished.",
        _ => "",
    }
}

fn last_error() -> Finding {
    const CHECK: &str = "last error";
    let problems = problems::current();
    let Some(last) = problems.first() else {
        return Finding::good(CHECK, "No problem is known since the server started.");
    };
    let found = format!("{} ({})", last.message(), time(last.last()));
    match problems.iter().filter(|problem| !problem.is_over).count() {
        0 => Finding::good(CHECK, format!("The last problem is over: {found}.")),
        count => Finding::error(
            CHECK,
            format!("There are {count} problems; the last one: {found}."),
            "Fix the cause; it is tried again. pg_stat_rgrid_problems lists all of them.",
        ),
    }
}

fn threshold(state: Option<&State>) -> Finding {
    const CHECK: &str = "threshold";
    let threshold = settings::stale_threshold();
    let Some(intervals) = state.and_then(|state| state.intervals.intervals(settings::flush_interval()))
    else {
        return Finding::good(CHECK, "Too few heartbeats were seen in memory to compare the threshold with.");
    };
    let found = format!(
        "The interval between two heartbeats of a worker has a median of {} and a 99th percentile of {}; the threshold \
         is {}.",
        seconds(intervals.median),
        seconds(intervals.p99),
        seconds(threshold)
    );
    if threshold >= intervals.safe_threshold() {
        return Finding::good(CHECK, found);
    }
    Finding::warning(
        CHECK,
        format!("{found} Healthy workers will be declared dead."),
        format!(
            "{} Or let workers send heartbeats more often, from a thread that no job can block.",
            raise(intervals.safe_threshold())
        ),
    )
}

fn mass_death(state: Option<&State>, installation: &Installation) -> Finding {
    const CHECK: &str = "mass death";
    let Some(hold) = state.and_then(|state| state.hold).filter(|hold| !hold.is_over) else {
        return Finding::good(CHECK, "No silent worker is held back.");
    };
    Finding::warning(
        CHECK,
        format!(
            "{} workers fell silent at once. They have been held back since {}, and will be until {} at the latest.",
            hold.workers,
            time(hold.since),
            time(mass_death::until(&hold))
        ),
        installation.sql("If they are dead: SELECT * FROM @extschema@.rgrid_sweep(force => true);"),
    )
}

/// The statement that sets the threshold of the current database, in whole seconds.
pub fn raise(threshold: Duration) -> String {
    let seconds = threshold.as_secs_f64().ceil().max(1.0);
    let database = pg::catalog::quoted_database();
    format!("ALTER DATABASE {database} SET rgrid_heartbeat.stale_threshold = '{seconds}s';")
}
