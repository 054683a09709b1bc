//! Checks of the server as a whole. They read shared memory and settings; one counts processes.

use super::{Finding, attempt};
use crate::error::Result;
use crate::pg::{self, arrays, notifications, process, sql};
use crate::rules::liveness;
use crate::settings;
use crate::shmem::{buffer, connections, is_preloaded, launcher};

pub fn findings() -> Vec<Finding> {
    vec![
        attempt("preload", preload),
        standby(),
        enabled(),
        launcher(),
        attempt("worker slots", worker_slots),
        attempt("notification queue", notification_queue),
        buffer(),
        connection_slots(),
    ]
}

fn preload() -> Result<Finding> {
    if is_preloaded() {
        return Ok(Finding::good("preload", "The library was loaded when the server started."));
    }
    let others = pg::setting(c"shared_preload_libraries");
    let libraries = if others.is_empty() { String::new() } else { format!("{others}, ") };
    Ok(Finding::error(
        "preload",
        format!(
            "The server was not started with rgrid_heartbeat in \"shared_preload_libraries\": no sweeper runs, and \
             each heartbeat is written to its row at once.{}",
            without_effect()?
        ),
        format!(
            "ALTER SYSTEM SET shared_preload_libraries = {libraries}rgrid_heartbeat; then restart the server."
        ),
    ))
}

/// A sentence about the settings that are set and that only a preloaded library uses.
fn without_effect() -> Result<String> {
    let statement = "SELECT pg_catalog.string_agg(s.name, ', ' ORDER BY s.name) FROM pg_catalog.pg_settings s \
                     WHERE s.name OPERATOR(pg_catalog.=) ANY ($1) AND s.source OPERATOR(pg_catalog.<>) 'default'";
    let of_preloaded = arrays::texts(settings::OF_PRELOADED.into_iter());
    let names: Vec<Option<String>> = sql::read(statement, &[of_preloaded], |row| row.optional(1))?;
    let set = names.into_iter().flatten().next();
    Ok(set.map_or(String::new(), |names| format!(" These settings have no effect until then: {names}.")))
}

fn connection_slots() -> Finding {
    const CHECK: &str = "connection slots";
    const HINT: &str = "End idle sessions, use a connection pool, or raise max_connections and restart.";
    let (now, threshold) = (pg::now(), settings::stale_threshold());
    let Some(hearing) = connections::known() else {
        return Finding::good(CHECK, "Not checked: the library was not preloaded.");
    };
    let Some(since) = hearing.full_since() else {
        let last = hearing.last_spell().map_or(String::new(), |(end, length)| {
            format!(" The last time that none was free ended at {end}, after {:.0} s.", length.as_secs_f64())
        });
        return Finding::good(CHECK, format!("Clients can connect.{last}"));
    };
    if liveness::silence(now, since) <= threshold {
        return Finding::warning(
            CHECK,
            format!("No connection slot has been free since {since}. Silence does not count since then."),
            HINT,
        );
    }
    Finding::error(
        CHECK,
        format!(
            "No connection slot has been free since {since}. That is longer than the threshold. After twice the threshold \
             silence counts again, and workers that cannot connect are declared dead."
        ),
        HINT,
    )
}

fn standby() -> Finding {
    if !pg::is_standby() {
        return Finding::good("standby", "This server is not a standby.");
    }
    Finding::warning(
        "standby",
        "This server is a standby: heartbeats are refused, and no worker is declared dead until it is promoted.",
        "Let workers and operators connect to the primary.",
    )
}

fn enabled() -> Finding {
    if settings::enabled() {
        return Finding::good("enabled", "Sweeping is enabled.");
    }
    Finding::warning(
        "enabled",
        "Sweeping is paused: no worker is declared dead.",
        "ALTER SYSTEM SET rgrid_heartbeat.enabled = on; SELECT pg_reload_conf();",
    )
}

fn launcher() -> Finding {
    match launcher::running() {
        Some((pid, since)) => {
            let since = super::database::time(since);
            Finding::good("launcher", format!("The launcher is process {pid}, since {since}."))
        }
        None if pg::is_standby() => Finding::good("launcher", "A standby has no launcher."),
        None if !is_preloaded() => Finding::error(
            "launcher",
            "There is no launcher, because the library was not preloaded.",
            "See the check \"preload\".",
        ),
        None => Finding::error(
            "launcher",
            "No launcher is running: no database is swept.",
            format!(
                "The server starts it again a second after it ended. If it does not, see the server's log, and whether \
                 all slots of \"max_worker_processes\" ({}) are taken.",
                process::worker_slots()
            ),
        ),
    }
}

/// Types of processes that take no background worker slot.
const OTHERS: &[&str] = &[
    "archiver",
    "autovacuum launcher",
    "autovacuum worker",
    "background writer",
    "checkpointer",
    "client backend",
    "io worker",
    "slotsync worker",
    "startup",
    "walreceiver",
    "walsender",
    "walsummarizer",
    "walwriter",
];

/// Slots that sweepers want beside the launcher's.
const FOR_SWEEPERS: i64 = 3;

fn worker_slots() -> Result<Finding> {
    const CHECK: &str = "worker slots";
    let counted = sql::read(
        "SELECT pg_catalog.count(*), \
                pg_catalog.count(*) FILTER (WHERE s.backend_type OPERATOR(pg_catalog.<>) ALL ($2)) \
         FROM pg_catalog.pg_stat_get_activity(NULL) s \
         WHERE s.backend_type OPERATOR(pg_catalog.<>) ALL ($1)",
        &[OTHERS.to_vec().into(), vec!["parallel worker", process::SWEEPER].into()],
        |row| Ok((row.required::<i64>(1, "number")?, row.required::<i64>(2, "number")?)),
    )?;
    let (used, lasting) = counted.first().copied().unwrap_or_default();
    let all = i64::from(process::worker_slots());
    let parallel: i64 = pg::setting(c"max_parallel_workers").parse().unwrap_or(0);
    let wanted = parallel.min(all) + lasting + FOR_SWEEPERS;
    let found = format!("{} of the {all} background worker slots are free.", (all - used).max(0));
    let hint = |slots| format!("ALTER SYSTEM SET max_worker_processes = {slots}; then restart the server.");
    Ok(match used < all {
        _ if launcher::is_out_of_slots() => Finding::error(
            CHECK,
            format!("There was no slot for the last sweeper that was due. {found}"),
            hint(all + 8),
        ),
        false => Finding::warning(CHECK, found, hint(all + 8)),
        true if all < wanted => Finding::warning(
            CHECK,
            format!(
                "{found} Parallel queries may take {parallel} of them (\"max_parallel_workers\"), and leave none for \
                 sweepers."
            ),
            hint(wanted),
        ),
        true => Finding::good(CHECK, found),
    })
}

/// How full the queue of notifications may be before it is a warning.
const HALF_FULL: f64 = 0.5;

fn notification_queue() -> Result<Finding> {
    const CHECK: &str = "notification queue";
    let usage = notifications::queue_usage()?;
    let found = format!("The server's queue of notifications is {:.0} % full.", usage * 100.0);
    if usage < HALF_FULL {
        return Ok(Finding::good(CHECK, found));
    }
    Ok(Finding::warning(
        CHECK,
        format!("{found} When it is nearly full, deaths are declared without a notification."),
        "A session listens in a transaction that does not end. Find it: SELECT pid, xact_start, query FROM \
         pg_stat_activity WHERE xact_start IS NOT NULL ORDER BY xact_start;",
    ))
}

/// From this percentage of places taken on, the buffer is nearly full.
const NEARLY_FULL: u64 = 80;

fn buffer() -> Finding {
    const CHECK: &str = "heartbeat buffer";
    let places = u64::try_from(settings::max_workers()).unwrap_or(u64::MAX);
    if !is_preloaded() || places == 0 {
        return Finding::good(CHECK, "There is no buffer: each heartbeat is written to its row at once.");
    }
    let used: u64 = buffer::entries().values().sum();
    let refused = match buffer::refused() {
        0 => String::new(),
        refused => format!(" Since the server started, {refused} heartbeats found no place."),
    };
    let found = format!("{used} of {places} places for workers are taken.{refused}");
    if used * 100 < places * NEARLY_FULL {
        return Finding::good(CHECK, found);
    }
    let hint =
        format!("ALTER SYSTEM SET rgrid_heartbeat.max_workers = {}; then restart the server.", places * 2);
    Finding::warning(
        CHECK,
        format!("{found} Heartbeats of workers without a place are written to their rows at once."),
        hint,
    )
}
