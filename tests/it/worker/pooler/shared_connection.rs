//! Clients that have one connection of the server in turns, so that what one of them leaves in the session would meet
//! the others.

use super::*;
use std::thread;

/// A pool of one connection: whoever asks gets that.
const ONE: &str = "pool_mode = transaction\ndefault_pool_size = 1";

#[test]
fn clients_with_different_roles_do_not_share_ids() {
    let cluster = server();
    let database = cluster.database("roles");
    let pooler = Pooler::start(&cluster, ONE);
    let mut client = database.connect();
    for role in ["one", "two"] {
        drop(tenant(&database, role));
    }
    let [mut first, mut second] = [(); 2].map(|()| pooler.connect("roles"));
    let as_role = |client: &mut Client, role: &str, sql: &str| {
        let done = value(client, &format!("BEGIN; SET LOCAL ROLE {role}; {sql}"));
        value(client, "COMMIT").unwrap();
        done
    };
    let refused = Err("42501".to_owned());
    for _ in 0..3 {
        assert_eq!(as_role(&mut first, "one", "SELECT rgrid_heartbeat('of-one')").unwrap(), "1");
        assert_eq!(as_role(&mut second, "two", "SELECT rgrid_heartbeat('of-two')").unwrap(), "1");
        for call in ["rgrid_heartbeat('of-one')", "rgrid_register('of-one')", "rgrid_deregister('of-one')"] {
            assert_eq!(as_role(&mut second, "two", &format!("SELECT {call}")), refused, "{call}");
        }
    }
    assert_eq!(owner(&mut client, "of-one"), "one");
    assert_eq!(owner(&mut client, "of-two"), "two");
    let backend = "SELECT pg_backend_pid()";
    assert_eq!(value(&mut first, backend), value(&mut second, backend), "they have one connection in turns");
}

#[test]
fn what_a_client_rolled_back_or_left_is_not_committed_by_the_next_one() {
    let cluster = server();
    let database = cluster.database("leftovers");
    let pooler = Pooler::start(&cluster, ONE);
    let mut client = database.connect();
    let [mut first, mut second, mut gone] = [(); 3].map(|()| pooler.connect("leftovers"));
    value(&mut first, "BEGIN; SELECT rgrid_heartbeat('rolled-back'); ROLLBACK").unwrap();
    value(&mut second, "SELECT rgrid_heartbeat('next')").unwrap();
    value(&mut gone, "BEGIN; SELECT rgrid_heartbeat('left')").unwrap();
    drop(gone);
    value(&mut second, "SELECT rgrid_heartbeat('next')").unwrap();
    let workers = "SELECT string_agg(worker_id, ' ') FROM rgrid_workers";
    assert_eq!(ask::<String>(&mut client, workers, &[]), "next");
    for worker in ["rolled-back", "left"] {
        // A heartbeat in memory has no transaction id: an entry would be one of a worker without a row.
        let in_row = format!(
            "SELECT rgrid_heartbeat('{worker}') = 1 AND pg_current_xact_id_if_assigned() IS NOT NULL"
        );
        assert_eq!(value(&mut first, &in_row).unwrap(), "t", "{worker}");
    }
}

#[test]
fn a_life_goes_on_when_its_calls_come_from_different_connections() {
    let cluster = server();
    let database = cluster.database("calls");
    let pooler = Pooler::start(&cluster, TRANSACTION_MODE);
    let mut client = database.connect();
    let mut sessions: Vec<Client> = (0..6).map(|_| pooler.connect("calls")).collect();
    for session in &mut sessions {
        // Each holds a connection of its own for a moment, so that the calls that follow find several.
        value(session, "SELECT rgrid_heartbeat('worker')").unwrap();
    }
    claim_jobs(&mut client, "worker", 2);
    let [first, second, third, ..] = sessions.as_mut_slice() else { panic!("there are six") };
    value(first, "BEGIN").unwrap();
    assert_eq!(value(second, "SELECT incarnation FROM rgrid_register('worker')").unwrap(), "2");
    assert_eq!(failed_jobs(&mut client, "worker"), 2);
    assert_eq!(value(first, "SELECT rgrid_heartbeat('worker'); COMMIT").unwrap(), "2");
    assert_eq!(value(third, "SELECT rgrid_deregister('worker')").unwrap(), "t");
    assert_eq!(value(first, "SELECT count(*) FROM rgrid_workers").unwrap(), "0");
}

#[test]
fn in_session_mode_the_next_client_begins_anew() {
    let cluster = server();
    let _database = cluster.database("reset");
    let pooler = Pooler::start(&cluster, "pool_mode = session\ndefault_pool_size = 1");
    let mut backends = Vec::new();
    for number in 0..3 {
        // PgBouncer runs DISCARD ALL between two clients, which forgets plans and settings.
        let mut session = pooler.connect("reset");
        backends.push(pid(&mut session));
        let limit: String = ask(&mut session, "SELECT current_setting('rgrid_heartbeat.call_timeout')", &[]);
        assert_eq!(limit, "5s");
        run(&mut session, "SET rgrid_heartbeat.call_timeout = '1s'");
        assert_eq!(beat(&mut session, "worker"), 1);
        assert_eq!(beat(&mut session, &format!("worker-{number}")), 1);
    }
    backends.dedup();
    assert_eq!(backends.len(), 1, "they have one connection in turns");
}

#[test]
fn heartbeats_in_a_pool_of_their_own_do_not_wait_for_jobs() {
    let cluster = server();
    let database = cluster.database("jobs_first");
    let server = cluster.socket_directory().display();
    let own = format!("{ONE}\n[databases]\nbeats = host={server} port=5432 dbname=jobs_first");
    let pooler = Pooler::start(&cluster, &own);
    let mut client = database.connect();
    let [mut job, mut held_up] = [(); 2].map(|()| pooler.connect("jobs_first"));
    let mut apart = pooler.connect("beats");
    value(&mut job, "BEGIN; SELECT pg_backend_pid()").unwrap();
    assert_eq!(value(&mut apart, "SELECT rgrid_heartbeat('apart')").unwrap(), "1");
    let waiting = thread::spawn(move || value(&mut held_up, "SELECT rgrid_heartbeat('held-up')"));
    // The columns are database, user, active clients, waiting clients.
    wait_until("a heartbeat to wait for the job", || {
        pooler.command("SHOW POOLS").iter().any(|pool| pool[0] == "jobs_first" && pool[3] == "1")
    });
    assert_eq!(
        ask::<String>(&mut client, "SELECT string_agg(worker_id, ' ') FROM rgrid_workers", &[]),
        "apart"
    );
    value(&mut job, "COMMIT").unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), "1");
}
