//! Heartbeats in transactions that are rolled back, slow, read-only or isolated, and beside a sweep.

use super::*;
use std::thread;

#[test]
fn a_first_heartbeat_that_is_rolled_back_leaves_nothing() {
    let cluster = still_server();
    let database = cluster.visited_database("undone");
    let mut client = database.connect();
    for (worker, undo) in [
        ("all", "ROLLBACK"),
        ("part", "ROLLBACK TO s; COMMIT"),
        ("prepared", "PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'"),
        (
            "failed",
            "DO 'BEGIN RAISE division_by_zero; EXCEPTION WHEN OTHERS THEN END'; ROLLBACK TO s; COMMIT",
        ),
    ] {
        run(&mut client, "BEGIN; SAVEPOINT s");
        assert_eq!(beat(&mut client, worker), 1);
        run_each(&mut client, undo);
        assert_eq!(rows(&mut client, worker), 0, "{worker}");
        assert!(!beats_in_memory(&mut client, worker), "{worker} is known in memory but has no row");
        assert_eq!(rows(&mut client, worker), 1, "{worker}");
        known_worker(&mut client, worker);
    }
}

/// As an interactive session would: some commands refuse to be one of several in a message.
fn run_each(client: &mut Client, statements: &str) {
    if statements.starts_with("DO") {
        return run(client, statements);
    }
    for statement in statements.split(';') {
        run(client, statement);
    }
}

#[test]
fn a_heartbeat_in_memory_counts_although_it_is_rolled_back() {
    let cluster = still_server();
    let database = cluster.visited_database("counts");
    let mut client = database.connect();
    known_worker(&mut client, "worker");
    let before = server_time(&mut client);
    run(&mut client, "BEGIN");
    beat(&mut client, "worker");
    run(&mut client, "ROLLBACK");
    assert!(last_heard(&mut client, "worker") >= Some(before));
}

#[test]
fn a_slow_transaction_takes_no_later_heartbeat_back() {
    let cluster = still_server();
    let database = cluster.visited_database("overtaken");
    let (mut slow, mut quick) = (database.connect(), database.connect());
    known_worker(&mut quick, "worker");
    run(&mut slow, "BEGIN");
    run(&mut slow, "SELECT rgrid_heartbeat('worker', 'another-host')");
    // The row is locked now, and the worker's other heartbeats do not wait for it.
    run(&mut quick, "SET lock_timeout = '1ms'");
    let later = server_time(&mut quick);
    assert!(beats_in_memory(&mut quick, "worker"));
    run(&mut slow, "COMMIT");
    assert!(last_heard(&mut quick, "worker") >= Some(later), "a heartbeat was forgotten");
}

#[test]
fn a_repeatable_read_transaction_beats_in_memory_while_its_worker_lives() {
    let cluster = still_server();
    let database = cluster.visited_database("snapshot");
    let (mut long, mut other) = (database.connect(), database.connect());
    known_worker(&mut long, "worker");
    run(&mut long, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM worker_heartbeats");
    assert!(beats_in_memory(&mut long, "worker"));
    let before = server_time(&mut long);
    assert!(beats_in_memory(&mut long, "worker"));
    assert!(last_heard(&mut other, "worker") >= Some(before), "others see it at once");
    sweep_away(&mut other, "worker");

    match long.query_one("SELECT rgrid_heartbeat('worker')", &[]) {
        Ok(row) => assert_eq!(row.get::<_, i64>(0), 2, "the incarnation of before its death"),
        Err(error) => assert_eq!(error.code().map(|code| code.code()), Some("40001"), "{error:?}"),
    }
    run(&mut long, "ROLLBACK");
    assert_eq!(beat(&mut long, "worker"), 2);
    known_worker(&mut long, "worker");
    assert_eq!(ledger(&mut long, "worker"), ["1 stale 0 returned"]);
}

#[test]
fn a_heartbeat_during_a_sweep_of_its_worker_waits_for_the_sweeps_outcome() {
    let cluster = still_server();
    let database = cluster.visited_database("judged");
    let mut sweep = database.connect();
    run(&mut sweep, "SET rgrid_heartbeat.stale_threshold = '200ms'");
    for (outcome, incarnation, failed) in [("ROLLBACK", 1, 0), ("COMMIT", 2, 2)] {
        known_worker(&mut sweep, "worker");
        claim_jobs(&mut sweep, "worker", 1);
        sweep_and_stay(&mut sweep);
        let mut worker = database.connect();
        let process = pid(&mut worker);
        let answer = thread::spawn(move || beat(&mut worker, "worker"));
        await_waiting(&cluster, process, "Lock");
        run(&mut sweep, outcome);
        assert_eq!(answer.join().expect("the heartbeat is answered"), incarnation, "{outcome}");
        assert_eq!(failed_jobs(&mut sweep, "worker"), failed, "{outcome}");
        known_worker(&mut sweep, "worker");
    }
    assert_eq!(ledger(&mut sweep, "worker"), ["1 stale 2 returned"]);
}

/// Declares the one worker dead in a transaction that stays open.
fn sweep_and_stay(client: &mut Client) {
    wait_until("a sweep that finds the worker", || {
        run(client, "BEGIN");
        let found: i64 = ask(client, "SELECT count(*) FROM rgrid_sweep()", &[]);
        if found == 0 {
            run(client, "ROLLBACK");
        }
        found == 1
    });
}

#[test]
fn a_read_only_transaction_is_refused_for_known_workers_too() {
    let cluster = still_server();
    let database = cluster.visited_database("readonly");
    let mut client = database.connect();
    known_worker(&mut client, "worker");
    let heard = last_heard(&mut client, "worker");
    run(&mut client, "BEGIN READ ONLY");
    let refusal = client.execute("SELECT rgrid_heartbeat('worker')", &[]).unwrap_err();
    let refusal = refusal.as_db_error().expect("an error of the server");
    assert_eq!(refusal.code().code(), "25006");
    assert_eq!(refusal.message(), "cannot execute rgrid_heartbeat() in a read-only transaction");
    run(&mut client, "ROLLBACK");
    assert_eq!(last_heard(&mut client, "worker"), heard);
}

#[test]
fn a_deregistration_that_is_rolled_back_forgets_no_heartbeat() {
    let cluster = still_server();
    let database = cluster.visited_database("rolled_back");
    let mut client = database.connect();
    known_worker(&mut client, "w1");
    age_row(&mut client, "w1");
    let before = server_time(&mut client);
    assert!(beats_in_memory(&mut client, "w1"));
    run(&mut client, "BEGIN; SELECT rgrid_deregister('w1'); ROLLBACK");
    assert!(last_heard(&mut client, "w1").unwrap() >= before);
    assert_eq!(beat(&mut client, "w1"), 1);
    known_worker(&mut client, "w1");
}
