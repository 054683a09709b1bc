//! Judges a run when everything has come to rest: every death once, numbers without gaps, nothing left in memory, no
//! internal error.

use super::arena::{Arena, Life, ORIGIN, PLACES};
use super::statements::{self, TABLES};
use crate::cluster::{run, wait_until};
use crate::history::deaths_in;
use std::time::{Duration, Instant};

/// Deaths that a crash may keep from the log: their commit was done, and their line was not.
const UNLOGGED_BY_A_CRASH: i64 = 24;

pub fn judge(arena: &Arena) -> Vec<String> {
    let (current, past) = arena.lives();
    let mut wrong = Vec::new();
    for life in &current {
        repair(arena, life);
    }
    for life in &current {
        wrong.extend(unrest(arena, life).map(|text| format!("{}: {text}", life.name)));
        wrong.extend(faults_of_ledger(arena, &life.name));
    }
    wrong.extend(faults_of_log(arena, &current, &past));
    wrong.extend(what_is_left(arena, &current));
    wrong.extend(internal_errors(arena));
    wrong
}

fn repair(arena: &Arena, life: &Life) {
    let mut client = arena.cluster.connect(&life.name);
    run(&mut client, "CREATE EXTENSION IF NOT EXISTS rgrid_heartbeat");
    for repair in statements::repairs() {
        let _ = client.batch_execute(&repair);
    }
}

/// What does not come to rest: after a while without a heartbeat everybody is dead, and no dead one has a job.
fn unrest(arena: &Arena, life: &Life) -> Option<String> {
    let mut questions = vec![
        (
            "workers that nobody declares dead".to_owned(),
            "SELECT count(*) FROM worker_heartbeats h WHERE NOT EXISTS
             (SELECT FROM rgrid_worker_deaths d WHERE d.worker_id = h.worker_id AND d.returned_at IS NULL)"
                .to_owned(),
        ),
        (
            "entries in memory of dead workers".into(),
            "SELECT buffer_entries FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()".into(),
        ),
    ];
    questions.extend(TABLES.iter().map(|table| {
        let jobs = format!(
            "SELECT count(*) FROM {table} j JOIN rgrid_worker_deaths d USING (worker_id)
             WHERE d.returned_at IS NULL AND j.status = 'running'"
        );
        (format!("running jobs of dead workers in {table}"), jobs)
    }));
    let began = Instant::now();
    let mut left = None;
    wait_until("everything comes to rest", || {
        left = questions.iter().find_map(|(what, sql)| {
            let count = arena.ask(&life.name, sql);
            (count != 0).then(|| format!("{what}: {count}"))
        });
        left.is_none() || began.elapsed() > Duration::from_secs(20)
    });
    left
}

fn faults_of_ledger(arena: &Arena, database: &str) -> Option<String> {
    let sql = "SELECT count(*) FROM (SELECT FROM rgrid_worker_deaths GROUP BY worker_id
               HAVING min(incarnation) <> 1 OR max(incarnation) <> count(*)
                   OR count(*) FILTER (WHERE returned_at IS NULL) > 1) AS bad";
    match arena.ask(database, sql) {
        0 => None,
        bad => Some(format!("{database}: workers whose numbers have gaps, or who are dead twice: {bad}")),
    }
}

/// Every death has one line of the log: neither a line without a row of the ledger, nor a row without a line.
fn faults_of_log(arena: &Arena, current: &[Life], past: &[Life]) -> Vec<String> {
    let logged = deaths_in(&arena.cluster.log());
    logged.iter().for_each(|_| arena.count("deaths in the log"));
    let crashes = i64::try_from(arena.counted("processes killed by SIGKILL")).unwrap_or(0);
    let counted = |life: &Life| {
        let is_current = current.iter().any(|current| current.name == life.name);
        let now =
            if is_current { arena.ask(&life.name, "SELECT count(*) FROM rgrid_worker_deaths") } else { 0 };
        life.deaths + now
    };
    let mut faults = Vec::new();
    for life in current.iter().chain(past).filter(|life| life.is_counted) {
        let prefix = format!("{}/", life.name);
        let lines = i64::try_from(logged.iter().filter(|id| id.starts_with(&prefix)).count()).unwrap_or(0);
        let rows = counted(life);
        if lines > rows || rows - lines > crashes * UNLOGGED_BY_A_CRASH {
            faults.push(format!("{}: {rows} deaths in the ledger, {lines} in the log", life.name));
        }
    }
    faults
}

/// Drops all databases, and looks for what is still known of them: in the views, and as places that nobody else gets.
fn what_is_left(arena: &Arena, current: &[Life]) -> Vec<String> {
    let mut admin = arena.cluster.connect("postgres");
    for life in current {
        arena.ask(&life.name, &statements::all_beat());
        run(&mut admin, &format!("DROP DATABASE {} WITH (FORCE)", life.name));
    }
    arena.cluster.set("rgrid_heartbeat.stale_threshold", "1h");
    run(&mut admin, &format!("CREATE DATABASE chaos_last TEMPLATE {ORIGIN}"));
    let known = "SELECT count(*) FROM (SELECT datname FROM pg_stat_rgrid_heartbeat
                                       UNION ALL SELECT datname FROM pg_stat_rgrid_problems) AS known
                 WHERE datname IS NULL";
    let places =
        format!("SELECT count(rgrid_heartbeat('last/w' || n)) FROM generate_series(1, {PLACES}) AS n");
    arena.ask("chaos_last", &places);
    let entries = "SELECT coalesce(max(buffer_entries), -1) FROM pg_stat_rgrid_heartbeat
                   WHERE datname = current_database()";
    let began = Instant::now();
    let (mut gone, mut taken) = (0, 0);
    wait_until("the launcher to look", || {
        (gone, taken) = (arena.ask("chaos_last", known), arena.ask("chaos_last", entries));
        (gone, taken) == (0, PLACES) || began.elapsed() > Duration::from_secs(10)
    });
    let mut left = Vec::new();
    if gone != 0 {
        left.push(format!("rows of the views about databases that are gone: {gone}"));
    }
    if taken != PLACES {
        left.push(format!(
            "{taken} workers fit in memory, of {PLACES}: the others are of databases that are gone"
        ));
    }
    left
}

/// What the log has of panics, of crashes that nobody asked for, and of errors that are a fault of the code.
fn internal_errors(arena: &Arena) -> Vec<String> {
    let log = arena.cluster.log();
    let is_internal = |line: &str| {
        ["PANIC:", "panicked", "terminated by signal 6", "terminated by signal 11", "TRAP:"]
            .iter()
            .any(|part| line.contains(part))
            // A session's errors are known with their places.
            || line.split_once("] XX").is_some_and(|(_, rest)| !rest.contains(" client backend: "))
    };
    log.lines().filter(|line| is_internal(line)).map(String::from).chain(arena.internal_errors()).collect()
}
