//! Checks of the table of heartbeats and of the ledger.

use std::time::Duration;

use chrono::TimeDelta;

use super::{Finding, attempt, database, locks};
use crate::error::{Error, Report, Result};
use crate::installation::Installation;
use crate::pg::locks::TableLock;
use crate::pg::{self, catalog, roles, time_zones};
use crate::rules::liveness;
use crate::rules::local_time::STEP;
use crate::rules::text::printable;
use crate::settings;
use crate::shmem::databases;
use crate::shmem::refusal::Refusal;
use crate::sweep::local_time;
use crate::tables::deaths::{self, Reason};
use crate::tables::heartbeats::{HeartbeatTable, Worker};
use crate::tables::unsettled;

pub fn findings(installation: &Installation) -> Vec<Finding> {
    let mut findings = vec![
        attempt("false deaths", || false_deaths(installation)),
        attempt("untold deaths", || untold_deaths(installation)),
        attempt("unsettled jobs", || unsettled_jobs(installation)),
        attempt("table locks", || table_locks(installation)),
    ];
    match HeartbeatTable::open(installation) {
        Ok(table) => findings.extend([
            attempt("heartbeat table", || adoption(installation, &table)),
            owners(installation, &table),
            attempt("heartbeat index", || index(&table)),
            attempt("future heartbeats", || future(&table)),
            attempt("local time", || times(&table)),
            attempt("locked workers", || locked(installation, &table)),
        ]),
        Err(error) => findings.push(Finding::error(
            "heartbeat table",
            format!(
                "Heartbeats that need their rows fail, and no worker is declared dead: {}.",
                error.message()
            ),
            "Undo the change: alter the table, or rename it back.",
        )),
    }
    findings
}

fn table_locks(installation: &Installation) -> Result<Finding> {
    const CHECK: &str = "table locks";
    let Some(TableLock { table, pid, mode }) = installation.locked_table()? else {
        return Ok(Finding::good(CHECK, "No session has locked a table of the extension."));
    };
    let report = Error::OwnTableLocked { table, pid, mode }.report();
    Ok(Finding::error(
        CHECK,
        format!("Sweeps or calls that need it fail: {}.", report.message),
        report.hint.unwrap_or_default(),
    ))
}

fn unsettled_jobs(installation: &Installation) -> Result<Finding> {
    const CHECK: &str = "unsettled jobs";
    let Some((workers, since, example)) = unsettled::summary(installation)? else {
        return Ok(Finding::good(CHECK, "No worker has come back, or left, before its jobs were settled."));
    };
    Ok(Finding::warning(
        CHECK,
        format!(
            "{workers} workers have come back or left before all of their jobs were settled, the first at {since}. \
             {example}."
        ),
        "Remove the cause: it is tried again within five minutes. The jobs are in rgrid_unsettled_jobs.",
    ))
}

/// How long a false or untold death is reported.
pub(super) const REPORTED_FOR: TimeDelta = TimeDelta::days(1);

fn false_deaths(installation: &Installation) -> Result<Finding> {
    const CHECK: &str = "false deaths";
    let since = pg::now() - REPORTED_FOR;
    let (count, example) = deaths::views::false_deaths_since(installation, Reason::Stale, since)?;
    let Some((worker, silence)) = example else {
        return Ok(Finding::good(
            CHECK,
            "No worker that was declared dead for silence in the last day has returned.",
        ));
    };
    let longer = Duration::from_secs_f64(silence.max(0.0)).max(settings::stale_threshold()) * 2;
    Ok(Finding::warning(
        CHECK,
        format!(
            "{count} workers that were declared dead for silence in the last day have returned. The last one, \"{}\", \
             had been silent for {silence:.1} s.",
            printable(&worker)
        ),
        format!(
            "Let workers send heartbeats more often, from a thread that no job can block; or {}",
            database::raise(longer)
        ),
    ))
}

/// Deaths that no listener was told of, because the server's queue of notifications was nearly full.
fn untold_deaths(installation: &Installation) -> Result<Finding> {
    const CHECK: &str = "untold deaths";
    Ok(match deaths::views::untold_since(installation, pg::now() - REPORTED_FOR)? {
        0 => Finding::good(CHECK, "Listeners were told of each death in the last day."),
        count => Finding::warning(
            CHECK,
            format!(
                "{count} deaths in the last day were declared without a notification: the server's queue of \
                 notifications was nearly full."
            ),
            installation.sql("SELECT * FROM @extschema@.rgrid_worker_deaths WHERE NOT notified;"),
        ),
    })
}

/// The owner of an adopted table decides which workers are alive.
fn adoption(installation: &Installation, table: &HeartbeatTable) -> Result<Finding> {
    const CHECK: &str = "heartbeat table";
    let found = format!("{} can be used.", table.name);
    let is_trusted = [installation.owner, catalog::database_owner()?].contains(&table.owner);
    if table.is_own || is_trusted || roles::is_superuser(table.owner) {
        return Ok(Finding::good(CHECK, found));
    }
    let role = roles::name(table.owner).unwrap_or_default();
    Ok(Finding::warning(
        CHECK,
        format!(
            "{found} It was adopted, and belongs to role \"{role}\", which is neither the owner of the extension nor that of \
             the database. This role decides which workers are alive, and its triggers run at heartbeats."
        ),
        format!("If that is not intended: ALTER TABLE {} OWNER TO ...;", table.name),
    ))
}

/// How long a refused call is reported.
const REFUSED_FOR: TimeDelta = TimeDelta::hours(1);

fn owners(installation: &Installation, table: &HeartbeatTable) -> Finding {
    const CHECK: &str = "worker owners";
    if !table.is_own {
        let found = "was there before the extension, so ids of workers belong to no role. Any role that may call the functions \
                     can use any id.";
        return Finding::good(CHECK, format!("{} {found}", table.name));
    }
    let state = databases::current();
    let last = state.and_then(|state| state.refusal.map(|refusal| (state.counters.calls_refused, refusal)));
    match last {
        Some((calls, last)) if pg::now() - last.at() < REFUSED_FOR => refused(installation, calls, &last),
        _ if !settings::isolate_roles() => {
            Finding::good(CHECK, "rgrid_heartbeat.isolate_roles is off: all roles share ids.")
        }
        _ => Finding::good(
            CHECK,
            "No call was refused in the last hour because the id belongs to another role.",
        ),
    }
}

fn refused(installation: &Installation, calls: u64, last: &Refusal) -> Finding {
    let worker = last.worker();
    let role = roles::name(last.role).unwrap_or_else(|| last.role.to_u32().to_string());
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    Finding::warning(
        "worker owners",
        format!(
            "{calls} calls were refused because the id of the worker belongs to another role. The last one was of role \
             \"{role}\" for worker \"{worker}\" at {}. If that is its own worker, it will be declared dead.",
            database::time(last.at())
        ),
        installation.sql(&format!(
            "See @extschema@.rgrid_worker_owners. If the id is to be the role's: SELECT \
             @extschema@.rgrid_reassign_worker({}, {});",
            literal(&worker),
            literal(&role)
        )),
    )
}

fn index(table: &HeartbeatTable) -> Result<Finding> {
    const CHECK: &str = "heartbeat index";
    let indexes = catalog::indexes_on(table.oid, "last_heartbeat_at")?;
    if indexes.is_empty() {
        return Ok(Finding::good(CHECK, "No index contains the time of the last heartbeat."));
    }
    Ok(Finding::warning(
        CHECK,
        format!(
            "{} contains the time of the last heartbeat, so each heartbeat that is written changes the index, too. The \
             extension does not use it.",
            indexes.join(", ")
        ),
        format!("DROP INDEX CONCURRENTLY {}; if nothing else uses it.", indexes.join(", ")),
    ))
}

fn future(table: &HeartbeatTable) -> Result<Finding> {
    const CHECK: &str = "future heartbeats";
    let (count, example) = table.heard_after(liveness::latest_credible(pg::now()))?;
    let Some(worker) = example else {
        return Ok(Finding::good(CHECK, "No heartbeat is from the future."));
    };
    Ok(Finding::warning(
        CHECK,
        format!(
            "{count} workers have a heartbeat from the future, such as \"{}\": the clock of the client that wrote it is \
             ahead, or the server's was set back. A sweep sets it to the current time.",
            printable(&worker)
        ),
        format!(
            "UPDATE {} SET last_heartbeat_at = {now} WHERE last_heartbeat_at > {now};{zone}",
            table.name,
            now = table.current_time(),
            zone = if table.has_time_zone {
                ""
            } else {
                " Clients that are hours ahead write local time: let them write UTC."
            }
        ),
    ))
}

fn times(table: &HeartbeatTable) -> Result<Finding> {
    const CHECK: &str = "local time";
    if table.has_time_zone {
        return Ok(Finding::good(CHECK, "Heartbeats are stored with their time zone."));
    }
    let now = pg::now();
    if let Some(mark) = databases::current().and_then(|state| state.written_lately())
        && let Some((_, error)) =
            local_time::writers(table, &table.silent_since(now - STEP, &[])?, mark, now)?
    {
        let Report { message, detail, hint, .. } = error.report();
        let detail = format!("{} The log says: {message}.", detail.unwrap_or_default());
        return Ok(Finding::warning(CHECK, detail, hint.unwrap_or_default()));
    }
    let Some(default) = table.local_default()? else {
        return Ok(Finding::good(CHECK, "Heartbeats are UTC."));
    };
    let zones = time_zones::other_than_utc()?;
    if zones.is_empty() {
        let found =
            format!("The default of the time of heartbeats is {default}. Every TimeZone that is set is UTC.");
        return Ok(Finding::good(CHECK, found));
    }
    Ok(Finding::warning(
        CHECK,
        format!(
            "The default of the time of heartbeats is {default}, which is not UTC where TimeZone is set to another zone: {}. \
             Workers that use it seem silent for hours, or ahead of the clock.",
            zones.join(", ")
        ),
        format!(
            "ALTER TABLE {} ALTER COLUMN last_heartbeat_at SET DEFAULT {};",
            table.name,
            table.current_time()
        ),
    ))
}

fn locked(installation: &Installation, table: &HeartbeatTable) -> Result<Finding> {
    const CHECK: &str = "locked workers";
    let dead: Vec<String> = deaths::dead(installation)?.into_iter().map(|worker| worker.id).collect();
    let cutoff = pg::now() - liveness::delta(settings::stale_threshold());
    let mut silent = table.silent_since(cutoff, &dead)?;
    silent.iter_mut().for_each(Worker::renew);
    silent.retain(|worker| worker.last_heartbeat_at < cutoff);
    let silent: Vec<String> = silent.into_iter().map(|worker| worker.id).collect();
    let lockers = if silent.is_empty() { Vec::new() } else { table.lockers(&silent)? };
    let holders = locks::holders(&lockers)?;
    if holders.is_empty() {
        return Ok(Finding::good(CHECK, "No row of a silent worker is locked."));
    }
    Ok(Finding::warning(
        CHECK,
        format!("Silent workers cannot be declared dead, because their rows are locked: {holders}."),
        holders.hint(),
    ))
}
