//! Checks of the server: its launcher, its memory, its version and its sweepers.

use super::*;

#[test]
fn a_library_that_is_not_preloaded_is_an_error() {
    let cluster = busy().preload(false).start();
    let database = cluster.database("unloaded");
    let mut client = database.connect();
    let (status, _, hint) = finding(&mut client, "preload");
    assert_eq!(status, "error");
    assert!(hint.contains("SET shared_preload_libraries = rgrid_heartbeat;"), "{hint}");
    let failing =
        "SELECT string_agg(check_name || ' ' || status, ', ') FROM rgrid_health() WHERE status <> 'ok'";
    assert_eq!(ask::<String>(&mut client, failing, &[]), "preload error, launcher error, sweeper error");
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
    let cluster = busy().start();
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
    assert!(detail.starts_with("The last problem is over: column"), "{detail}");
}

#[test]
fn parallel_queries_that_may_take_all_worker_slots_are_a_warning() {
    let cluster =
        Cluster::quick().setting("max_worker_processes", "8").setting("max_parallel_workers", "8").start();
    let mut client = cluster.database("hogged").connect();
    let (detail, hint) = await_status(&mut client, "worker slots", "warning");
    assert!(detail.contains("Parallel queries may take 8 of them"), "{detail}");
    // The launchers of the extension and of logical replication, and three sweepers.
    assert!(hint.contains("SET max_worker_processes = 13"), "{hint}");
}

#[test]
fn a_template_says_that_it_is_not_swept() {
    let cluster = server();
    let database = cluster.database("pattern");
    let mut client = database.connect();
    run(&mut client, "ALTER DATABASE pattern IS_TEMPLATE true");
    let (status, detail, hint) = finding(&mut client, "sweeper");
    assert_eq!(
        (status.as_str(), detail.as_str()),
        ("error", "This database is a template, and templates are not swept.")
    );
    run(&mut client, &hint);
    await_status(&mut client, "sweeper", "ok");
}
