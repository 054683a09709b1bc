//! When a worker is tied: at the commit, and for whom.

use super::*;

/// Nobody is judged here.
fn server() -> Shared {
    Shared::of(|| patient_server().setting("rgrid_heartbeat.disconnect_grace", "-1"))
}

#[test]
fn a_worker_is_tied_when_the_transaction_commits_and_not_before() {
    let cluster = server();
    let database = cluster.database("commits");
    let (mut client, mut other) = (database.connect(), database.connect());
    attach(&mut other, "worker");
    run(&mut other, "SELECT rgrid_detach('worker')");
    run(&mut client, "BEGIN");
    assert_eq!(attach(&mut client, "worker"), 1);
    assert_eq!(tie(&mut other, "worker"), "none");
    run(&mut client, "COMMIT");
    assert_eq!(tie(&mut other, "worker"), "tied");
}

#[test]
fn what_is_rolled_back_ties_nobody() {
    let cluster = server();
    let database = cluster.database("rolls_back");
    let mut client = database.connect();
    for worker in ["all", "part", "kept"] {
        known_worker(&mut client, worker);
    }
    run(&mut client, "BEGIN; SELECT rgrid_attach('all'); ROLLBACK");
    run(
        &mut client,
        "BEGIN; SAVEPOINT s; SELECT rgrid_attach('part'); ROLLBACK TO s;
         SAVEPOINT t; SELECT rgrid_attach('kept'); RELEASE t; COMMIT",
    );
    for (worker, wanted) in [("all", "none"), ("part", "none"), ("kept", "tied")] {
        assert_eq!(tie(&mut client, worker), wanted, "{worker}");
    }
    run(&mut client, "BEGIN; SELECT rgrid_detach('kept'); ROLLBACK");
    assert_eq!(tie(&mut client, "kept"), "tied");
    run(&mut client, "BEGIN; SELECT rgrid_detach('kept'), rgrid_attach('kept'); COMMIT");
    assert_eq!(tie(&mut client, "kept"), "tied", "the last word counts");
}

#[test]
fn a_transaction_that_attaches_cannot_be_prepared() {
    let cluster = server();
    let database = cluster.database("prepares");
    let mut client = database.connect();
    known_worker(&mut client, "worker");
    for call in
        ["SELECT rgrid_attach('worker')", "SELECT rgrid_attach('new')", "SELECT rgrid_detach('worker')"]
    {
        run(&mut client, &format!("BEGIN; {call}"));
        assert_eq!(sqlstate(&mut client, "PREPARE TRANSACTION 'attached'"), "0A000", "{call}");
    }
    assert_eq!(tie(&mut client, "worker"), "none");
    assert_eq!(row_time(&mut client, "new"), None);
    run(&mut client, "BEGIN; SELECT rgrid_heartbeat('new'); PREPARE TRANSACTION 'beating'");
    run(&mut client, "ROLLBACK PREPARED 'beating'");
}

#[test]
fn a_repeated_attach_is_a_heartbeat_in_memory() {
    let cluster = server();
    let database = cluster.database("repeats");
    let mut client = database.connect();
    attach(&mut client, "worker");
    let since = "SELECT attached_at::text FROM rgrid_workers WHERE worker_id = 'worker'";
    let before: String = ask(&mut client, since, &[]);
    let heard = last_heard(&mut client, "worker");
    let in_memory = "SELECT rgrid_attach('worker') = 1 AND pg_current_xact_id_if_assigned() IS NULL";
    assert!(ask::<bool>(&mut client, in_memory, &[]));
    assert!(last_heard(&mut client, "worker") > heard);
    assert_eq!(ask::<String>(&mut client, since, &[]), before);
}

#[test]
fn another_role_can_neither_attach_nor_detach_a_worker() {
    let cluster = server();
    let database = cluster.database("tenants");
    let mut client = database.connect();
    let (mut mine, mut theirs) = (tenant(&database, "attaching"), tenant(&database, "cutting"));
    attach(&mut mine, "worker");
    for call in ["SELECT rgrid_attach('worker')", "SELECT rgrid_detach('worker')"] {
        assert_eq!(sqlstate(&mut theirs, call), "42501", "{call}");
    }
    assert_eq!(tie(&mut client, "worker"), "tied");
    run(&mut client, "SELECT rgrid_reassign_worker('worker', 'cutting')");
    attach(&mut theirs, "worker");
    let pid: i32 = pid(&mut mine);
    drop(mine);
    await_end(&mut client, pid);
    assert_eq!(tie(&mut client, "worker"), "tied", "to its new owner's session");
}
