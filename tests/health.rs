//! `rgrid_health()`: it finds nothing where all is well, and each check fails when it should.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;

use cluster::*;
use postgres::Client;
use std::sync::OnceLock;

/// Sweeps and flushes often.
fn server() -> Shared {
    static SERVER: OnceLock<Cluster> = OnceLock::new();
    Shared::of(&SERVER, busy)
}

fn busy() -> Builder {
    Cluster::builder()
        .setting("rgrid_heartbeat.check_interval", "200ms")
        .setting("rgrid_heartbeat.flush_interval", "100ms")
        .setting("rgrid_heartbeat.stale_threshold", "5s")
}

/// A session of a database with the threshold that it has out of the box.
fn connect_patiently(database: &Database<'_>, name: &str) -> Client {
    let sql = format!("ALTER DATABASE {name} SET rgrid_heartbeat.stale_threshold = '2min'");
    run(&mut database.connect(), &sql);
    database.connect()
}

/// What one check found: its status, its detail and its hint.
fn finding(client: &mut Client, check: &str) -> (String, String, String) {
    let sql = "SELECT status, detail, coalesce(hint, '') FROM rgrid_health() WHERE check_name = $1";
    let row = client.query_one(sql, &[&check]).unwrap_or_else(|error| panic!("{check}: {error:?}"));
    (row.get(0), row.get(1), row.get(2))
}

/// Returns what a check found when it has this status.
fn await_status(client: &mut Client, check: &str, status: &str) -> (String, String) {
    let mut found = (String::new(), String::new(), String::new());
    wait_until(&format!("check {check} to be {status}"), || {
        found = finding(client, check);
        found.0 == status
    });
    (found.1, found.2)
}

/// Every check that found something, with what it found.
fn complaints(client: &mut Client) -> Vec<String> {
    let sql =
        "SELECT format('%s %s: %s', check_name, status, detail) FROM rgrid_health() WHERE status <> 'ok'";
    client.query(sql, &[]).expect("health can be asked").iter().map(|row| row.get(0)).collect()
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_healthy_installation_has_nothing_to_report() {
    let cluster = server();
    let database = cluster.database("healthy");
    let _beats = Beating::calling(database.connect(), "worker");
    await_sweep(&mut database.connect(), "silent");
    let mut client = connect_patiently(&database, "healthy");
    claim_jobs(&mut client, "worker", 2);
    wait_until("gaps to be known", || finding(&mut client, "threshold").1.contains("typically"));
    assert_eq!(complaints(&mut client), NOTHING);
    let checks: i64 = ask(&mut client, "SELECT count(*) FROM rgrid_health()", &[]);
    assert_eq!(checks, 21);
}

#[test]
fn a_monitor_may_ask_and_needs_no_right_on_any_table() {
    let cluster = server();
    let database = cluster.database("monitored");
    let mut client = database.connect();
    run(&mut client, "CREATE ROLE watcher LOGIN IN ROLE pg_monitor; CREATE ROLE passer LOGIN");
    claim_jobs(&mut client, "unheard-of", 3);
    let mut watcher = database.connect_as("watcher");
    let mut first = Vec::new();
    wait_until("the first sweep", || {
        first = complaints(&mut watcher);
        first.len() == 1
    });
    assert!(first[0].contains("3 running jobs belong to 1 workers"), "{first:?}");
    assert_eq!(sqlstate(&mut watcher, "SELECT FROM executions"), "42501");
    run(&mut watcher, "BEGIN READ ONLY; SELECT FROM rgrid_health(); COMMIT");
    assert_eq!(sqlstate(&mut database.connect_as("passer"), "SELECT rgrid_health()"), "42501");
}

#[test]
fn a_library_that_is_not_preloaded_is_an_error_and_the_rest_is_still_checked() {
    let cluster = busy().preload(false).start();
    let database = cluster.database("unloaded");
    let mut client = database.connect();
    let (status, _, hint) = finding(&mut client, "preload");
    assert_eq!(status, "error");
    assert!(hint.contains("SET shared_preload_libraries = rgrid_heartbeat;"), "{hint}");
    assert_eq!(finding(&mut client, "launcher").0, "error");
    assert_eq!(finding(&mut client, "sweeper").0, "error");
    assert_eq!(complaints(&mut client).len(), 3);
    claim_jobs(&mut client, "unheard-of", 1);
    assert_eq!(finding(&mut client, "jobs of unknown workers public.executions").0, "warning");
}

#[test]
fn a_standby_says_that_it_is_one() {
    let primary = busy().start();
    let database = primary.database("grid");
    let mut client = database.connect();
    known_worker(&mut client, "worker");
    claim_jobs(&mut client, "worker", 1);
    wait_until("the first sweep", || complaints(&mut client).is_empty());
    let standby = primary.standby();
    standby.catch_up_with(&primary);
    let found = complaints(&mut standby.connect("grid"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("standby warning: This server is a standby"), "{found:?}");
}

#[test]
fn a_server_without_room_for_the_launcher_has_no_launcher() {
    // The one slot is for the server's own launcher of logical replication.
    let cluster = busy().setting("max_worker_processes", "1").start();
    let database = cluster.database("noroom");
    let (status, detail, hint) = finding(&mut database.connect(), "launcher");
    assert_eq!(status, "error", "{detail}");
    assert!(hint.contains("\"max_worker_processes\" (1)"), "{hint}");
}

#[test]
fn a_terminated_launcher_is_missed_until_it_is_back() {
    let cluster = server();
    let database = cluster.database("terminated");
    let mut client = database.connect();
    let launcher = cluster.pids(LAUNCHER)[0];
    assert!(finding(&mut client, "launcher").1.contains(&format!("process {launcher},")));
    cluster.terminate(launcher);
    wait_until("another launcher", || {
        let (status, detail, _) = finding(&mut client, "launcher");
        status == "ok" && !detail.contains(&format!("process {launcher},"))
    });
}

#[test]
fn a_launcher_without_a_slot_for_sweepers_says_so() {
    let cluster = busy().setting("max_worker_processes", "2").start();
    let database = cluster.database("noslots");
    let (detail, hint) = await_status(&mut database.connect(), "worker slots", "error");
    assert!(detail.contains("0 of the 2 background worker slots are free"), "{detail}");
    assert!(hint.contains("SET max_worker_processes = 10"), "{hint}");
}

#[test]
fn a_pause_and_heartbeats_from_the_future_are_told() {
    let cluster = busy().setting("rgrid_heartbeat.enabled", "off").start();
    let database = cluster.database("paused");
    let mut client = database.connect();
    let (status, _, hint) = finding(&mut client, "enabled");
    assert_eq!((status.as_str(), finding(&mut client, "sweeper").0.as_str()), ("warning", "ok"));
    silent_worker(&mut client, "ahead");
    run(&mut client, "UPDATE worker_heartbeats SET last_heartbeat_at = now() + interval '1 hour'");
    let (status, detail, mend) = finding(&mut client, "future heartbeats");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("1 workers") && detail.contains("\"ahead\""), "{detail}");
    run(&mut client, &mend);
    assert_eq!(finding(&mut client, "future heartbeats").0, "ok");
    client.execute(hint.split(';').next().unwrap(), &[]).expect("the hint is a statement");
    cluster.reload();
    wait_until("the pause to end", || complaints(&mut database.connect()).is_empty());
}

#[test]
fn a_memory_that_is_nearly_full_is_told_before_it_is() {
    let cluster = busy().setting("rgrid_heartbeat.max_workers", "10").start();
    let database = cluster.database("crowded");
    let mut client = database.connect();
    for n in 0..7 {
        known_worker(&mut client, &format!("worker-{n}"));
    }
    assert_eq!(finding(&mut client, "heartbeat buffer").0, "ok");
    known_worker(&mut client, "worker-7");
    let (status, detail, hint) = finding(&mut client, "heartbeat buffer");
    assert_eq!(status, "warning");
    assert!(detail.contains("8 of 10 places"), "{detail}");
    assert!(hint.contains("SET rgrid_heartbeat.max_workers = 20"), "{hint}");
}

#[test]
fn objects_of_another_version_are_an_error() {
    let cluster = server();
    let database = cluster.database("older");
    let mut client = database.connect();
    run(&mut client, "UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'rgrid_heartbeat'");
    let (status, detail, hint) = finding(&mut client, "version");
    assert_eq!(status, "error");
    assert!(detail.contains("has version 0.0.1"), "{detail}");
    assert!(hint.starts_with("ALTER EXTENSION rgrid_heartbeat UPDATE;"), "{hint}");
}

#[test]
fn sweeps_that_do_not_come_are_late() {
    let cluster = busy().start();
    let database = cluster.database("late");
    let mut client = database.connect();
    await_status(&mut client, "sweeper", "ok");
    let launcher = cluster.pids(LAUNCHER)[0];
    signal(launcher, "STOP");
    let (detail, _) = await_status(&mut client, "sweeper", "error");
    signal(launcher, "CONT");
    assert!(detail.contains("s late."), "{detail}");
    await_status(&mut client, "sweeper", "ok");
}

#[test]
fn a_table_of_heartbeats_that_cannot_be_used_fails_sweepers_too() {
    let cluster = server();
    let database = cluster.database("altered");
    let mut client = database.connect();
    run(&mut client, "ALTER TABLE worker_heartbeats RENAME COLUMN last_heartbeat_at TO seen");
    let (status, detail, _) = finding(&mut client, "heartbeat table");
    assert_eq!(status, "error");
    assert!(detail.contains("column \"last_heartbeat_at\""), "{detail}");
    let (detail, _) = await_status(&mut client, "sweeper", "error");
    assert!(detail.contains("sweepers of this database have failed: column"), "{detail}");
    run(&mut client, "ALTER TABLE worker_heartbeats RENAME COLUMN seen TO last_heartbeat_at");
    await_status(&mut client, "sweeper", "ok");
    let (_, detail, _) = finding(&mut client, "last error");
    assert!(detail.starts_with("It is over: column"), "{detail}");
}

#[test]
fn a_threshold_close_to_the_gaps_that_were_seen_is_a_warning_with_a_better_one() {
    let cluster = server();
    let database = cluster.database("tight");
    let mut client = connect_patiently(&database, "tight");
    let _beats = Beating::calling(database.connect(), "worker");
    wait_until("gaps to be known", || finding(&mut client, "threshold").1.contains("typically"));
    assert_eq!(finding(&mut client, "threshold").0, "ok");
    run(&mut client, "SET rgrid_heartbeat.stale_threshold = '150ms'");
    let (status, detail, hint) = finding(&mut client, "threshold");
    assert_eq!(status, "warning", "{detail}");
    let raised = hint.split_inclusive(';').next().unwrap();
    assert!(raised.starts_with("ALTER DATABASE tight SET rgrid_heartbeat.stale_threshold = '"), "{hint}");
    run(&mut client, raised);
    assert_eq!(finding(&mut database.connect(), "threshold").0, "ok", "the statement that it gives helps");
}

#[test]
fn a_worker_that_came_back_was_a_false_death() {
    let cluster = server();
    let database = cluster.database("mistaken");
    let mut client = database.connect();
    beat(&mut client, "slow");
    sweep_away(&mut client, "slow");
    assert_eq!(finding(&mut client, "false deaths").0, "ok", "it is dead, as far as anybody knows");
    assert_eq!(beat(&mut client, "slow"), 2);
    let (status, detail, hint) = finding(&mut client, "false deaths");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("1 workers") && detail.contains("\"slow\""), "{detail}");
    assert!(hint.contains("ALTER DATABASE mistaken SET rgrid_heartbeat.stale_threshold"), "{hint}");
}

#[test]
fn an_index_on_the_time_of_the_heartbeats_is_told() {
    let cluster = server();
    let database = cluster.rgrid_database("indexed");
    let mut client = database.connect();
    let (status, _, hint) = finding(&mut client, "heartbeat index");
    assert_eq!(status, "warning");
    run(&mut client, hint.split(';').next().unwrap());
    assert_eq!(finding(&mut client, "heartbeat index").0, "ok");
}

#[test]
fn a_silent_worker_whose_row_is_locked_is_told_with_the_process_that_locked_it() {
    let cluster = server();
    let database = cluster.database("heldrows");
    let (mut client, mut other) = (database.connect(), database.connect());
    // A lock that was let go leaves a trace on the row, and is none.
    run(&mut other, "INSERT INTO worker_heartbeats VALUES ('free', 'host', now())");
    run(&mut other, "BEGIN; SELECT FROM worker_heartbeats FOR UPDATE; COMMIT");
    run(&mut other, "INSERT INTO worker_heartbeats VALUES ('stuck', 'host', now())");
    run(&mut other, "BEGIN; SELECT FROM worker_heartbeats WHERE worker_id = 'stuck' FOR UPDATE");
    run(&mut client, "SET rgrid_heartbeat.stale_threshold = '100ms'");
    let holder = pid(&mut other);
    let (detail, hint) = await_status(&mut client, "locked workers", "warning");
    assert!(detail.ends_with(&format!("locked: 1 by process {holder}.")), "{detail}");
    assert!(hint.contains(&format!("pg_terminate_backend({holder})")), "{hint}");
    run(&mut other, "ROLLBACK");
    assert_eq!(finding(&mut client, "locked workers").0, "ok");
}

#[test]
fn a_database_without_a_table_of_jobs_is_told() {
    let cluster = server();
    let database = cluster.empty_database("jobless");
    let mut client = database.connect();
    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
    let (status, detail, _) = finding(&mut client, "job tables");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("No table of jobs is watched"), "{detail}");
}

#[test]
fn a_watched_table_that_was_dropped_is_told() {
    let cluster = server();
    let database = cluster.database("dropped");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE TABLE tasks (worker_id text, status text, execution_error text, completed_at timestamptz);
         INSERT INTO rgrid_job_tables (job_table) VALUES ('tasks')",
    );
    assert_eq!(finding(&mut client, "job tables").0, "ok");
    assert_eq!(finding(&mut client, "job table public.tasks").0, "ok");
    run(&mut client, "DROP TABLE tasks");
    let (status, _, hint) = finding(&mut client, "job tables");
    assert_eq!(status, "warning");
    run(&mut client, &hint);
    assert_eq!(finding(&mut client, "job tables").0, "ok");
}

#[test]
fn a_table_of_jobs_that_lost_a_column_is_told_and_the_sweep_that_met_it_is_the_last_error() {
    let cluster = server();
    let database = cluster.database("misshapen");
    let mut client = database.connect();
    run(&mut client, "ALTER TABLE executions RENAME COLUMN completed_at TO ended_at");
    let (status, detail, _) = finding(&mut client, "job table public.executions");
    assert_eq!(status, "error");
    assert!(detail.contains("column \"completed_at\""), "{detail}");
    silent_worker(&mut client, "victim");
    let (detail, _) = await_status(&mut client, "last error", "error");
    assert!(detail.contains("could not settle jobs in table public.executions: column"), "{detail}");
    run(&mut client, "ALTER TABLE executions RENAME COLUMN ended_at TO completed_at");
    await_status(&mut client, "last error", "ok");
    assert_eq!(finding(&mut client, "job table public.executions").0, "ok");
}

#[test]
fn a_table_that_refuses_to_be_settled_is_told_with_its_reason() {
    let cluster = server();
    let database = cluster.database("refusing");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not today'; END$$;
         CREATE TRIGGER refuse BEFORE UPDATE ON executions FOR EACH ROW WHEN (new.status = 'failed')
             EXECUTE FUNCTION refuse()",
    );
    claim_jobs(&mut client, "victim", 1);
    silent_worker(&mut client, "victim");
    let (detail, _) = await_status(&mut client, "job table public.executions", "error");
    assert!(detail.ends_with("could not settle its jobs: not today."), "{detail}");
    run(&mut client, "DROP TRIGGER refuse ON executions");
    await_status(&mut client, "job table public.executions", "ok");
}

#[test]
fn a_large_table_without_an_index_for_running_jobs_is_told_with_the_statement_that_makes_one() {
    let cluster = server();
    let database = cluster.database("unindexed");
    let mut client = database.connect();
    run(&mut client, "DROP INDEX ix_executions_status");
    assert_eq!(finding(&mut client, "job index public.executions").0, "ok", "it is small");
    queue_jobs(&mut client, "anybody", 50_000);
    let (status, _, hint) = finding(&mut client, "job index public.executions");
    assert_eq!(status, "warning");
    run(&mut client, &hint);
    assert_eq!(finding(&mut client, "job index public.executions").0, "ok", "{hint}");

    for (index, is_enough) in [
        ("(worker_id)", true),
        ("(status)", true),
        ("(worker_id) WHERE status = 'queued'", false),
        ("(created_at)", false),
    ] {
        run(&mut client, "DROP INDEX executions_worker_id_idx");
        run(&mut client, &format!("CREATE INDEX executions_worker_id_idx ON executions {index}"));
        let status = if is_enough { "ok" } else { "warning" };
        assert_eq!(finding(&mut client, "job index public.executions").0, status, "{index}");
    }
}

#[test]
fn a_table_that_is_too_large_to_read_as_a_whole_is_not_read() {
    let cluster = server();
    let database = cluster.database("huge");
    let mut client = database.connect();
    run(&mut client, "DROP INDEX ix_executions_status");
    claim_jobs(&mut client, "unheard-of", 1);
    let check = "jobs of unknown workers public.executions";
    assert_eq!(finding(&mut client, check).0, "warning");
    // As if it had a hundred thousand times as many pages.
    run(&mut client, "SET seq_page_cost = 200000");
    let (status, detail, _) = finding(&mut client, check);
    assert_eq!(status, "ok");
    assert!(detail.starts_with("Not checked"), "{detail}");
    assert!(finding(&mut client, "jobs without worker public.executions").1.starts_with("Not checked"));
}

#[test]
fn running_jobs_that_nobody_settles_are_told() {
    let cluster = server();
    let database = cluster.database("orphans");
    let mut client = database.connect();
    beat(&mut client, "known");
    claim_jobs(&mut client, "known", 2);
    for check in ["jobs without worker public.executions", "jobs of unknown workers public.executions"] {
        assert_eq!(finding(&mut client, check).0, "ok");
    }
    claim_jobs(&mut client, "it's gone", 3);
    run(&mut client, "UPDATE executions SET worker_id = NULL WHERE worker_id = 'known' AND id = 1");
    let (status, detail, _) = finding(&mut client, "jobs without worker public.executions");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("1 running jobs have no worker"), "{detail}");
    let (status, detail, hint) = finding(&mut client, "jobs of unknown workers public.executions");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("3 running jobs belong to 1 workers"), "{detail}");
    run(&mut client, hint.split_once(": ").unwrap().1);
    assert_eq!(finding(&mut client, "jobs of unknown workers public.executions").0, "ok");
    assert_eq!(failed_jobs(&mut client, "it's gone"), 3);
}

#[test]
fn locked_jobs_of_a_dead_worker_are_told_with_the_process_that_locked_them() {
    let cluster = server();
    let database = cluster.database("heldjobs");
    let (mut client, mut other) = (database.connect(), database.connect());
    claim_jobs(&mut client, "victim", 3);
    run(&mut other, "BEGIN; SELECT FROM executions WHERE id < 3 FOR UPDATE");
    silent_worker(&mut client, "victim");
    await_death(&mut client, "victim");
    let (detail, hint) = await_status(&mut client, "locked jobs public.executions", "warning");
    let holder = pid_of_idle(&mut client);
    assert!(detail.ends_with(&format!("locked: 2 by process {holder}.")), "{detail}");
    run(&mut client, hint.split_once(": ").unwrap().1);
    await_status(&mut client, "locked jobs public.executions", "ok");
    wait_until("the jobs to be settled", || failed_jobs(&mut client, "victim") == 3);
}

/// The session of this database that has left a transaction open.
fn pid_of_idle(client: &mut Client) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
               AND state = 'idle in transaction'";
    ask(client, sql, &[])
}

#[test]
fn jobs_locked_by_a_prepared_transaction_are_told() {
    let cluster = server();
    let database = cluster.database("prepared");
    let mut client = database.connect();
    claim_jobs(&mut client, "victim", 1);
    run(&mut client, "BEGIN; SELECT FROM executions FOR UPDATE; PREPARE TRANSACTION 'holder'");
    silent_worker(&mut client, "victim");
    let (detail, hint) = await_status(&mut client, "locked jobs public.executions", "warning");
    assert!(detail.ends_with("1 by a prepared transaction."), "{detail}");
    assert!(hint.contains("ROLLBACK PREPARED"), "{hint}");
    run(&mut client, "ROLLBACK PREPARED 'holder'");
    await_status(&mut client, "locked jobs public.executions", "ok");
}

#[test]
fn tables_that_somebody_has_locked_are_not_waited_for() {
    let cluster = server();
    let database = cluster.database("shut");
    let (mut client, mut other) = (database.connect(), database.connect());
    run(&mut other, "BEGIN; LOCK TABLE executions, worker_heartbeats, rgrid_worker_deaths");
    run(&mut client, "SET statement_timeout = '10s'");
    let (status, detail, _) = finding(&mut client, "job table public.executions");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("Somebody has locked the whole table"), "{detail}");
    let (status, detail, _) = finding(&mut client, "future heartbeats");
    assert_eq!(status, "warning");
    assert!(detail.contains("could not be checked: canceling statement due to lock timeout"), "{detail}");
    run(&mut other, "ROLLBACK");
    await_status(&mut client, "future heartbeats", "ok");
}
