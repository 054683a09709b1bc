//! Stopping, crashing and starting the server: it ends when told to, and its absence kills no worker.

use crate::cluster::*;
use postgres::Client;
use std::time::Duration;

/// Longer is not a fast shutdown any more.
const FAST: Duration = Duration::from_secs(5);

#[test]
fn a_fast_stop_does_not_wait_for_a_sweep_that_waits_for_a_lock() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("stuck");
    let mut client = database.connect();
    claim_jobs(&mut client, "victim", 2);
    // A prepared transaction keeps its lock when every session is gone.
    run(&mut client, "BEGIN");
    run(&mut client, "LOCK TABLE executions");
    run(&mut client, "PREPARE TRANSACTION 'holds the table'");
    silent_worker(&mut client, "victim");
    wait_until("a sweeper that waits for the table", || cluster.waiting_sweeper().is_some());

    let took = cluster.stop("fast");
    assert!(took < FAST, "it took {took:?}");

    cluster.start();
    let mut client = database.connect();
    run(&mut client, "ROLLBACK PREPARED 'holds the table'");
    await_death(&mut client, "victim");
    wait_until("the jobs to be settled", || failed_jobs(&mut client, "victim") == 2);
    assert_eq!(deaths(&mut client, "victim"), 1);
}

#[test]
fn a_smart_stop_does_not_wait_for_launcher_and_sweepers() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.check_interval", "10ms").start();
    let database = cluster.database("smart");
    await_sweep(&mut database.connect(), "victim");
    let took = cluster.stop("smart");
    assert!(took < FAST, "it took {took:?}");
}

#[test]
fn a_restart_kills_no_worker() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("restarted");
    prepare_an_outage(&cluster, &mut database.connect());
    cluster.restart("fast");
    only_silence_since_the_start_counts(&database);
}

#[test]
fn a_crash_kills_no_worker() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("crashed");
    prepare_an_outage(&cluster, &mut database.connect());
    cluster.crash();
    cluster.start();
    only_silence_since_the_start_counts(&database);
}

/// Two workers that look an hour silent when the server starts again, as after an outage of an hour.
fn prepare_an_outage(cluster: &Cluster, client: &mut Client) {
    await_sweep(client, "before-the-outage");
    cluster.set("rgrid_heartbeat.enabled", "off");
    wait_until("the sweepers to be gone", || cluster.pids(SWEEPER).is_empty());
    for worker in ["still-there", "silent-for-good"] {
        claim_jobs(client, worker, 2);
        silent_worker(client, worker);
    }
    assert_eq!(deaths(client, "still-there") + deaths(client, "silent-for-good"), 0);
    run(client, "ALTER SYSTEM RESET rgrid_heartbeat.enabled");
}

fn only_silence_since_the_start_counts(database: &Database) {
    let mut client = database.connect();
    let _beats = Beating::calling(database.connect(), "still-there");
    await_death(&mut client, "silent-for-good");
    let sql = "SELECT declared_dead_at >= pg_postmaster_start_time() + interval '2 seconds'
               FROM rgrid_worker_deaths WHERE worker_id = 'silent-for-good'";
    assert!(ask::<bool>(&mut client, sql, &[]), "silence counts from the start of the server");
    assert_eq!((jobs(&mut client, "still-there", "running"), deaths(&mut client, "still-there")), (2, 0));
    assert_eq!(failed_jobs(&mut client, "silent-for-good"), 2);
}

#[test]
fn a_worker_that_came_back_by_itself_keeps_its_jobs_after_a_restart() {
    let cluster = Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h").start();
    let database = cluster.database("paused");
    let mut client = database.connect();
    silent_worker(&mut client, "py");
    sweep_away(&mut client, "py");
    // Observation starts anew, and the worker is back before it has lasted for a threshold.
    cluster.restart("fast");
    let mut client = database.connect();
    run(&mut client, "UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp()");
    claim_jobs(&mut client, "py", 1);
    run(&mut client, "SELECT rgrid_sweep()");
    assert_eq!(jobs(&mut client, "py", "running"), 1);
}
