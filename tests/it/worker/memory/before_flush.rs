//! What is known of a worker before its heartbeat is written to its row.

use super::*;

#[test]
fn a_worker_that_beats_in_memory_is_alive_however_old_its_row() {
    let cluster = still_server();
    let database = cluster.visited_database("exact");
    let mut client = database.connect();
    for worker in ["beating", "fallen-silent"] {
        known_worker(&mut client, worker);
        age_row(&mut client, worker);
    }
    let listed = "SELECT count(*) FROM rgrid_stale_workers(interval '10 minutes')";
    assert_eq!(ask::<i64>(&mut client, listed, &[]), 0, "stale by the row only");
    let dead = "SELECT coalesce(string_agg(worker_id, ',' ORDER BY worker_id), '') FROM rgrid_sweep(true)";
    assert_eq!(ask::<String>(&mut client, dead, &[]), "");

    run(&mut client, "SET rgrid_heartbeat.stale_threshold = '1s'");
    let _beats = Beating::calling(database.connect(), "beating");
    wait_until("the silent worker in a dry run", || {
        let found: String = ask(&mut client, dead, &[]);
        assert!(["", "fallen-silent"].contains(&found.as_str()), "found dead: {found}");
        found == "fallen-silent"
    });
    run(&mut client, "SELECT rgrid_sweep()");
    assert_eq!((deaths(&mut client, "fallen-silent"), deaths(&mut client, "beating")), (1, 0));
}

#[test]
fn a_sweep_by_hand_tells_the_last_heartbeat_and_not_the_age_of_the_row() {
    let cluster = still_server();
    let database = cluster.visited_database("told");
    let mut client = database.connect();
    known_worker(&mut client, "worker");
    age_row(&mut client, "worker");
    let heard = last_heard(&mut client, "worker");
    run(&mut client, "SET rgrid_heartbeat.stale_threshold = '200ms'");
    for call in ["rgrid_sweep(true)", "rgrid_sweep()"] {
        let sql = format!("SELECT max(last_heartbeat_at) FROM {call}");
        let mut told = None;
        wait_until("the worker in a sweep", || {
            told = ask(&mut client, &sql, &[]);
            told.is_some()
        });
        assert_eq!(told, heard, "{call}");
    }
    let noted = ask(&mut client, "SELECT last_heartbeat_at FROM rgrid_worker_deaths", &[]);
    assert_eq!(Some(noted), heard, "the ledger");
}

#[test]
fn the_newer_of_row_and_memory_is_the_truth() {
    let cluster = still_server();
    let database = cluster.visited_database("two_truths");
    let mut client = database.connect();
    known_worker(&mut client, "worker");
    run(&mut client, "UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp()");
    assert_eq!(last_heard(&mut client, "worker"), row_time(&mut client, "worker"), "written by a client");
    beat(&mut client, "worker");
    assert!(last_heard(&mut client, "worker") > row_time(&mut client, "worker"), "beaten since");
}
