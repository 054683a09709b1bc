//! The flush: it writes what is in memory to the rows, and harms neither locked rows nor newer ones.

use super::*;
use std::time::Duration;

#[test]
fn a_flush_writes_the_time_of_the_last_heartbeat() {
    let cluster = flushing_server();
    let rgrid = cluster.rgrid_database("flushed_naive");
    upsert_like_python(&mut rgrid.connect(), "worker", HOUR);
    for database in [&cluster.database("flushed"), &rgrid] {
        let mut client = database.connect();
        known_worker(&mut client, "worker");
        let before = server_time(&mut client);
        assert!(beats_in_memory(&mut client, "worker"));
        let after = server_time(&mut client);
        await_written_since(&mut client, "worker", before);
        let row = row_time(&mut client, "worker").unwrap();
        assert!(before <= row && row <= after, "{row} is not in {before}..{after}");
    }
}

#[test]
fn a_flush_leaves_a_row_that_a_client_has_written_since() {
    let cluster = flushing_server();
    let database = cluster.database("newer");
    let mut client = database.connect();
    for worker in ["written", "witness"] {
        known_worker(&mut client, worker);
    }
    let soon =
        "UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp() WHERE worker_id = 'written'";
    run(&mut client, &format!("BEGIN; SELECT rgrid_heartbeat('written'); {soon}; COMMIT"));
    let row = row_time(&mut client, "written");
    beat_and_await_row(&mut client, "witness");
    assert_eq!(row_time(&mut client, "written"), row);
}

#[test]
fn a_flush_skips_locked_rows_and_takes_them_once_they_are_free() {
    let cluster = flushing_server();
    let database = cluster.database("locked");
    let (mut client, mut locker) = (database.connect(), database.connect());
    for worker in ["one", "two", "three"] {
        known_worker(&mut client, worker);
    }
    for strength in ["UPDATE", "KEY SHARE", "SHARE"] {
        run(
            &mut locker,
            &format!("BEGIN; SELECT FROM worker_heartbeats WHERE worker_id = 'two' FOR {strength}"),
        );
        let row = row_time(&mut client, "two");
        let since = server_time(&mut client);
        for worker in ["one", "two", "three"] {
            assert!(beats_in_memory(&mut client, worker), "{worker} waited for a row");
        }
        await_written_since(&mut client, "one", since);
        await_written_since(&mut client, "three", since);
        if strength != "KEY SHARE" {
            assert_eq!(row_time(&mut client, "two"), row, "a row was written that was locked FOR {strength}");
        }
        run(&mut locker, "COMMIT");
        await_written_since(&mut client, "two", since);
    }
}

#[test]
fn a_large_flush_pauses_between_its_parts_and_writes_them_all() {
    const WORKERS: i64 = 12_000;
    let cluster = still().start();
    let mut client = cluster.visited_database("many").connect();
    let ids = format!("SELECT array_agg('many-' || n) FROM generate_series(1, {WORKERS}) AS n");
    let everybody_beats = format!("SELECT count(*) FROM rgrid_heartbeat(({ids}))");
    run(&mut client, &everybody_beats);
    let since = server_time(&mut client);
    run(&mut client, &everybody_beats);
    run(&mut client, "ALTER SYSTEM SET rgrid_heartbeat.flush_interval = '2s'");
    run(&mut client, "SELECT pg_reload_conf()");
    let flushed = format!("flushed {WORKERS} heartbeats");
    let flush = [flushed.as_str(), "delayed for "];
    wait_until("the flush", || !cluster.log_lines_with(&flush).is_empty());
    let line = cluster.log_lines_with(&flush).remove(0);
    let delayed = line.rsplit("delayed for ").next().and_then(|time| time.strip_suffix(" ms"));
    assert!(delayed.unwrap().parse::<f64>().unwrap() > 0.0, "{line}");
    let written = "SELECT count(*) FROM worker_heartbeats WHERE last_heartbeat_at >= $1";
    assert_eq!(ask::<i64>(&mut client, written, &[&since]), WORKERS);
}

#[test]
fn a_worker_whose_row_was_deleted_registers_again_after_a_flush() {
    let cluster = flushing_server();
    let database = cluster.database("deleted");
    let mut client = database.connect();
    for delete in ["DELETE FROM worker_heartbeats WHERE worker_id = 'worker'", "TRUNCATE worker_heartbeats"] {
        for worker in ["worker", "bystander"] {
            known_worker(&mut client, worker);
        }
        run(&mut client, delete);
        wait_until("the row to be back", || {
            assert_eq!(beat(&mut client, "worker"), 1);
            beat(&mut client, "bystander");
            rows(&mut client, "worker") == 1
        });
        beat_and_await_row(&mut client, "worker");
        beat_and_await_row(&mut client, "bystander");
    }
}

#[test]
fn a_worker_that_a_cascade_deleted_is_told_by_its_foreign_key_after_a_flush() {
    let cluster = flushing_server();
    let database = cluster.rgrid_database("cascade");
    let mut client = database.connect();
    upsert_like_python(&mut client, "worker", Duration::ZERO);
    known_worker(&mut client, "worker");
    run(&mut client, "DELETE FROM workers");
    wait_until("the foreign key to refuse the worker", || {
        let refusal = client.execute("SELECT rgrid_heartbeat('worker')", &[]).err();
        refusal.is_some_and(|error| error.code().map(|code| code.code()) == Some("23503"))
    });
    upsert_like_python(&mut client, "worker", Duration::ZERO);
    known_worker(&mut client, "worker");
    beat_and_await_row(&mut client, "worker");
}

#[test]
fn with_nothing_to_flush_no_sweeper_is_started() {
    let cluster = flushing_server();
    let database = cluster.visited_database("idle");
    let mut client = database.connect();
    known_worker(&mut client, "worker");
    beat_and_await_row(&mut client, "worker");
    cluster.await_visit("idle");
    let started = cluster.sweepers_started("idle");
    stays(Duration::from_secs(1), "no sweeper without heartbeats", || {
        cluster.sweepers_started("idle") == started
    });
    beat_and_await_row(&mut client, "worker");
    assert!(cluster.sweepers_started("idle") > started, "one is started for a heartbeat");
}

#[test]
fn flushes_go_on_while_sweeping_is_disabled() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.flush_interval", "100ms");
    let cluster = cluster.setting("log_min_messages", "debug1").start();
    let (before, during) = (cluster.visited_database("before"), cluster.empty_database("during"));
    cluster.await_visit("during");
    cluster.set("rgrid_heartbeat.enabled", "off");
    let (mut before, mut during) = (before.connect(), during.connect());
    run(&mut during, "CREATE EXTENSION rgrid_heartbeat");
    for (client, worker) in [(&mut before, "known-before"), (&mut during, "created-then")] {
        known_worker(client, worker);
        beat_and_await_row(client, worker);
    }
}

#[test]
fn a_row_that_cannot_be_written_delays_no_other_heartbeat() {
    let cluster = flushing_server();
    let database = cluster.database("poisoned");
    let mut client = database.connect();
    for worker in ["bad", "good", "better"] {
        known_worker(&mut client, worker);
        age_row(&mut client, worker);
    }
    run(&mut client, "ALTER TABLE worker_heartbeats ADD CHECK (worker_id <> 'bad') NOT VALID");
    let before = server_time(&mut client);
    for worker in ["bad", "good", "better"] {
        assert!(beats_in_memory(&mut client, worker));
    }
    wait_until("the good rows to be written", || {
        ["good", "better"].into_iter().all(|worker| row_time(&mut client, worker).unwrap() >= before)
    });
    wait_until("the bad row to be reported", || {
        !cluster.log_lines_with(&["could not write heartbeats", "violates check constraint"]).is_empty()
    });
}
