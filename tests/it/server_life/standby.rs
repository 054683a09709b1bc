//! Servers that are copied or copy: what a heartbeat waits for, what a standby refuses, and what a promotion
//! does to workers.

use crate::cluster::*;
use postgres::Client;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn heartbeats_go_on_while_a_synchronous_standby_is_missing_and_upserts_wait() {
    let cluster = Cluster::quick()
        .setting("rgrid_heartbeat.flush_interval", "100ms")
        .setting("synchronous_commit", "on")
        .start();
    let database = cluster.database("alone");
    let (mut client, mut upserting) = (database.connect(), database.connect());
    known_worker(&mut client, "worker");
    let _beats = Beating::calling(database.connect(), "worker");
    cluster.set("synchronous_standby_names", "nobody");

    let process = pid(&mut upserting);
    let upsert = thread::spawn(move || {
        upserting.batch_execute(
            "INSERT INTO worker_heartbeats VALUES ('upserting', 'host', now())
             ON CONFLICT (worker_id) DO UPDATE SET last_heartbeat_at = now()",
        )
    });
    await_waiting(&cluster, process, "SyncRep");
    let before = server_time(&mut client);
    let started = Instant::now();
    for _ in 0..1_000 {
        assert!(beats_in_memory(&mut client, "worker"));
    }
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
    assert!(last_heard(&mut client, "worker") >= Some(before));
    wait_until("a flush, which does not wait either", || row_time(&mut client, "worker") > Some(before));
    assert!(!upsert.is_finished(), "the upsert waits all the while");
    await_waiting(&cluster, process, "SyncRep");

    cluster.set("synchronous_standby_names", "");
    upsert.join().unwrap().expect("the upsert goes through once no standby is waited for");
    await_sweep(&mut client, "silent");
    assert_eq!((deaths(&mut client, "worker"), beat(&mut client, "worker")), (0, 1));
}

#[test]
fn a_standby_refuses_heartbeats_and_takes_them_once_promoted() {
    let primary = Cluster::quick().setting("rgrid_heartbeat.flush_interval", "100ms").start();
    let database = primary.database("grid");
    let mut client = database.connect();
    for worker in ["healthy", "silent"] {
        known_worker(&mut client, worker);
        claim_jobs(&mut client, worker, 1);
    }
    let healthy = Beating::calling(database.connect(), "healthy");
    await_death(&mut client, "silent");
    let silent = Beating::calling(database.connect(), "silent");
    wait_until("the return of a worker that died on the primary", || beat(&mut client, "silent") == 2);

    let standby = primary.standby();
    standby.catch_up_with(&primary);
    let mut on_standby = standby.connect("grid");
    it_refuses_what_writes(&mut on_standby);
    it_answers_what_reads(&mut on_standby);
    assert!(standby.pids(LAUNCHER).is_empty() && standby.pids(SWEEPER).is_empty());

    drop((healthy, silent));
    primary.stop("immediate");
    // While no server listens the silence grows beyond the threshold, by the rows.
    wait_until("rows as old as the threshold", || {
        let stale: i64 = ask(&mut on_standby, "SELECT count(*) FROM rgrid_stale_workers()", &[]);
        stale == 2
    });
    standby.promote();
    the_promoted_server_hears(&standby, &mut on_standby);
    primary.start();
}

fn it_refuses_what_writes(client: &mut Client) {
    for (function, arguments) in [
        ("rgrid_heartbeat", "'healthy'"),
        ("rgrid_heartbeat", "'nobody', 'host'"),
        ("rgrid_heartbeat", "ARRAY['healthy']"),
        ("rgrid_register", ""),
        ("rgrid_deregister", "'healthy'"),
        ("rgrid_sweep", ""),
    ] {
        let refusal = client.batch_execute(&format!("SELECT {function}({arguments})")).unwrap_err();
        let refusal = refusal.as_db_error().expect("an error of the server");
        assert_eq!(refusal.message(), format!("cannot execute {function}() during recovery"));
        assert_eq!(refusal.code().code(), "25006");
    }
}

fn it_answers_what_reads(client: &mut Client) {
    assert!(last_heard(client, "healthy").is_some());
    assert_eq!(deaths(client, "silent"), 1);
    run(client, "SELECT rgrid_sweep(dry_run => true)");
}

fn the_promoted_server_hears(standby: &Cluster, client: &mut Client) {
    let promoted = server_time(client);
    wait_until("the launcher", || standby.pids(LAUNCHER).len() == 1);
    wait_until("memory to be filled", || beats_in_memory(client, "healthy"));
    let _beats = Beating::calling(standby.connect("grid"), "healthy");
    wait_until("the row to be written", || row_time(client, "healthy") > Some(promoted));

    wait_until("the death of the silent worker", || deaths(client, "silent") == 2);
    let sql = "SELECT declared_dead_at - $1 >= interval '1.5 seconds' FROM rgrid_worker_deaths
               WHERE worker_id = 'silent' AND incarnation = 2";
    assert!(ask::<bool>(client, sql, &[&promoted]), "silence counts from the promotion");
    assert_eq!((deaths(client, "healthy"), beat(client, "healthy")), (0, 1));
    assert_eq!(jobs(client, "healthy", "running"), 1);
    assert!(beat(client, "silent") > NEW_BASE, "deaths may have been lost with the primary");
}
