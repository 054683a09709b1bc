//! Heartbeats in transactions that end in two phases, and in savepoints: memory learns of what was committed, and of
//! nothing else.

use super::*;

/// A call in a transaction that is prepared under this name.
fn prepare(client: &mut Client, name: &str, call: &str) {
    for statement in ["BEGIN", call, &format!("PREPARE TRANSACTION '{name}'")] {
        run(client, statement);
    }
}

/// A transaction that has to do with nothing.
fn commit_something(client: &mut Client) {
    run(client, "CREATE TABLE something ()");
    run(client, "DROP TABLE something");
}

#[test]
fn a_first_heartbeat_that_is_prepared_is_in_no_later_commit() {
    let cluster = still_server();
    let database = cluster.visited_database("two_phases");
    let (mut client, mut other) = (database.connect(), database.connect());
    prepare(&mut client, "two_phases", "SELECT rgrid_heartbeat('undone')");
    commit_something(&mut client);
    assert_eq!(entries(&mut client), 0, "while it is prepared");
    run(&mut client, "ROLLBACK PREPARED 'two_phases'");
    assert_eq!((entries(&mut client), rows(&mut client, "undone")), (0, 0));

    prepare(&mut client, "two_phases", "SELECT rgrid_heartbeat('worker')");
    run(&mut other, "COMMIT PREPARED 'two_phases'");
    commit_something(&mut client);
    assert_eq!((entries(&mut client), rows(&mut client, "worker")), (0, 1));
    let state = "SELECT state FROM rgrid_workers WHERE worker_id = 'worker'";
    assert_eq!(ask::<String>(&mut client, state, &[]), "alive");
    assert_eq!(beat(&mut client, "worker"), 1);
    assert_eq!(entries(&mut client), 1);
    assert!(beats_in_memory(&mut client, "worker"));
}

#[test]
fn a_registration_that_is_prepared_is_in_no_later_commit() {
    let cluster = still_server();
    let database = cluster.visited_database("registered");
    let (mut client, mut other) = (database.connect(), database.connect());
    prepare(&mut client, "registered", "SELECT rgrid_register('worker')");
    commit_something(&mut client);
    assert_eq!(entries(&mut client), 0, "while it is prepared");
    run(&mut client, "ROLLBACK PREPARED 'registered'");
    assert_eq!((entries(&mut client), rows(&mut client, "worker")), (0, 0));

    prepare(&mut client, "registered", "SELECT rgrid_register('worker')");
    run(&mut other, "COMMIT PREPARED 'registered'");
    commit_something(&mut client);
    assert_eq!((entries(&mut client), rows(&mut client, "worker")), (0, 1));
    assert_eq!(beat(&mut client, "worker"), 1);
    assert_eq!(entries(&mut client), 1);
}

#[test]
fn a_deregistration_that_is_prepared_forgets_no_heartbeat_at_a_later_commit() {
    let cluster = still_server();
    let database = cluster.visited_database("leaving");
    let (mut client, mut other) = (database.connect(), database.connect());
    known_worker(&mut client, "worker");
    prepare(&mut client, "leaving", "SELECT rgrid_deregister('worker')");
    run(&mut other, "COMMIT PREPARED 'leaving'");
    assert_eq!(rows(&mut other, "worker"), 0);
    // It is back.
    known_worker(&mut other, "worker");
    age_row(&mut other, "worker");
    let before = server_time(&mut other);
    assert!(beats_in_memory(&mut other, "worker"));
    commit_something(&mut client);
    assert!(last_heard(&mut other, "worker") >= Some(before));
}

#[test]
fn a_first_heartbeat_in_a_savepoint_counts_when_all_around_it_is_kept() {
    let cluster = still_server();
    let database = cluster.visited_database("savepoints");
    let mut client = database.connect();
    for (worker, statements, is_kept) in [
        ("released", "SAVEPOINT a; @; RELEASE a", true),
        ("after-one-undone", "SAVEPOINT a; SELECT 1; ROLLBACK TO a; @", true),
        ("inner-released", "SAVEPOINT a; SAVEPOINT b; @; RELEASE b; RELEASE a", true),
        ("inner-undone", "SAVEPOINT a; SAVEPOINT b; @; ROLLBACK TO b; RELEASE a", false),
        ("outer-undone", "SAVEPOINT a; SAVEPOINT b; @; RELEASE b; ROLLBACK TO a", false),
        ("beside-one-undone", "SAVEPOINT a; @; RELEASE a; SAVEPOINT a; SELECT 1; ROLLBACK TO a", true),
    ] {
        let before = entries(&mut client);
        let statements = statements.replace('@', &format!("SELECT rgrid_heartbeat('{worker}')"));
        run(&mut client, &format!("BEGIN; {statements}; COMMIT"));
        let kept = (entries(&mut client) - before, rows(&mut client, worker));
        assert_eq!(kept, if is_kept { (1, 1) } else { (0, 0) }, "{worker}");
    }
}
