//! RGrid as it is: its own tables, its Python workers, and no call of any function of the extension.

use crate::cluster::*;
use postgres::Client;
use std::time::Duration;

fn server() -> Shared {
    Shared::of(Cluster::quick)
}

/// Finds a dead worker and spares a living one in a database whose workers only upsert naive timestamps.
fn only_the_silent_worker_dies(database: &Database, client: &mut Client) {
    let _beats = Beating::upserting(database.connect(), "healthy");
    claim_jobs(client, "healthy", 2);
    claim_jobs(client, "silent", 3);
    upsert_like_python(client, "silent", Duration::from_secs(60));
    await_death(client, "silent");
    upsert_like_python(client, "a-later-victim", HOUR);
    await_death(client, "a-later-victim");

    assert_eq!(failed_jobs(client, "silent"), 3);
    assert_eq!(ledger(client, "silent"), ["1 stale 3 gone"]);
    assert_eq!((jobs(client, "healthy", "running"), deaths(client, "healthy")), (2, 0));
    let sql =
        "SELECT declared_dead_at - last_heartbeat_at BETWEEN interval '59 seconds' AND interval '2 minutes'
               FROM rgrid_worker_deaths WHERE worker_id = 'silent'";
    assert!(ask::<bool>(client, sql, &[]), "the ledger knows when the worker was last heard of");
}

#[test]
fn workers_that_only_upsert_are_watched() {
    let cluster = server();
    let database = cluster.rgrid_database("upserts");
    only_the_silent_worker_dies(&database, &mut database.connect());
}

#[test]
fn naive_timestamps_are_utc_in_whatever_time_zone_the_server_is() {
    let cluster = Cluster::quick().setting("timezone", "Asia/Kolkata").start();
    let database = cluster.rgrid_database("kolkata");
    only_the_silent_worker_dies(&database, &mut database.connect());
}

#[test]
fn naive_timestamps_are_utc_in_whatever_time_zone_the_session_is() {
    let cluster = Cluster::quick()
        .setting("rgrid_heartbeat.check_interval", "1d")
        .setting("rgrid_heartbeat.stale_threshold", "5s")
        .start();
    let database = cluster.rgrid_database("sessions");
    let mut client = database.connect();
    for (zone, worker) in [("Asia/Kolkata", "east"), ("America/New_York", "west")] {
        run(&mut client, &format!("SET timezone = '{zone}'"));
        upsert_like_python(&mut client, worker, Duration::from_secs(60));
        upsert_like_python(&mut client, "healthy", Duration::ZERO);
        claim_jobs(&mut client, worker, 1);
        let sql = "SELECT worker_id FROM rgrid_stale_workers() WHERE state = 'stale'
                   AND seconds_since_heartbeat BETWEEN 59 AND 120";
        assert_eq!(ask::<String>(&mut client, sql, &[]), worker, "{zone}");

        wait_until("a sweep by hand that may declare deaths", || {
            upsert_like_python(&mut client, "healthy", Duration::ZERO);
            run(&mut client, "SELECT rgrid_sweep()");
            deaths(&mut client, worker) == 1
        });
        assert_eq!((failed_jobs(&mut client, worker), deaths(&mut client, "healthy")), (1, 0), "{zone}");
    }
}

#[test]
fn a_worker_that_comes_back_by_an_upsert_can_die_again() {
    let cluster = server();
    let database = cluster.rgrid_database("comesback");
    let mut client = database.connect();
    claim_jobs(&mut client, "phoenix", 1);
    upsert_like_python(&mut client, "phoenix", HOUR);
    await_death(&mut client, "phoenix");
    assert_eq!(ledger(&mut client, "phoenix"), ["1 stale 1 gone"]);

    let beats = Beating::upserting(database.connect(), "phoenix");
    claim_jobs(&mut client, "phoenix", 2);
    wait_until("a round that notices the return", || {
        ledger(&mut client, "phoenix") == ["1 stale 1 returned"]
    });
    assert_eq!(jobs(&mut client, "phoenix", "running"), 2, "an old death costs no new job");

    drop(beats);
    wait_until("the second death", || deaths(&mut client, "phoenix") == 2);
    assert_eq!(ledger(&mut client, "phoenix"), ["1 stale 1 returned", "2 stale 2 gone"]);
    assert_eq!(failed_jobs(&mut client, "phoenix"), 3);
}

#[test]
fn dropping_the_extension_leaves_tables_that_are_adopted_again() {
    let cluster = server();
    let database = cluster.rgrid_database("keeps");
    let mut client = database.connect();
    upsert_like_python(&mut client, "kept", Duration::ZERO);
    run(&mut client, "DROP EXTENSION rgrid_heartbeat");
    let rows: i64 = ask(&mut client, "SELECT count(*) FROM worker_heartbeats WHERE worker_id = 'kept'", &[]);
    assert_eq!(rows, 1);

    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
    claim_jobs(&mut client, "kept", 1);
    await_death(&mut client, "kept");
    assert_eq!(failed_jobs(&mut client, "kept"), 1);
}

#[test]
fn workers_silent_before_the_extension_came_get_a_whole_threshold() {
    let cluster = server();
    let database = cluster.empty_database("comes_later");
    let mut client = database.connect();
    rgrid_tables(&mut client);
    for worker in ["alive", "dead"] {
        upsert_like_python(&mut client, worker, HOUR);
        claim_jobs(&mut client, worker, 1);
    }
    run(&mut client, "CREATE TABLE created AS SELECT clock_timestamp() AS at");
    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
    let _beats = Beating::upserting(database.connect(), "alive");
    await_death(&mut client, "dead");
    let sql = "SELECT declared_dead_at >= at + interval '2 seconds' FROM rgrid_worker_deaths, created";
    assert!(ask::<bool>(&mut client, sql, &[]), "silence counts from the extension's creation");
    assert_eq!(failed_jobs(&mut client, "dead"), 1);
    assert_eq!((deaths(&mut client, "alive"), jobs(&mut client, "alive", "running")), (0, 1));
}
