//! A library and SQL objects of different versions, as between the installation of a new library and
//! `ALTER EXTENSION ... UPDATE`: clear refusals, no sweeps, and no death.

use crate::cluster::*;
use postgres::Client;

#[test]
fn a_new_library_refuses_old_objects_until_the_update() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("outdated");
    let mut client = database.connect();
    for worker in ["healthy", "silent"] {
        known_worker(&mut client, worker);
        claim_jobs(&mut client, worker, 2);
    }
    update_to(&mut client, "0.0.1");
    cluster.stop("fast");
    // A sweep may have come before the stop, and what was said is forgotten with it.
    let before = complaints(&cluster, "0.0.1").len();
    cluster.start();
    let mut client = database.connect();
    it_refuses(&mut client, "rgrid_heartbeat", "'healthy'");
    everything_else_is_refused(&mut client);
    wait_until("the sweeper's complaint", || complaints(&cluster, "0.0.1").len() > before);
    silence_beyond_the_threshold(&cluster, &mut client);

    let updated = server_time(&mut client);
    update_to(&mut client, env!("CARGO_PKG_VERSION"));
    run(&mut client, "SELECT rgrid_sweep()");
    let _beats = Beating::calling(database.connect(), "healthy");
    nobody_died_of_it(&mut client);
    await_death(&mut client, "silent");
    let sql = "SELECT declared_dead_at - $1 >= interval '2 seconds' FROM rgrid_worker_deaths
               WHERE worker_id = 'silent'";
    assert!(ask::<bool>(&mut client, sql, &[&updated]), "silence counts from the update");
    nobody_died_of_it(&mut client);
    assert_eq!(complaints(&cluster, "0.0.1").len(), before + 1, "once is enough");
}

#[test]
fn an_old_library_hears_known_workers_and_refuses_new_objects() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("ahead");
    let mut client = database.connect();
    known_worker(&mut client, "healthy");
    claim_jobs(&mut client, "healthy", 2);
    let _beats = Beating::calling(database.connect(), "healthy");
    update_to(&mut client, "99.0");
    assert!(beats_in_memory(&mut client, "healthy"));
    it_refuses(&mut client, "rgrid_heartbeat", "'somebody-new'");
    everything_else_is_refused(&mut client);
    wait_until("the sweeper's complaint", || !complaints(&cluster, "99.0").is_empty());
    silence_beyond_the_threshold(&cluster, &mut client);
    update_to(&mut client, env!("CARGO_PKG_VERSION"));
    await_sweep(&mut client, "witness");
    nobody_died_of_it(&mut client);
}

/// What `ALTER EXTENSION ... UPDATE` leaves behind when the objects themselves are the same in both versions.
fn update_to(client: &mut Client, version: &str) {
    let sql = "UPDATE pg_extension SET extversion = $1 WHERE extname = 'rgrid_heartbeat'";
    assert_eq!(client.execute(sql, &[&version]).expect("a superuser can change the catalog"), 1);
}

fn it_refuses(client: &mut Client, function: &str, arguments: &str) {
    let refusal = client.batch_execute(&format!("SELECT {function}({arguments})")).unwrap_err();
    let refusal = refusal.as_db_error().expect("an error of the server");
    let message = refusal.message();
    assert_eq!(refusal.code().code(), "55000", "{function}: {message}");
    assert!(message.ends_with(concat!("its library version ", env!("CARGO_PKG_VERSION"))), "{message}");
    assert!(refusal.hint().is_some_and(|hint| hint.contains("ALTER EXTENSION")), "{function}");
}

fn everything_else_is_refused(client: &mut Client) {
    for (function, arguments) in [
        ("rgrid_heartbeat", "ARRAY['somebody-new']"),
        ("rgrid_register", ""),
        ("rgrid_register", "'healthy'"),
        ("rgrid_deregister", "'healthy'"),
        ("rgrid_sweep", ""),
        ("rgrid_stale_workers", ""),
        ("rgrid_watch_jobs", "'executions'"),
        ("rgrid_unwatch_jobs", "'executions'"),
    ] {
        it_refuses(client, function, arguments);
    }
}

fn complaints(cluster: &Cluster, version: &str) -> Vec<String> {
    let found = format!("extension \"rgrid_heartbeat\" has version {version}");
    cluster.log_lines_with(&["WARNING:", &found])
}

/// Until a worker that fell silent now would be dead in a database beside this one.
fn silence_beyond_the_threshold(cluster: &Cluster, client: &mut Client) {
    let beside = cluster.database("beside");
    await_sweep(&mut beside.connect(), "witness");
    nobody_died_of_it(client);
}

fn nobody_died_of_it(client: &mut Client) {
    assert_eq!(deaths(client, "healthy"), 0);
    assert_eq!(jobs(client, "healthy", "running"), 2);
}
