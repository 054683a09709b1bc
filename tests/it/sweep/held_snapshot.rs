//! A snapshot that is held keeps every version of a row that a flush replaces. So flushes pause, and nothing else does.

use crate::cluster::*;
use postgres::Client;
use std::time::Duration;

fn flushes(client: &mut Client) -> i64 {
    ask(client, "SELECT flushes FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()", &[])
}

fn problem(client: &mut Client) -> Option<String> {
    ask(
        client,
        "SELECT max(sqlstate) FROM pg_stat_rgrid_problems WHERE problem = 'flush' AND datname = current_database()",
        &[],
    )
}

/// How many flushes there are in this time.
fn flushes_in(client: &mut Client, window: Duration) -> i64 {
    let before = flushes(client);
    stays(window, "flushes are counted", || true);
    flushes(client) - before
}

fn server() -> Cluster {
    Cluster::quick()
        .setting("rgrid_heartbeat.flush_interval", "50ms")
        .setting("rgrid_heartbeat.check_interval", "50ms")
        .setting("rgrid_heartbeat.stale_threshold", "1s")
        .setting("max_prepared_transactions", "2")
        .start()
}

#[test]
fn flushes_pause_while_a_snapshot_is_held_and_nobody_dies() {
    let cluster = server();
    let database = cluster.database("held");
    let mut client = database.connect();
    let _beats = Beating::calling(database.connect(), "w");
    wait_until("flushes", || flushes(&mut client) > 3);
    let mut report = database.connect();
    run(&mut report, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    run(&mut report, "SELECT count(*) FROM worker_heartbeats");
    wait_until("the pause to be told", || problem(&mut client).as_deref() == Some("55006"));
    let row = row_time(&mut client, "w");
    assert!(flushes_in(&mut client, Duration::from_millis(500)) <= 1, "a dozen otherwise");
    assert!(row < last_heard(&mut client, "w"), "memory has newer ones");
    assert_eq!(deaths(&mut client, "w"), 0);
    assert_eq!(cluster.log_lines_with(&["written to their rows less often"]).len(), 1, "said once");

    run(&mut report, "COMMIT");
    wait_until("flushes to go on", || flushes_in(&mut client, Duration::from_millis(500)) > 3);
    wait_until("the problem to end", || problem(&mut client).is_none());
    assert_eq!(deaths(&mut client, "w"), 0);
}

#[test]
fn a_prepared_transaction_counts_and_after_a_crash_rows_that_are_old_kill_nobody() {
    let cluster = server();
    let database = cluster.database("prepared");
    let mut client = database.connect();
    let beats = Beating::through_crashes(&database, "w");
    run(&mut client, "CREATE TABLE t (); BEGIN; DROP TABLE t; PREPARE TRANSACTION 'forgotten'");
    wait_until("the pause to be told", || problem(&mut client).is_some());
    cluster.crash();
    cluster.start();
    let mut client = database.connect();
    wait_until("flushes", || flushes(&mut client) > 1);
    assert_eq!(deaths(&mut client, "w"), 0, "its row was older than the threshold");
    run(&mut client, "ROLLBACK PREPARED 'forgotten'");
    drop(beats);
}
