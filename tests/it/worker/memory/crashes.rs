//! Crashes and restarts, and servers without shared memory.

use super::*;
use std::thread;

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
fn a_restart_with_old_rows_kills_no_worker() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.flush_interval", "1h").start();
    for mode in ["fast", "immediate"] {
        let database = cluster.database(mode);
        let mut client = database.connect();
        beat(&mut client, "worker");
        age_row(&mut client, "worker");
        cluster.restart(mode);
        let mut client = database.connect();
        let started = server_time(&mut client);
        wait_until("memory to be filled", || beats_in_memory(&mut client, "worker"));
        assert!(last_heard(&mut client, "worker") >= Some(started));
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

/// Lives of a few workers; all that is returned. Every worker that does not beat meanwhile dies at each sweep by hand.
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
    wait_until("a sweep by hand that finds all of them", || {
        run(client, "SELECT rgrid_sweep()");
        let dead: i64 =
            ask(client, "SELECT count(*) FROM rgrid_worker_deaths WHERE returned_at IS NULL", &[]);
        dead == wanted
    });
}
