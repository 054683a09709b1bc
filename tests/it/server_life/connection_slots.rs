//! While no client can connect, silence proves nothing about a worker that has to; but not for ever.

use crate::cluster::*;
use postgres::Client;

/// Twelve slots for clients without special rights.
fn server(threshold: &str) -> Cluster {
    Cluster::builder()
        .setting("max_connections", "15")
        .setting("superuser_reserved_connections", "3")
        .setting("rgrid_heartbeat.check_interval", "200ms")
        .setting("rgrid_heartbeat.stale_threshold", threshold)
        .start()
}

fn check(client: &mut Client) -> String {
    let sql = "SELECT status FROM rgrid_health() WHERE check_name = 'connection slots'";
    ask(client, sql, &[])
}

fn is_full(client: &mut Client) -> bool {
    let sql = "SELECT bool_and(connections_full_since IS NOT NULL) FROM pg_stat_rgrid_heartbeat";
    ask(client, sql, &[])
}

/// Takes all slots with sessions of a role without rights.
fn take_all(database: &Database<'_>) -> Vec<Client> {
    let mut taken = Vec::new();
    while let Ok(client) = database.config().user("guest").connect(postgres::NoTls) {
        taken.push(client);
    }
    assert!(!taken.is_empty());
    taken
}

#[test]
fn workers_that_cannot_connect_live_longer_by_the_time_without_a_free_slot() {
    let cluster = server("8s");
    let database = cluster.database("crowded");
    let mut client = database.connect();
    run(&mut client, "CREATE ROLE guest LOGIN; SELECT rgrid_register('worker')");
    let silence =
        "SELECT extract(epoch FROM clock_timestamp() - last_heartbeat_at) > $1::int FROM rgrid_workers";
    let mut await_silence =
        |seconds: i32| wait_until("the worker's silence", || ask(&mut client, silence, &[&seconds]));
    await_silence(4);
    let taken = take_all(&database);
    await_silence(9);
    assert_eq!(check(&mut client), "warning");
    assert_eq!(deaths(&mut client, "worker"), 0);
    drop(taken);
    wait_until("it to be over", || !is_full(&mut client));
    assert_eq!(beat(&mut client, "worker"), 1);
    assert_eq!(check(&mut client), "ok");
    let lines = ["no connection slot is free", "connection slots are free again after"];
    lines.iter().for_each(|line| assert_eq!(cluster.log_lines_with(&[line]).len(), 1, "{line}"));
    await_death(&mut client, "worker");
}

#[test]
fn nobody_stops_the_deaths_by_taking_all_slots() {
    let cluster = server("2s");
    let database = cluster.database("besieged");
    let mut client = database.connect();
    run(&mut client, "CREATE ROLE guest LOGIN; SELECT rgrid_register('worker')");
    let _taken = take_all(&database);
    await_death(&mut client, "worker");
    assert!(is_full(&mut client));
    wait_until("the check to say so", || check(&mut client) == "error");
    let silence =
        "SELECT declared_dead_at - last_heartbeat_at BETWEEN interval '3 seconds' AND interval '15 seconds'
                   FROM rgrid_worker_deaths";
    assert!(ask::<bool>(&mut client, silence, &[]), "two thresholds, and what a busy machine takes");
}
