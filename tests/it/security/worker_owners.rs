//! Ids belong to the role that first used them: what another role tries with them, in rows and in memory.

use super::REFUSED;
use crate::cluster::*;
use std::thread;

/// Workers are given up by hand only.
fn server() -> Shared {
    Shared::of(|| {
        Cluster::quick()
            .setting("rgrid_heartbeat.check_interval", "1h")
            .setting("rgrid_heartbeat.stale_threshold", "1h")
    })
}

/// The calls that one worker of another role could make.
fn calls(worker: &str) -> [String; 7] {
    [
        format!("SELECT rgrid_heartbeat('{worker}')"),
        format!("SELECT rgrid_heartbeat('{worker}', 'another host')"),
        format!("SELECT rgrid_heartbeat(ARRAY['{worker}'])"),
        format!("SELECT rgrid_register('{worker}')"),
        format!("SELECT rgrid_deregister('{worker}')"),
        format!("SELECT rgrid_attach('{worker}')"),
        format!("SELECT rgrid_detach('{worker}')"),
    ]
}

#[test]
fn another_role_can_neither_keep_alive_nor_restart_nor_deregister_a_worker() {
    let cluster = server();
    let database = cluster.database("owned");
    let mut client = database.connect();
    let (mut mine, mut theirs) = (tenant(&database, "owning"), tenant(&database, "preying"));
    known_worker(&mut mine, "w");
    claim_jobs(&mut client, "w", 2);
    let heard = last_heard(&mut client, "w");
    for call in calls("w") {
        let refusal = theirs.batch_execute(&call).unwrap_err();
        let refusal = refusal.as_db_error().expect("an error of the server");
        assert_eq!(refusal.code().code(), REFUSED, "{call}");
        assert_eq!(refusal.message(), "permission denied for worker \"w\"", "{call}");
        assert!(refusal.detail().unwrap().contains("\"owning\""), "{call}: {refusal:?}");
        assert!(refusal.hint().unwrap().contains("rgrid_reassign_worker()"), "{call}: {refusal:?}");
        assert_eq!(last_heard(&mut client, "w"), heard, "{call} is no heartbeat");
    }
    assert_eq!((jobs(&mut client, "w", "running"), deaths(&mut client, "w")), (2, 0));
    assert!(beats_in_memory(&mut mine, "w"), "its own heartbeats go on as before");
    known_worker(&mut theirs, "another");
    assert!(
        ask::<bool>(&mut theirs, "SELECT rgrid_deregister('another')", &[]),
        "the neighbour goes on, too"
    );
    assert_eq!(owner(&mut client, "w"), "owning");
}

#[test]
fn a_refused_call_waits_for_nobody_and_nobody_waits_for_it() {
    let cluster = server();
    let database = cluster.database("waiting");
    let (mut mine, mut theirs) = (tenant(&database, "patient"), tenant(&database, "stalling"));
    beat(&mut mine, "w");
    run(&mut mine, "BEGIN; SELECT rgrid_register('w')");
    for call in calls("w") {
        run(&mut theirs, "SET lock_timeout = '10ms'");
        assert_eq!(sqlstate(&mut theirs, &call), REFUSED, "{call} does not wait for the row");
    }
    run(&mut mine, "COMMIT; SET lock_timeout = '10ms'");
    for call in calls("w") {
        run(&mut theirs, "BEGIN; SAVEPOINT before");
        assert_eq!(sqlstate(&mut theirs, &call), REFUSED);
        run(&mut theirs, "ROLLBACK TO before");
        run(&mut mine, "SELECT rgrid_register('w'); SELECT rgrid_heartbeat('w', 'yet another host')");
        run(&mut theirs, "ROLLBACK");
    }
}

#[test]
fn of_two_roles_that_use_an_id_first_at_the_same_time_one_gets_it() {
    let cluster = server();
    let database = cluster.database("raced");
    let mut client = database.connect();
    let mut first = tenant(&database, "faster");
    drop(tenant(&database, "slower"));
    for (worker, end, outcome, owned_by) in
        [("kept", "COMMIT", Err(REFUSED), "faster"), ("let go", "ROLLBACK", Ok(1), "slower")]
    {
        run(&mut first, "BEGIN");
        assert_eq!(beat(&mut first, worker), 1);
        let mut second = database.connect_as("slower");
        let process = pid(&mut second);
        let late = thread::spawn(move || {
            let row = second.query_one("SELECT rgrid_heartbeat($1)", &[&worker]);
            row.map(|row| row.get::<_, i64>(0)).map_err(|error| error.code().unwrap().code().to_owned())
        });
        await_waiting(&cluster, process, "Lock");
        run(&mut first, end);
        assert_eq!(late.join().unwrap(), outcome.map_err(str::to_owned), "{worker}");
        assert_eq!(owner(&mut client, worker), owned_by);
    }
}

#[test]
fn members_and_superusers_use_an_id_in_memory_for_as_long_as_they_are_that() {
    let cluster = server();
    let database = cluster.database("shared_by_members");
    let mut client = database.connect();
    let (mut team, mut member) = (tenant(&database, "team"), tenant(&database, "member"));
    run(&mut client, "GRANT team TO member");
    known_worker(&mut team, "w");
    assert!(beats_in_memory(&mut member, "w") && beats_in_memory(&mut client, "w"));
    assert_eq!(ask::<i64>(&mut member, "SELECT incarnation FROM rgrid_register('w')", &[]), 2);
    assert_eq!(owner(&mut client, "w"), "team", "whoever registers it again");
    known_worker(&mut member, "w");
    run(&mut client, "REVOKE team FROM member");
    assert_eq!(sqlstate(&mut member, "SELECT rgrid_heartbeat('w')"), REFUSED, "in a session that is open");
    assert!(beats_in_memory(&mut team, "w"));
    run(&mut client, "ALTER ROLE member SUPERUSER");
    assert!(beats_in_memory(&mut member, "w"));
}

#[test]
fn login_roles_that_are_rotated_use_ids_as_the_role_that_they_set() {
    let cluster = server();
    let database = cluster.database("rotated");
    let mut client = database.connect();
    drop((tenant(&database, "fleet"), tenant(&database, "login_of_may"), tenant(&database, "login_of_june")));
    for login in ["login_of_may", "login_of_june"] {
        run(&mut client, &format!("GRANT fleet TO {login}; ALTER ROLE {login} SET role = 'fleet'"));
        known_worker(&mut database.connect_as(login), "w");
    }
    assert_eq!(owner(&mut client, "w"), "fleet");
    run(&mut client, "DROP OWNED BY login_of_may; DROP ROLE login_of_may");
    assert!(beats_in_memory(&mut database.connect_as("login_of_june"), "w"));
}

#[test]
fn callers_of_one_security_definer_function_share_its_owners_ids() {
    let cluster = server();
    let database = cluster.database("definer");
    let mut client = database.connect();
    drop(tenant(&database, "gate"));
    run(
        &mut client,
        "CREATE FUNCTION through_the_gate(id text) RETURNS bigint LANGUAGE sql SECURITY DEFINER
             AS 'SELECT public.rgrid_heartbeat(id)';
         ALTER FUNCTION through_the_gate OWNER TO gate;
         CREATE ROLE guest LOGIN; CREATE ROLE another_guest LOGIN",
    );
    for guest in ["guest", "another_guest"] {
        run(&mut database.connect_as(guest), "SELECT through_the_gate('w')");
    }
    assert_eq!(owner(&mut client, "w"), "gate");
}

#[test]
fn an_id_that_was_taken_away_fails_an_agents_call_but_keeps_its_other_workers_alive() {
    let cluster = server();
    let database = cluster.database("agents");
    let mut client = database.connect();
    let (mut agent, mut squatter) = (tenant(&database, "agent"), tenant(&database, "squatter"));
    ["a", "z"].iter().for_each(|worker| known_worker(&mut agent, worker));
    beat(&mut squatter, "m");
    let before = server_time(&mut client);
    assert_eq!(sqlstate(&mut agent, "SELECT rgrid_heartbeat('{a,m,z}'::text[])"), REFUSED);
    for worker in ["a", "z"] {
        assert!(last_heard(&mut client, worker) > Some(before), "{worker} was heard");
    }
}

#[test]
fn ids_are_shared_where_a_superuser_says_so_and_nobody_else_can() {
    let cluster = server();
    let database = cluster.database("shared_ids");
    let mut client = database.connect();
    let (mut one, mut other) = (tenant(&database, "one"), tenant(&database, "the_other"));
    known_worker(&mut one, "w");
    assert_eq!(sqlstate(&mut other, "SET rgrid_heartbeat.isolate_roles = off"), REFUSED);
    assert_eq!(sqlstate(&mut other, "SELECT rgrid_heartbeat('w')"), REFUSED);
    run(&mut client, "ALTER DATABASE shared_ids SET rgrid_heartbeat.isolate_roles = off");
    let mut other = database.connect_as("the_other");
    assert!(beats_in_memory(&mut other, "w"));
    assert_eq!(ask::<i64>(&mut other, "SELECT incarnation FROM rgrid_register('w')", &[]), 2);
    assert_eq!(owner(&mut client, "w"), "one");
    run(&mut client, "ALTER DATABASE shared_ids RESET rgrid_heartbeat.isolate_roles");
    assert_eq!(sqlstate(&mut database.connect_as("the_other"), "SELECT rgrid_heartbeat('w')"), REFUSED);
}

#[test]
fn without_memory_ids_have_owners_all_the_same() {
    let cluster = Cluster::builder().preload(false).start();
    let database = cluster.database("unloaded");
    let (mut mine, mut theirs) = (tenant(&database, "owner_of_rows"), tenant(&database, "thief_of_rows"));
    assert_eq!(beat(&mut mine, "w"), 1);
    let needs_memory = |call: &String| call.contains("attach") || call.contains("detach");
    for call in calls("w").into_iter().filter(|call| !needs_memory(call)) {
        assert_eq!(sqlstate(&mut theirs, &call), REFUSED, "{call}");
    }
    assert!(ask::<bool>(&mut mine, "SELECT rgrid_deregister('w')", &[]));
    assert_eq!(beat(&mut theirs, "w"), 1, "an id that was deregistered is free");
}

#[test]
fn rows_that_clients_write_themselves_go_to_the_first_role_that_calls_a_function() {
    let cluster = server();
    let database = cluster.database("written");
    let mut client = database.connect();
    let (mut mine, mut theirs) = (tenant(&database, "caller_of_written"), tenant(&database, "late_caller"));
    silent_worker(&mut client, "w");
    assert_eq!(owner(&mut client, "w"), "nobody");
    assert_eq!(beat(&mut mine, "w"), 1);
    assert_eq!(sqlstate(&mut theirs, "SELECT rgrid_heartbeat('w')"), REFUSED);
}

#[test]
fn in_an_adopted_table_ids_belong_to_no_role() {
    let cluster = server();
    let database = cluster.rgrid_database("adopted_ids");
    let mut client = database.connect();
    run(
        &mut client,
        "INSERT INTO workers (worker_id, status, max_concurrent, created_at) VALUES ('w', 'active', 2, now())",
    );
    let (mut one, mut other) = (tenant(&database, "adopted_one"), tenant(&database, "adopted_other"));
    known_worker(&mut one, "w");
    assert!(beats_in_memory(&mut other, "w"));
    let found = "SELECT status || ' ' || detail FROM rgrid_health() WHERE check_name = 'worker owners'";
    let found: String = ask(&mut client, found, &[]);
    assert!(found.starts_with("ok ") && found.contains("belong to no role"), "{found}");
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_reassign_worker('w', 'adopted_other')"), "55000");
    run(&mut client, "ALTER DATABASE adopted_ids SET rgrid_heartbeat.max_workers_per_role = 0");
    assert_eq!(beat(&mut database.connect_as("adopted_one"), "w"), 1, "nor is their number limited");
}
