//! Ids that change hands: by an operator, or because the role is gone or has another name; and how many a role may
//! have.

use super::REFUSED;
use crate::cluster::*;
use postgres::Client;
use std::thread;

/// The SQLSTATE of one living worker too many.
const TOO_MANY: &str = "53400";

/// Workers are given up by hand only.
fn server() -> Shared {
    Shared::of(|| {
        Cluster::quick()
            .setting("rgrid_heartbeat.check_interval", "1h")
            .setting("rgrid_heartbeat.stale_threshold", "1h")
    })
}

fn reassign(client: &mut Client, worker: &str, role: &str) {
    run(client, &format!("SELECT rgrid_reassign_worker('{worker}', '{role}')"));
}

#[test]
fn an_id_that_is_handed_over_is_the_former_owners_no_more() {
    let cluster = server();
    let database = cluster.database("handed");
    let mut client = database.connect();
    let (mut former, mut next) = (tenant(&database, "former"), tenant(&database, "next"));
    known_worker(&mut former, "w");
    claim_jobs(&mut client, "w", 1);
    reassign(&mut client, "w", "next");
    assert_eq!(sqlstate(&mut former, "SELECT rgrid_heartbeat('w')"), REFUSED, "in memory, too");
    assert_eq!(beat(&mut next, "w"), 1);
    assert!(beats_in_memory(&mut next, "w"));
    assert_eq!(jobs(&mut client, "w", "running"), 1, "the worker goes on");

    run(&mut client, "BEGIN");
    reassign(&mut client, "w", "former");
    run(&mut client, "ROLLBACK");
    assert_eq!(sqlstate(&mut former, "SELECT rgrid_heartbeat('w')"), REFUSED, "it was taken back");
    assert_eq!(beat(&mut next, "w"), 1);
}

#[test]
fn all_ids_of_a_role_are_handed_over_in_one_statement() {
    let cluster = server();
    let database = cluster.database("bulk");
    let mut client = database.connect();
    let (mut former, mut next) = (tenant(&database, "old_fleet"), tenant(&database, "new-fleet"));
    ["a", "b"].iter().for_each(|worker| known_worker(&mut former, worker));
    let all = "SELECT rgrid_reassign_worker(worker_id, 'new-fleet') FROM rgrid_worker_owners WHERE owner = 'old_fleet'";
    run(&mut client, all);
    ["a", "b"].iter().for_each(|worker| known_worker(&mut next, worker));
}

#[test]
fn only_who_has_the_rights_of_both_roles_hands_an_id_over() {
    let cluster = server();
    let database = cluster.database("givers");
    let mut client = database.connect();
    let (mut giver, mut taker) = (tenant(&database, "giver"), tenant(&database, "taker"));
    let mut both = tenant(&database, "of_both");
    run(&mut client, "GRANT giver, taker TO of_both");
    known_worker(&mut giver, "w");
    let call = |role: &str| format!("SELECT rgrid_reassign_worker('w', '{role}')");
    for (caller, role) in [(&mut giver, "taker"), (&mut taker, "taker")] {
        assert_eq!(sqlstate(caller, &call(role)), REFUSED, "without the function");
    }
    run(&mut client, "GRANT EXECUTE ON FUNCTION rgrid_reassign_worker TO giver, taker, of_both");
    assert_eq!(sqlstate(&mut giver, &call("taker")), REFUSED, "nobody is given what is not his");
    assert_eq!(sqlstate(&mut taker, &call("taker")), REFUSED, "nobody takes it");
    run(&mut client, "ALTER ROLE taker SET rgrid_heartbeat.isolate_roles = off");
    assert_eq!(
        sqlstate(&mut database.connect_as("taker"), &call("taker")),
        REFUSED,
        "not where it is shared"
    );
    run(&mut both, &call("taker"));
    assert_eq!(beat(&mut taker, "w"), 1);
    assert_eq!(sqlstate(&mut giver, "SELECT rgrid_heartbeat('w')"), REFUSED);
    for (worker, role, code) in
        [("unknown", "taker", "42704"), ("w", "no such role", "42704"), ("", "taker", "22023")]
    {
        let call = format!("SELECT rgrid_reassign_worker('{worker}', '{role}')");
        assert_eq!(sqlstate(&mut client, &call), code, "{call}");
    }
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_reassign_worker('w', NULL)"), "22004");
    let rows: i64 =
        ask(&mut client, "SELECT count(*) FROM worker_heartbeats WHERE worker_id = 'unknown'", &[]);
    assert_eq!(rows, 0);
}

#[test]
fn a_role_that_is_gone_frees_its_ids() {
    let cluster = server();
    let database = cluster.database("gone_roles");
    let mut client = database.connect();
    let mut next = tenant(&database, "heir");
    known_worker(&mut tenant(&database, "leaving"), "w");
    assert_eq!(sqlstate(&mut next, "SELECT rgrid_heartbeat('w')"), REFUSED);
    run(&mut client, "DROP OWNED BY leaving; DROP ROLE leaving");
    assert_eq!(beat(&mut next, "w"), 1);
    assert!(beats_in_memory(&mut next, "w"));
    let mut namesake = tenant(&database, "leaving");
    assert_eq!(sqlstate(&mut namesake, "SELECT rgrid_heartbeat('w')"), REFUSED, "another role of that name");
}

#[test]
fn a_role_with_another_name_keeps_its_living_workers() {
    let cluster = server();
    let database = cluster.database("renamed_roles");
    let mut client = database.connect();
    let (mut mine, mut theirs) = (tenant(&database, "maiden"), tenant(&database, "stealing"));
    known_worker(&mut mine, "w");
    run(&mut client, "ALTER ROLE maiden RENAME TO married");
    assert_eq!(sqlstate(&mut theirs, "SELECT rgrid_register('w')"), REFUSED);
    let mut namesake = tenant(&database, "maiden");
    assert_eq!(sqlstate(&mut namesake, "SELECT rgrid_register('w')"), REFUSED);
    assert_eq!(ask::<i64>(&mut mine, "SELECT incarnation FROM rgrid_register('w')", &[]), 2);
    assert_eq!(owner(&mut client, "w"), "married", "the new name is kept, for when memory is empty");
}

#[test]
fn a_role_has_no_more_living_workers_than_it_may() {
    let cluster = server();
    let database = cluster.database("limited");
    let mut client = database.connect();
    let (_, mut neighbour) = (tenant(&database, "greedy"), tenant(&database, "modest"));
    run(&mut client, "ALTER ROLE greedy SET rgrid_heartbeat.max_workers_per_role = 2");
    let mut greedy = database.connect_as("greedy");
    assert_eq!(sqlstate(&mut greedy, "SET rgrid_heartbeat.max_workers_per_role = -1"), REFUSED);
    ["a", "b"].iter().for_each(|worker| known_worker(&mut greedy, worker));
    for call in [
        "rgrid_heartbeat('c')",
        "rgrid_register('c')",
        "rgrid_register()",
        "rgrid_heartbeat('{a,c}'::text[])",
    ] {
        let refusal = greedy.batch_execute(&format!("SELECT {call}")).unwrap_err();
        let refusal = refusal.as_db_error().expect("an error of the server");
        assert_eq!(refusal.code().code(), TOO_MANY, "{call}: {refusal}");
        assert!(refusal.hint().unwrap().contains("rgrid_heartbeat.max_workers_per_role"), "{call}");
    }
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM worker_heartbeats", &[]), 2);
    run(&mut greedy, "SELECT rgrid_register('a')");
    assert_eq!(beat(&mut greedy, "b"), 1, "its workers go on");
    ["c", "d", "e"].iter().for_each(|worker| known_worker(&mut neighbour, worker));
    run(&mut greedy, "SELECT rgrid_deregister('a')");
    assert_eq!(beat(&mut greedy, "c_of_greedy"), 1, "one that has left makes room");
}

#[test]
fn the_dead_do_not_count_and_need_room_to_return() {
    let cluster = server();
    let database = cluster.database("limited_dead");
    let mut client = database.connect();
    drop(tenant(&database, "mortal"));
    run(&mut client, "ALTER ROLE mortal SET rgrid_heartbeat.max_workers_per_role = 1");
    let mut mortal = database.connect_as("mortal");
    beat(&mut mortal, "old");
    sweep_away(&mut client, "old");
    assert_eq!(beat(&mut mortal, "new"), 1);
    for call in ["rgrid_heartbeat('old')", "rgrid_register('old')"] {
        assert_eq!(sqlstate(&mut mortal, &format!("SELECT {call}")), TOO_MANY, "{call}");
    }
    run(&mut mortal, "SELECT rgrid_deregister('new')");
    assert_eq!(beat(&mut mortal, "old"), 2);
}

#[test]
fn sessions_at_the_same_time_do_not_exceed_the_limit() {
    let cluster = server();
    let database = cluster.database("limited_at_once");
    let mut client = database.connect();
    let mut bystander = tenant(&database, "bystander");
    drop(tenant(&database, "many"));
    run(&mut client, "ALTER DATABASE limited_at_once SET rgrid_heartbeat.max_workers_per_role = 1");
    let (mut first, mut second) = (database.connect_as("many"), database.connect_as("many"));
    run(&mut first, "BEGIN; SELECT rgrid_heartbeat('first')");
    let process = pid(&mut second);
    let late = thread::spawn(move || sqlstate(&mut second, "SELECT rgrid_heartbeat('second')"));
    await_waiting(&cluster, process, "Lock");
    assert_eq!(beat(&mut bystander, "of another role"), 1, "another role does not wait");
    run(&mut first, "COMMIT");
    assert_eq!(late.join().unwrap(), TOO_MANY);
}

#[test]
fn a_worker_that_is_handed_over_counts_for_its_new_owner() {
    let cluster = server();
    let database = cluster.database("limited_hands");
    let mut client = database.connect();
    let (mut full, mut other) = (tenant(&database, "full_house"), tenant(&database, "giving_house"));
    beat(&mut full, "a");
    beat(&mut other, "b");
    run(&mut client, "SET rgrid_heartbeat.max_workers_per_role = 1");
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_reassign_worker('b', 'full_house')"), TOO_MANY);
    run(&mut client, "SET rgrid_heartbeat.max_workers_per_role = 2");
    reassign(&mut client, "b", "full_house");
    assert_eq!(beat(&mut full, "b"), 1);
}
