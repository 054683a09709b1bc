//! Memory is filled from the rows after a start, and nobody is judged before.

use super::*;
use std::thread;
use std::time::Duration;

/// Heartbeats that went to their rows since the server started.
fn in_rows(client: &mut Client) -> i64 {
    let sql = "SELECT heartbeats_in_row FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    ask(client, sql, &[])
}

fn await_entries(client: &mut Client, wanted: i64) {
    wait_until(&format!("memory with {wanted} workers"), || entries(client) == wanted);
}

/// First heartbeats of `w1`, `w2` and so on, from two hosts and one that is not known.
fn make_known(client: &mut Client, workers: i32) {
    let sql = "SELECT count(rgrid_heartbeat('w' || n, (ARRAY[NULL, 'one', 'two'])[1 + n % 3]))
               FROM generate_series(1, $1) AS n";
    ask::<i64>(client, sql, &[&workers]);
}

/// Calls of all workers of [`make_known`]; how many of them answered this number.
fn answering(client: &mut Client, workers: i32, incarnation: i64) -> i64 {
    let sql = "SELECT count(*) FROM generate_series(1, $1) AS n
               WHERE rgrid_heartbeat('w' || n, (ARRAY[NULL, 'one', 'two'])[1 + n % 3]) = $2";
    ask(client, sql, &[&workers, &incarnation])
}

#[test]
fn after_a_crash_heartbeats_are_taken_by_memory() {
    let cluster = still().start();
    let database = cluster.visited_database("warm");
    make_known(&mut database.connect(), 20_000);
    for mode in ["immediate", "fast"] {
        cluster.restart(mode);
        let mut client = database.connect();
        await_entries(&mut client, 20_000);
        assert_eq!(answering(&mut client, 20_000, 1), 20_000);
        assert_eq!(in_rows(&mut client), 0, "no heartbeat needed its row");
    }
    let mut client = database.connect();
    beat(&mut client, "new");
    slow_beat(&mut client, "w1", "three");
    assert_eq!((in_rows(&mut client), entries(&mut client)), (2, 20_001));
}

#[test]
fn memory_is_filled_while_sweeping_is_off_too() {
    let cluster = still().setting("rgrid_heartbeat.enabled", "off").start();
    let database = cluster.database("off");
    make_known(&mut database.connect(), 3);
    cluster.restart("immediate");
    await_entries(&mut database.connect(), 3);
}

#[test]
fn the_owners_of_ids_come_along() {
    let cluster = still().start();
    let database = cluster.visited_database("owned_ids");
    for role in ["first", "second"] {
        beat(&mut tenant(&database, role), &format!("of-{role}"));
    }
    // A client's own row belongs to nobody yet.
    let row = "INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at) VALUES ('nobodys', now())";
    run(&mut database.connect(), row);
    cluster.restart("immediate");
    await_entries(&mut database.connect(), 2);
    let (mut first, mut second) = (database.connect_as("first"), database.connect_as("second"));
    assert!(beats_in_memory(&mut first, "of-first") && beats_in_memory(&mut second, "of-second"));
    for call in ["rgrid_heartbeat('of-first')", "rgrid_attach('of-first')", "rgrid_deregister('of-first')"] {
        assert_eq!(sqlstate(&mut second, &format!("SELECT {call}")), "42501", "{call}");
    }
    assert_eq!(beat(&mut second, "nobodys"), 1);
    assert_eq!(sqlstate(&mut first, "SELECT rgrid_heartbeat('nobodys')"), "42501");
}

#[test]
fn a_worker_that_is_dead_in_the_ledger_gets_no_entry_and_one_that_returned_has_its_number() {
    let cluster = still().start();
    let database = cluster.visited_database("dead");
    let mut client = database.connect();
    for worker in ["dead", "back"] {
        beat(&mut client, worker);
        claim_jobs(&mut client, worker, 1);
    }
    run(&mut client, "SET rgrid_heartbeat.stale_threshold = '200ms'");
    wait_until("both deaths", || {
        run(&mut client, "SELECT rgrid_sweep()");
        dead(&mut client).len() == 2
    });
    assert_eq!(beat(&mut client, "back"), 2);
    beat(&mut client, "alive");
    cluster.restart("immediate");
    let mut client = database.connect();
    await_entries(&mut client, 2);
    assert!(beats_in_memory(&mut client, "back") && beats_in_memory(&mut client, "alive"));
    assert!(!beats_in_memory(&mut client, "dead"));
    let numbers = ["dead", "back", "alive"].map(|worker| beat(&mut client, worker));
    assert_eq!(numbers, [2, 2, 1]);
}

#[test]
fn a_worker_whose_row_is_locked_gets_no_entry() {
    let cluster = still().start();
    let database = cluster.visited_database("locked");
    let mut client = database.connect();
    for worker in ["leaving", "reassigned", "locked", "shared", "free"] {
        beat(&mut client, worker);
    }
    run(&mut client, "CREATE ROLE receiving");
    run(&mut client, "CREATE TABLE notes (worker_id text REFERENCES worker_heartbeats)");
    run(&mut client, "INSERT INTO notes VALUES ('free')");
    let calls = [
        "SELECT rgrid_deregister('leaving')",
        "SELECT rgrid_reassign_worker('reassigned', 'receiving')",
        "SELECT FROM worker_heartbeats WHERE worker_id = 'locked' FOR UPDATE",
        "INSERT INTO notes VALUES ('shared')",
    ];
    for (number, call) in calls.into_iter().enumerate() {
        run(&mut client, &format!("BEGIN; {call}; PREPARE TRANSACTION 'open_{number}'"));
    }
    cluster.restart("immediate");
    let mut client = database.connect();
    wait_until("memory to be filled", || {
        !cluster.log_lines_with(&["filled memory with 1 workers"]).is_empty()
    });
    assert!(beats_in_memory(&mut client, "free"));
    for number in 0..calls.len() {
        run(&mut client, &format!("COMMIT PREPARED 'open_{number}'"));
    }
    assert_eq!(entries(&mut client), 1);
    for worker in ["leaving", "reassigned", "locked", "shared"] {
        assert!(!beats_in_memory(&mut client, worker), "{worker}");
        assert_eq!(beat(&mut client, worker), 1, "{worker}");
    }
    assert_eq!(owner(&mut client, "reassigned"), "receiving");
}

#[test]
fn workers_that_restart_and_leave_while_memory_is_filled_are_told_the_numbers_of_the_ledger() {
    const WORKERS: i32 = 30_000;
    let cluster = still().setting("max_connections", "40").start();
    let database = cluster.visited_database("moving");
    make_known(&mut database.connect(), WORKERS);
    for round in 0..3 {
        cluster.restart("immediate");
        let busy: Vec<_> = (0..4).map(|number| moving(&database, number, WORKERS)).collect();
        wait_until("memory to be filled", || cluster.log_lines_with(&["filled memory with"]).len() > round);
        for busy in busy {
            busy.join().expect("its calls succeed");
        }
        let wrong = "SELECT count(*) FROM (
                         SELECT n, rgrid_heartbeat('w' || n) AS told FROM generate_series(1, $1) AS n) AS t
                     WHERE told <> (SELECT 1 + coalesce(max(d.incarnation), 0) FROM rgrid_worker_deaths d
                                    WHERE d.worker_id = 'w' || t.n)";
        let mut client = database.connect();
        assert_eq!(ask::<i64>(&mut client, wrong, &[&WORKERS]), 0, "told another number than the ledger's");
    }
}

/// Registers and deregisters workers from all over the table, for a second.
fn moving(database: &Database<'_>, number: i32, workers: i32) -> thread::JoinHandle<()> {
    let mut client = database.connect();
    thread::spawn(move || {
        let until = std::time::Instant::now() + Duration::from_secs(1);
        let mut n = number;
        while std::time::Instant::now() < until {
            n = (n * 7 + 4_001) % workers;
            let worker = format!("w{}", n + 1);
            if n % 5 == 0 {
                ask::<bool>(&mut client, "SELECT rgrid_deregister($1)", &[&worker]);
            }
            ask::<i64>(&mut client, "SELECT incarnation FROM rgrid_register($1)", &[&worker]);
        }
    })
}

#[test]
fn memory_that_cannot_be_filled_is_reported_and_kills_nobody_that_beats() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.flush_interval", "100ms").start();
    let database = cluster.database("refusing");
    let mut client = database.connect();
    beat(&mut client, "worker");
    run(
        &mut client,
        "BEGIN; LOCK TABLE rgrid_incarnations IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'held'",
    );
    cluster.restart("immediate");
    let mut client = database.connect();
    let problem = "SELECT count(*) FROM pg_stat_rgrid_problems
                   WHERE datname = current_database() AND problem = 'memory' AND message LIKE '%rgrid_incarnations%'";
    wait_until("the problem", || ask::<i64>(&mut client, problem, &[]) == 1);
    assert_eq!(entries(&mut client), 0);
    run(&mut client, "COMMIT PREPARED 'held'");
    let _beats = Beating::calling(database.connect(), "worker");
    wait_until("the end of the problem", || ask::<i64>(&mut client, problem, &[]) == 0);
    await_sweep(&mut client, "silent");
    assert_eq!((deaths(&mut client, "worker"), beat(&mut client, "worker")), (0, 1));
}

#[test]
fn silence_counts_from_when_memory_is_filled() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("patient");
    make_known(&mut database.connect(), 1);
    cluster.restart("immediate");
    let mut client = database.connect();
    let since = "SELECT observing_since FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    await_entries(&mut client, 1);
    let filled: DateTime<Utc> = ask(&mut client, "SELECT pg_postmaster_start_time()", &[]);
    wait_until("silence to count", || ask::<DateTime<Utc>>(&mut client, since, &[]) > filled);
    await_death(&mut client, "w1");
    let died = "SELECT declared_dead_at - interval '2 s' FROM rgrid_worker_deaths WHERE worker_id = 'w1'";
    let died: DateTime<Utc> = ask(&mut client, died, &[]);
    let counted: DateTime<Utc> = ask(&mut client, since, &[]);
    assert!(died >= counted, "given up a threshold after {counted} or later, not at {died}");
}

#[test]
fn a_promoted_standby_fills_its_memory() {
    let primary = still().start();
    let database = primary.visited_database("grid");
    make_known(&mut database.connect(), 1_000);
    let standby = primary.standby();
    standby.catch_up_with(&primary);
    primary.stop("immediate");
    standby.promote();
    let mut client = standby.connect("grid");
    await_entries(&mut client, 1_000);
    assert_eq!(answering(&mut client, 1_000, 1), 1_000);
    assert_eq!(in_rows(&mut client), 0);
    primary.start();
}

#[test]
fn of_more_workers_than_fit_as_many_as_fit_are_in_memory_and_the_log_says_so() {
    let cluster = Cluster::quick()
        .setting("rgrid_heartbeat.max_workers", "100")
        .setting("rgrid_heartbeat.stale_threshold", "4s")
        .start();
    let database = cluster.database("overfull");
    let mut client = database.connect();
    let rows = "INSERT INTO worker_heartbeats SELECT 'w' || n, NULL, now() FROM generate_series(1, 250) n";
    run(&mut client, rows);
    run(&mut client, "INSERT INTO rgrid_worker_owners SELECT worker_id, 'postgres' FROM worker_heartbeats");
    cluster.restart("immediate");
    let mut client = database.connect();
    await_entries(&mut client, 100);
    let _beats = Beating::start(database.connect(), |client| {
        assert_eq!(
            ask::<i64>(client, "SELECT count(rgrid_heartbeat('w' || n)) FROM generate_series(1, 250) n", &[]),
            250
        );
    });
    await_sweep(&mut client, "silent");
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM rgrid_worker_deaths", &[]), 1);
    wait_until("the warning", || {
        !cluster.log_lines_with(&["WARNING:", "do not fit in shared memory"]).is_empty()
    });
}

#[test]
fn an_adopted_table_fills_memory_when_the_extension_comes() {
    let cluster = still_server();
    for (name, kind, parts) in [("adopted", "", 0), ("in_parts", "PARTITION BY HASH (worker_id)", 3)] {
        let database = cluster.empty_database(name);
        let mut client = database.connect();
        let table = "CREATE TABLE worker_heartbeats (worker_id varchar(64) PRIMARY KEY, last_heartbeat_at timestamp NOT NULL)";
        run(&mut client, &format!("{table} {kind}"));
        for part in 0..parts {
            let values = format!("FOR VALUES WITH (MODULUS {parts}, REMAINDER {part})");
            run(&mut client, &format!("CREATE TABLE part_{part} PARTITION OF worker_heartbeats {values}"));
        }
        let rows = "INSERT INTO worker_heartbeats SELECT 'w' || n, now() AT TIME ZONE 'UTC' FROM generate_series(1, 5000) n";
        run(&mut client, rows);
        run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
        await_entries(&mut client, 5_000);
        assert_eq!(answering(&mut client, 5_000, 1), 5_000);
        assert_eq!(in_rows(&mut client), 0);
    }
}
