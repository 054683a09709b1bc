//! Heartbeats in shared memory and the flush that writes their rows: what a heartbeat costs, what is known
//! before and after a flush, and how the two stay together through rollbacks, deletions and crashes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;

use chrono::{DateTime, Utc};
use cluster::*;
use postgres::Client;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

/// Neither flushes nor sweeps, unless a test says so: what is in memory stays there.
fn still() -> Builder {
    Cluster::builder()
        .setting("rgrid_heartbeat.check_interval", "1h")
        .setting("rgrid_heartbeat.flush_interval", "1h")
        .setting("log_min_messages", "debug1")
        .setting("autovacuum", "off")
}

fn still_server() -> Shared {
    static SERVER: OnceLock<Cluster> = OnceLock::new();
    Shared::of(&SERVER, still)
}

/// Flushes every 100 ms and never sweeps.
fn flushing_server() -> Shared {
    static SERVER: OnceLock<Cluster> = OnceLock::new();
    Shared::of(&SERVER, || still().setting("rgrid_heartbeat.flush_interval", "100ms"))
}

/// Returns when the worker's row has a heartbeat that is not older than `since`.
fn await_written_since(client: &mut Client, worker: &str, since: DateTime<Utc>) {
    wait_until(&format!("a heartbeat of {worker} in its row"), || row_time(client, worker) >= Some(since));
}

/// One heartbeat, in memory, and its way to the row.
fn beat_and_await_row(client: &mut Client, worker: &str) {
    let since = server_time(client);
    assert!(beats_in_memory(client, worker), "{worker} should be known in memory");
    await_written_since(client, worker, since);
}

fn forget_row(client: &mut Client, worker: &str) {
    client.execute("DELETE FROM worker_heartbeats WHERE worker_id = $1", &[&worker]).expect("a row can go");
}

fn rows(client: &mut Client, worker: &str) -> i64 {
    ask(client, "SELECT count(*) FROM worker_heartbeats WHERE worker_id = $1", &[&worker])
}

// What a heartbeat costs.

#[test]
fn a_thousand_heartbeats_write_no_wal_assign_no_xid_and_leave_the_row_until_the_flush() {
    let cluster = still().start();
    let database = cluster.visited_database("steady");
    let mut client = database.connect();
    known_worker(&mut client, "worker");
    let row = row_time(&mut client, "worker");
    // The server's own processes write, too, now and then: one thousand without a byte is proof enough.
    wait_until("a thousand heartbeats without a byte of WAL", || {
        wal_of(&mut client, a_thousand_beats_in_one_transaction) == 0
    });
    assert_eq!(row_time(&mut client, "worker"), row, "the row was written before a flush");
    assert!(wal_of(&mut client, |client| age_row(client, "worker")) > 0, "a written row would show");

    let before = server_time(&mut client);
    assert_eq!(beat(&mut client, "worker"), 1);
    let after = server_time(&mut client);
    cluster.set("rgrid_heartbeat.flush_interval", "100ms");
    await_written_since(&mut client, "worker", before);
    let row = row_time(&mut client, "worker").unwrap();
    assert!(before <= row && row <= after, "the row has {row}, the heartbeat was in {before}..{after}");
}

fn a_thousand_beats_in_one_transaction(client: &mut Client) {
    let mut transaction = client.transaction().unwrap();
    let beat = transaction.prepare("SELECT rgrid_heartbeat('worker')").unwrap();
    for _ in 0..1_000 {
        assert_eq!(transaction.query_one(&beat, &[]).unwrap().get::<_, i64>(0), 1);
    }
    let xid = transaction.query_one("SELECT txid_current_if_assigned() IS NULL", &[]).unwrap();
    assert!(xid.get::<_, bool>(0), "a heartbeat assigned a transaction id");
    transaction.commit().unwrap();
}

/// Bytes of WAL that the whole server wrote meanwhile.
fn wal_of(client: &mut Client, work: impl FnOnce(&mut Client)) -> i64 {
    let position = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let before: i64 = ask(client, position, &[]);
    work(client);
    ask::<i64>(client, position, &[]) - before
}

#[test]
fn one_call_for_many_known_workers_assigns_no_xid_and_answers_in_their_order() {
    let cluster = still_server();
    let database = cluster.visited_database("agents");
    let mut client = database.connect();
    beat(&mut client, "w007");
    sweep_away(&mut client, "w007");
    let many = "array_agg('w' || lpad(n::text, 3, '0') ORDER BY n DESC) FROM generate_series(1, 300) n";
    let answers = format!(
        "SELECT string_agg(incarnation::text, '' ORDER BY place) FROM
             (SELECT {many}) AS w (ids), rgrid_heartbeat(w.ids, 'host')
                 WITH ORDINALITY AS a (incarnation, place)"
    );
    let wanted: String = (1..=300).rev().map(|n| if n == 7 { '2' } else { '1' }).collect();
    assert_eq!(ask::<String>(&mut client, &answers, &[]), wanted);
    let rows: i64 = ask(&mut client, "SELECT count(*) FROM worker_heartbeats WHERE hostname = 'host'", &[]);
    assert_eq!(rows, 300);
    wait_until("a call for three hundred known workers without a transaction id", || {
        run(&mut client, "BEGIN");
        assert_eq!(ask::<String>(&mut client, &answers, &[]), wanted);
        let without = ask(&mut client, "SELECT pg_current_xact_id_if_assigned() IS NULL", &[]);
        run(&mut client, "COMMIT");
        without
    });
}

#[test]
fn a_call_with_one_bad_id_hears_none_of_the_others() {
    let cluster = still_server();
    let database = cluster.visited_database("refusals");
    let mut client = database.connect();
    known_worker(&mut client, "known");
    let heard = last_heard(&mut client, "known");
    for (bad, code) in [("NULL", "22004"), ("''", "22023"), ("E'a\\nb'", "22023")] {
        let call = format!("SELECT rgrid_heartbeat(ARRAY['known', 'new', {bad}])");
        assert_eq!(sqlstate(&mut client, &call), code, "{bad}");
    }
    assert_eq!(last_heard(&mut client, "known"), heard);
    assert_eq!(rows(&mut client, "new"), 0);
}

// What is known before the flush.

#[test]
fn who_beats_in_memory_is_alive_however_old_the_row() {
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

// Transactions.

#[test]
fn a_first_heartbeat_that_is_rolled_back_leaves_nothing_and_the_next_one_registers() {
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
fn a_heartbeat_of_a_known_worker_counts_although_its_transaction_is_rolled_back() {
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
fn a_repeatable_read_transaction_beats_in_memory_as_long_as_its_worker_lives() {
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

// Who has an entry.

#[test]
fn a_new_hostname_goes_to_the_row_at_once_and_only_then() {
    let cluster = still_server();
    let database = cluster.visited_database("hosts");
    let mut client = database.connect();
    let mut call = |host: &str| -> (bool, String) {
        let sql = "SELECT rgrid_heartbeat('worker', $1) = 1 AND pg_current_xact_id_if_assigned() IS NULL";
        let in_memory = ask(&mut client, sql, &[&host]);
        (in_memory, ask(&mut client, "SELECT hostname FROM worker_heartbeats", &[]))
    };
    for host in ["one", "two", "zwö"] {
        assert_eq!(call(host), (false, host.into()));
        assert_eq!(call(host), (true, host.into()));
    }
    assert!(beats_in_memory(&mut client, "worker"), "no hostname is no other hostname");
    assert_eq!(ask::<String>(&mut client, "SELECT hostname FROM worker_heartbeats", &[]), "zwö");
}

#[test]
fn ids_of_up_to_64_bytes_are_kept_in_memory_and_longer_ones_are_as_correct() {
    let cluster = still_server();
    let database = cluster.visited_database("ids");
    let mut client = database.connect();
    let ids = [
        ("x".repeat(64), true),
        ("x".repeat(65), false),
        ("x".repeat(255), false),
        ("ä".repeat(32), true),
        ("ä".repeat(33), false),
        (format!("x{}", "ä".repeat(32)), false),
        ("働".repeat(255), false),
        (" x ".into(), true),
        ("x".into(), true),
    ];
    for (id, _) in &ids {
        assert!(!beats_in_memory(&mut client, id), "the first heartbeat of {id}");
    }
    for (id, fits) in &ids {
        let before = server_time(&mut client);
        assert_eq!(beats_in_memory(&mut client, id), *fits, "{id}");
        assert!(last_heard(&mut client, id) >= Some(before), "{id}");
    }
    sweep_away(&mut client, &ids[1].0);
    assert_eq!(beat(&mut client, &ids[1].0), 2);
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_heartbeat(repeat('x', 256))"), "22023");
}

#[test]
fn the_same_ids_in_two_databases_are_different_workers() {
    let cluster = still_server();
    let databases = [cluster.visited_database("here"), cluster.visited_database("there")];
    let [mut here, mut there] = databases.each_ref().map(Database::connect);
    known_worker(&mut here, "worker");
    assert!(!beats_in_memory(&mut there, "worker"), "known in the other database only");
    let heard = last_heard(&mut there, "worker");
    known_worker(&mut here, "worker");
    assert_eq!(last_heard(&mut there, "worker"), heard);
    sweep_away(&mut here, "worker");
    assert!(beats_in_memory(&mut there, "worker"));
    assert_eq!((beat(&mut here, "worker"), beat(&mut there, "worker")), (2, 1));
    assert_eq!(deaths(&mut there, "worker"), 0);
}

#[test]
fn a_worker_that_deregistered_is_no_longer_known() {
    let cluster = still_server();
    let database = cluster.visited_database("leaving");
    let mut client = database.connect();
    for (end, stays) in [("ROLLBACK", 1), ("COMMIT", 0)] {
        known_worker(&mut client, "worker");
        run(&mut client, "BEGIN; SELECT rgrid_deregister('worker')");
        run(&mut client, end);
        assert_eq!(rows(&mut client, "worker"), stays, "{end}");
        assert!(!beats_in_memory(&mut client, "worker"), "{end}");
        assert_eq!(rows(&mut client, "worker"), 1, "{end}");
    }
}

// The flush.

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
fn a_flush_of_very_many_heartbeats_rests_between_its_parts_and_writes_them_all() {
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
    let flush = [flushed.as_str(), "rested for "];
    wait_until("the flush", || !cluster.log_lines_with(&flush).is_empty());
    let line = cluster.log_lines_with(&flush).remove(0);
    let rested = line.rsplit("rested for ").next().and_then(|rest| rest.strip_suffix(" ms"));
    assert!(rested.unwrap().parse::<f64>().unwrap() > 0.0, "{line}");
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
fn flushes_go_on_while_sweeping_is_disabled_also_of_an_extension_created_then() {
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

// Capacity.

const CAPACITY: usize = 100;
const WORKERS: i64 = 250;

#[test]
fn more_workers_than_fit_are_all_heard_and_the_log_says_so_once() {
    let cluster = Cluster::quick()
        .setting("rgrid_heartbeat.max_workers", &CAPACITY.to_string())
        .setting("rgrid_heartbeat.flush_interval", "100ms")
        .setting("rgrid_heartbeat.stale_threshold", "4s")
        .start();
    let database = cluster.database("overfull");
    let mut client = database.connect();
    let beats = Beating::start(database.connect(), everyone_beats);
    await_sweep(&mut client, "somebody-dead");
    assert_eq!(deaths_of_others(&mut client), 0);
    drop(beats);
    let in_memory = (1..=WORKERS).filter(|n| beats_in_memory(&mut client, &format!("worker-{n}"))).count();
    assert_eq!(in_memory, CAPACITY);

    let began = server_time(&mut client);
    everyone_beats(&mut client);
    wait_until("all rows to be written", || {
        let sql = "SELECT count(*) FROM worker_heartbeats
                   WHERE worker_id LIKE 'worker-%' AND last_heartbeat_at >= $1";
        ask::<i64>(&mut client, sql, &[&began]) == WORKERS
    });
    wait_until("everybody's death", || deaths_of_others(&mut client) == WORKERS);
    let warnings = cluster.log_lines_with(&["WARNING:", "do not fit in shared memory"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

fn everyone_beats(client: &mut Client) {
    let sql = "SELECT count(*) FROM rgrid_heartbeat(
                   (SELECT array_agg('worker-' || n) FROM generate_series(1, $1::bigint) n)) AS incarnation
               WHERE incarnation = 1";
    assert_eq!(ask::<i64>(client, sql, &[&WORKERS]), WORKERS);
}

fn deaths_of_others(client: &mut Client) -> i64 {
    ask(client, "SELECT count(*) FROM rgrid_worker_deaths WHERE worker_id LIKE 'worker-%'", &[])
}

/// A server with room for two workers.
fn tiny() -> Cluster {
    let builder = Cluster::quick().setting("rgrid_heartbeat.max_workers", "2");
    builder.setting("rgrid_heartbeat.flush_interval", "100ms").start()
}

/// Proof that there are two free slots: two workers nobody has heard of come to beat in memory.
fn await_two_free_slots(client: &mut Client, names: [&str; 2]) {
    wait_until(&format!("room in memory for {names:?}"), || {
        let in_memory = names.map(|worker| beats_in_memory(client, worker));
        in_memory == [true, true]
    });
}

#[test]
fn dropped_databases_and_extensions_leave_their_memory_to_others() {
    let cluster = tiny();
    for round in 1..=3 {
        let database = cluster.database(&format!("short_lived_{round}"));
        let mut client = database.connect();
        await_two_free_slots(&mut client, ["a", "b"]);
        run(&mut client, "DROP EXTENSION rgrid_heartbeat");
        run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
        await_two_free_slots(&mut client, ["c", "d"]);
    }
    let database = cluster.database("without");
    let mut client = database.connect();
    await_two_free_slots(&mut client, ["a", "b"]);
    run(&mut client, "DROP EXTENSION rgrid_heartbeat");
    let other = cluster.database("other");
    await_two_free_slots(&mut other.connect(), ["c", "d"]);
}

#[test]
fn deleted_and_dead_workers_that_never_beat_again_leave_their_memory_to_others() {
    let cluster = tiny();
    let database = cluster.database("cleared");
    let mut client = database.connect();
    await_two_free_slots(&mut client, ["a", "b"]);
    await_death(&mut client, "a");
    await_death(&mut client, "b");
    await_two_free_slots(&mut client, ["c", "d"]);
    for worker in ["c", "d"] {
        beat_and_await_row(&mut client, worker);
        forget_row(&mut client, worker);
    }
    await_two_free_slots(&mut client, ["e", "f"]);
}

// Crashes and restarts, and servers without shared memory.

#[test]
fn the_crash_of_a_beating_backend_kills_no_worker_and_the_rows_catch_up() {
    const BEATING: [&str; 3] = ["one", "two", "three"];
    let cluster = Cluster::quick().setting("rgrid_heartbeat.flush_interval", "100ms").start();
    let database = cluster.database("crash");
    let _beats = BEATING.map(|worker| Beating::through_crashes(&database, worker));
    for _ in 0..2 {
        let mut busy = database.connect();
        let process = pid(&mut busy);
        let endless = "DO 'BEGIN LOOP PERFORM rgrid_heartbeat(''busy''); COMMIT; END LOOP; END'";
        let busy = thread::spawn(move || busy.batch_execute(endless).is_err());
        wait_until("the busy worker's row", || rows(&mut database.connect(), "busy") == 1);
        cluster.crash_backend(process);
        assert!(busy.join().expect("the session ends"), "the loop cannot end well");

        let mut client = database.connect();
        let crashed = server_time(&mut client);
        for worker in BEATING {
            wait_until("the row to catch up", || row_time(&mut client, worker) > Some(crashed));
            wait_until("heartbeats in memory", || beats_in_memory(&mut client, worker));
        }
        beat(&mut client, "busy");
        forget_row(&mut client, "busy");
    }
    let mut client = database.connect();
    await_sweep(&mut client, "silent");
    for worker in BEATING {
        assert_eq!((deaths(&mut client, worker), beat(&mut client, worker)), (0, 1), "{worker}");
    }
}

#[test]
fn a_restart_with_old_rows_kills_nobody() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.flush_interval", "1h").start();
    for mode in ["fast", "immediate"] {
        let database = cluster.database(mode);
        let mut client = database.connect();
        beat(&mut client, "worker");
        age_row(&mut client, "worker");
        cluster.restart(mode);
        let mut client = database.connect();
        let started = server_time(&mut client);
        assert!(!beats_in_memory(&mut client, "worker"), "nothing is known in memory after a restart");
        assert!(row_time(&mut client, "worker") >= Some(started));
        let _beats = Beating::calling(database.connect(), "worker");
        await_sweep(&mut client, "silent");
        assert_eq!((deaths(&mut client, "worker"), beat(&mut client, "worker")), (0, 1));
    }
}

#[test]
fn heartbeats_answer_the_same_with_and_without_shared_memory() {
    let start = |builder: Builder| {
        builder
            .setting("rgrid_heartbeat.check_interval", "1h")
            .setting("rgrid_heartbeat.stale_threshold", "500ms")
            .start()
    };
    let in_memory = story(&start(Cluster::builder()), true);
    let unloaded = story(&start(Cluster::builder().preload(false)), false);
    let without = story(&start(Cluster::builder().setting("rgrid_heartbeat.max_workers", "0")), false);
    assert_eq!(unloaded, in_memory, "not preloaded");
    assert_eq!(without, in_memory, "max_workers = 0");
    assert!(in_memory.contains(&r#"one 2 ["1 stale 2 returned"]"#.to_owned()), "{in_memory:?}");
}

/// Lives of a few workers; all the answers. Everybody who does not beat meanwhile dies at each sweep by hand.
fn story(cluster: &Cluster, in_memory: bool) -> Vec<String> {
    let database = cluster.database("story");
    let mut client = database.connect();
    let mut told = Vec::new();
    for call in [
        "SELECT rgrid_heartbeat('one')",
        "SELECT rgrid_heartbeat('one')",
        "SELECT rgrid_heartbeat('one', 'host')",
        "SELECT incarnation FROM rgrid_register('two', 'host')",
        "SELECT incarnation FROM rgrid_register('two')",
        "SELECT sum(a)::bigint FROM rgrid_heartbeat(ARRAY['one', 'two', 'three'], 'other') a",
        "SELECT count(*) FROM worker_heartbeats WHERE hostname = 'other'",
        "SELECT rgrid_deregister('three')::int::bigint",
        "SELECT rgrid_heartbeat('three')",
        "SELECT count(*) FROM rgrid_stale_workers(interval '1 minute')",
    ] {
        told.push(format!(
            "{} {}",
            if told.is_empty() { "one" } else { call },
            ask::<i64>(&mut client, call, &[])
        ));
    }
    run(&mut client, "BEGIN");
    told.push(beat(&mut client, "undone").to_string());
    run(&mut client, "ROLLBACK");
    told.push(rows(&mut client, "undone").to_string());
    claim_jobs(&mut client, "one", 2);
    sweep_away_all(&mut client, 3);
    for worker in ["one", "one", "two", "three"] {
        told.push(format!("{worker} {} {:?}", beat(&mut client, worker), ledger(&mut client, worker)));
    }
    told.push(failed_jobs(&mut client, "one").to_string());
    for bad in ["NULL::text", "''", "NULL::text[]"] {
        told.push(sqlstate(&mut client, &format!("SELECT rgrid_heartbeat({bad})")));
    }
    assert_eq!(beats_in_memory(&mut client, "one"), in_memory);
    told
}

fn sweep_away_all(client: &mut Client, wanted: i64) {
    wait_until("a sweep by hand that finds everybody", || {
        run(client, "SELECT rgrid_sweep()");
        let dead: i64 =
            ask(client, "SELECT count(*) FROM rgrid_worker_deaths WHERE returned_at IS NULL", &[]);
        dead == wanted
    });
}
