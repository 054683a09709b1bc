//! Heartbeats in transactions that end in two phases, and in savepoints: memory learns of what was committed, and of
//! nothing else.

use super::*;

/// How many workers of this database are in memory.
fn entries(client: &mut Client) -> i64 {
    let sql = "SELECT buffer_entries FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    ask(client, sql, &[])
}

/// A call in a transaction that is prepared under this name; the session goes on to a transaction that commits.
fn prepare(client: &mut Client, name: &str, call: &str) {
    let prepare = format!("PREPARE TRANSACTION '{name}'");
    for statement in ["BEGIN", call, &prepare, "CREATE TABLE commits ()", "DROP TABLE commits"] {
        run(client, statement);
    }
}

#[test]
fn a_first_heartbeat_that_is_prepared_is_in_no_later_commit() {
    let cluster = still_server();
    let database = cluster.visited_database("two_phases");
    let mut client = database.connect();
    prepare(&mut client, "two_phases", "SELECT rgrid_heartbeat('undone')");
    assert_eq!(entries(&mut client), 0, "while it is prepared");
    run(&mut client, "ROLLBACK PREPARED 'two_phases'");
    assert_eq!((entries(&mut client), rows(&mut client, "undone")), (0, 0));

    prepare(&mut client, "two_phases", "SELECT rgrid_heartbeat('worker')");
    run(&mut client, "COMMIT PREPARED 'two_phases'");
    assert_eq!((entries(&mut client), rows(&mut client, "worker")), (0, 1));
    let state = "SELECT state FROM rgrid_workers WHERE worker_id = 'worker'";
    assert_eq!(ask::<String>(&mut client, state, &[]), "alive");
    assert_eq!(beat(&mut client, "worker"), 1);
    assert_eq!(entries(&mut client), 1);
    assert!(beats_in_memory(&mut client, "worker"));
}

#[test]
fn a_registration_that_is_prepared_and_rolled_back_leaves_nothing() {
    let cluster = still_server();
    let database = cluster.visited_database("unregistered");
    let mut client = database.connect();
    prepare(&mut client, "unregistered", "SELECT rgrid_register('worker')");
    assert_eq!(entries(&mut client), 0, "while it is prepared");
    run(&mut client, "ROLLBACK PREPARED 'unregistered'");
    assert_eq!((entries(&mut client), rows(&mut client, "worker")), (0, 0));
    let register = "SELECT incarnation FROM rgrid_register('worker')";
    assert_eq!(ask::<i64>(&mut client, register, &[]), 1, "its first one");
}

#[test]
fn a_deregistration_that_is_prepared_and_rolled_back_forgets_no_heartbeat() {
    let cluster = still_server();
    let database = cluster.visited_database("stays_known");
    let mut client = database.connect();
    known_worker(&mut client, "worker");
    prepare(&mut client, "stays_known", "SELECT rgrid_deregister('worker')");
    run(&mut client, "ROLLBACK PREPARED 'stays_known'");
    assert_eq!(entries(&mut client), 1);
    assert!(beats_in_memory(&mut client, "worker"));
}

#[test]
fn a_prepared_sweep_is_neither_logged_nor_counted_by_a_later_commit() {
    let cluster = still_server();
    let database = cluster.visited_database("unswept");
    let mut client = database.connect();
    silent_worker(&mut client, "unswept");
    run(&mut client, "SET rgrid_heartbeat.stale_threshold = '200ms'");
    let found = "SELECT count(*) = 1 FROM rgrid_sweep(dry_run => true)";
    wait_until("a sweep that may judge", || ask(&mut client, found, &[]));
    prepare(&mut client, "unswept", "SELECT rgrid_sweep()");
    run(&mut client, "ROLLBACK PREPARED 'unswept'");
    let counted = "SELECT deaths FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    assert_eq!(ask::<i64>(&mut client, counted, &[]), 0);
    assert_eq!(cluster.log_lines_with(&["\"unswept\"", "declared dead"]).len(), 0);
}

#[test]
fn a_first_heartbeat_in_a_savepoint_counts_when_all_around_it_is_kept() {
    let cluster = still_server();
    let database = cluster.visited_database("savepoints");
    let mut client = database.connect();
    for (worker, statements, is_kept) in [
        ("released", "SAVEPOINT a; @; RELEASE a", true),
        ("after-one-undone", "SAVEPOINT a; SELECT 1; ROLLBACK TO a; @", true),
        ("inner-released", "SAVEPOINT a; SAVEPOINT b; @; RELEASE b; RELEASE a", true),
        ("inner-undone", "SAVEPOINT a; SAVEPOINT b; @; ROLLBACK TO b; RELEASE a", false),
        ("outer-undone", "SAVEPOINT a; SAVEPOINT b; @; RELEASE b; ROLLBACK TO a", false),
        ("beside-one-undone", "SAVEPOINT a; @; RELEASE a; SAVEPOINT a; SELECT 1; ROLLBACK TO a", true),
    ] {
        let before = entries(&mut client);
        let statements = statements.replace('@', &format!("SELECT rgrid_heartbeat('{worker}')"));
        run(&mut client, &format!("BEGIN; {statements}; COMMIT"));
        let kept = (entries(&mut client) - before, rows(&mut client, worker));
        assert_eq!(kept, if is_kept { (1, 1) } else { (0, 0) }, "{worker}");
    }
}
