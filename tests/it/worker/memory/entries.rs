//! Which workers have an entry in memory, and what it holds.

use super::*;

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

#[test]
fn a_database_that_gets_the_oid_of_a_dropped_one_knows_nothing_of_its_workers() {
    let cluster = still().start();
    let _origin = cluster.visited_database("origin");
    let bystander = cluster.visited_database("bystander");
    beat(&mut bystander.connect(), "bystander");
    let mut admin = cluster.connect("postgres");
    let create = "CREATE DATABASE again TEMPLATE origin OID 77777";
    run(&mut admin, create);
    let mut client = cluster.connect("again");
    let register = "SELECT incarnation FROM rgrid_register('worker')";
    assert_eq!((ask::<i64>(&mut client, register, &[]), ask::<i64>(&mut client, register, &[])), (1, 2));
    cluster.await_visit("again");
    assert!(beats_in_memory(&mut client, "worker"));
    drop(client);
    // It would notice that the database is gone. It is back after a second.
    cluster.terminate(cluster.pids(LAUNCHER)[0]);
    run(&mut admin, "DROP DATABASE again");
    run(&mut admin, create);

    let mut client = cluster.connect("again");
    assert_eq!((beat(&mut client, "worker"), rows(&mut client, "worker")), (1, 1));
    let known = "SELECT count(*) FROM pg_stat_rgrid_heartbeat WHERE datid = 77777 AND deaths > 0";
    assert_eq!(ask::<i64>(&mut client, known, &[]), 0);
    assert!(beats_in_memory(&mut bystander.connect(), "bystander"), "other databases keep theirs");
}
