//! What a worker is told when it starts, comes back or leaves, and what becomes of its jobs.

use crate::cluster::*;
use std::thread;

fn server() -> Shared {
    Shared::of(Cluster::quick)
}

#[test]
fn a_returning_worker_gets_the_next_incarnation_and_keeps_its_new_jobs() {
    let cluster = server();
    let database = cluster.database("returns");
    let mut client = database.connect();
    claim_jobs(&mut client, "phoenix", 2);
    await_sweep(&mut client, "phoenix");
    assert_eq!(ledger(&mut client, "phoenix"), ["1 stale 2 gone"]);

    for _ in 0..2 {
        let incarnation: i64 = ask(&mut client, "SELECT rgrid_heartbeat('phoenix')", &[]);
        assert_eq!(incarnation, 2);
    }
    assert_eq!(ledger(&mut client, "phoenix"), ["1 stale 2 returned"]);

    let beats = Beating::calling(database.connect(), "phoenix");
    claim_jobs(&mut client, "phoenix", 1);
    await_sweep(&mut client, "a-later-victim");
    assert_eq!(jobs(&mut client, "phoenix", "running"), 1, "an old death costs no new job");

    drop(beats);
    wait_until("the second death", || deaths(&mut client, "phoenix") == 2);
    assert_eq!(ledger(&mut client, "phoenix"), ["1 stale 2 returned", "2 stale 1 gone"]);
    assert_eq!(failed_jobs(&mut client, "phoenix"), 3);
}

#[test]
fn registering_a_living_id_settles_the_jobs_of_the_life_before() {
    let cluster = server();
    let database = cluster.database("restarts");
    let mut client = database.connect();
    let register = "SELECT incarnation FROM rgrid_register('restarted-worker', 'host.example')";
    assert_eq!(ask::<i64>(&mut client, register, &[]), 1);
    claim_jobs(&mut client, "restarted-worker", 2);

    assert_eq!(ask::<i64>(&mut client, register, &[]), 2);
    assert_eq!(failed_jobs(&mut client, "restarted-worker"), 2);
    assert_eq!(ledger(&mut client, "restarted-worker"), ["1 restarted 2 returned"]);
}

#[test]
fn registering_a_dead_id_is_a_return_and_settles_what_is_left() {
    let cluster = server();
    let database = cluster.database("reregisters");
    let mut client = database.connect();
    claim_jobs(&mut client, "victim", 1);
    await_sweep(&mut client, "victim");
    let incarnation: i64 = ask(&mut client, "SELECT incarnation FROM rgrid_register('victim')", &[]);
    assert_eq!(incarnation, 2);
    assert_eq!(ledger(&mut client, "victim"), ["1 stale 1 returned"]);
    assert_eq!(failed_jobs(&mut client, "victim"), 1);
}

#[test]
fn deregistering_settles_the_jobs_that_still_run() {
    let cluster = server();
    let database = cluster.database("leaves");
    let mut client = database.connect();
    run(&mut client, "SELECT rgrid_register('busy'), rgrid_register('idle')");
    claim_jobs(&mut client, "busy", 2);
    for worker in ["busy", "idle"] {
        let known: bool = ask(&mut client, "SELECT rgrid_deregister($1)", &[&worker]);
        let again: bool = ask(&mut client, "SELECT rgrid_deregister($1)", &[&worker]);
        assert!(known && !again, "{worker}");
    }
    assert_eq!(failed_jobs(&mut client, "busy"), 2);
    let sql = "SELECT reason || ' ' || jobs_failed FROM rgrid_worker_deaths WHERE worker_id = 'busy'";
    assert_eq!(ask::<String>(&mut client, sql, &[]), "deregistered 2");
    assert_eq!(deaths(&mut client, "idle"), 0, "who runs nothing dies no death");

    await_sweep(&mut client, "a-later-victim");
    let sql = "SELECT count(*) FROM rgrid_worker_deaths WHERE worker_id IN ('busy', 'idle')";
    assert_eq!(ask::<i64>(&mut client, sql, &[]), 1, "no sweep finds them again");
}

#[test]
fn a_job_claimed_by_a_dead_worker_is_failed_by_a_later_sweep() {
    let cluster = server();
    let database = cluster.database("zombies");
    let mut client = database.connect();
    await_sweep(&mut client, "zombie");
    claim_jobs(&mut client, "zombie", 2);
    wait_until("the jobs to be settled", || failed_jobs(&mut client, "zombie") == 2);
    assert_eq!(deaths(&mut client, "zombie"), 1);
}

#[test]
fn a_heartbeat_without_a_hostname_keeps_the_one_that_was_named() {
    let cluster = server();
    let database = cluster.database("hosts");
    let mut client = database.connect();
    run(&mut client, "SELECT rgrid_register('named', 'node-7.example')");
    run(&mut client, "SELECT rgrid_heartbeat('named')");
    let sql = "SELECT hostname FROM worker_heartbeats WHERE worker_id = 'named'";
    assert_eq!(ask::<String>(&mut client, sql, &[]), "node-7.example");
    run(&mut client, "SELECT rgrid_heartbeat('named', 'node-8.example')");
    assert_eq!(ask::<String>(&mut client, sql, &[]), "node-8.example");
}

/// Runs `call` while another session has changed something in the one job of `worker` and not committed yet.
fn while_a_job_changes(database: &Database, worker: &'static str, call: &'static str) -> i64 {
    let (mut holder, mut client, mut caller) = (database.connect(), database.connect(), database.connect());
    run(&mut holder, &format!("BEGIN; UPDATE executions SET stdout = 'half' WHERE worker_id = '{worker}'"));
    let pid: i32 = ask(&mut caller, "SELECT pg_backend_pid()", &[]);
    let called = thread::spawn(move || ask::<i64>(&mut caller, call, &[]));
    wait_until("the call to wait for the job", || {
        let sql = "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'";
        ask(&mut client, sql, &[&pid])
    });
    run(&mut holder, "COMMIT");
    called.join().expect("the call succeeds")
}

#[test]
fn a_job_that_changes_while_its_worker_registers_again_is_settled() {
    let cluster = server();
    let database = cluster.database("changes");
    let mut client = database.connect();
    run(&mut client, "SELECT rgrid_register('hasty')");
    claim_jobs(&mut client, "hasty", 1);
    let call = "SELECT incarnation FROM rgrid_register('hasty')";
    assert_eq!(while_a_job_changes(&database, "hasty", call), 2);
    assert_eq!(failed_jobs(&mut client, "hasty"), 1, "who is told 2 has no jobs of 1");
    assert_eq!(ledger(&mut client, "hasty"), ["1 restarted 1 returned"]);
}

#[test]
fn a_job_that_changes_while_its_worker_deregisters_is_settled() {
    let cluster = server();
    let database = cluster.database("changing");
    let mut client = database.connect();
    run(&mut client, "SELECT rgrid_register('leaving')");
    claim_jobs(&mut client, "leaving", 1);
    while_a_job_changes(&database, "leaving", "SELECT rgrid_deregister('leaving')::int::bigint");
    assert_eq!(failed_jobs(&mut client, "leaving"), 1);
    assert_eq!(deaths(&mut client, "leaving"), 1);
}

/// Dies before the snapshot of its next transaction, and claims a job, as a zombie does, after it.
fn returning_with_an_old_snapshot(name: &str, isolation: &str, call: &str) {
    // No sweeper is to be faster.
    let cluster = Cluster::quick().setting("rgrid_heartbeat.check_interval", "1h").start();
    let database = cluster.database(name);
    let (mut client, mut worker) = (database.connect(), database.connect());
    silent_worker(&mut client, "zombie");
    sweep_away(&mut client, "zombie");
    run(&mut worker, &format!("BEGIN ISOLATION LEVEL {isolation}; SELECT FROM executions"));
    claim_jobs(&mut client, "zombie", 2);
    run(&mut worker, &format!("{call}; COMMIT"));
    assert_eq!(jobs(&mut client, "zombie", "running"), 0, "claimed before the return");
    assert_eq!(failed_jobs(&mut client, "zombie"), 2);
    assert_eq!(ledger(&mut client, "zombie"), ["1 stale 2 returned"]);
}

#[test]
fn a_return_settles_jobs_that_are_newer_than_its_snapshot() {
    returning_with_an_old_snapshot("repeatable", "REPEATABLE READ", "SELECT rgrid_heartbeat('zombie')");
}

#[test]
fn a_registration_settles_jobs_that_are_newer_than_its_snapshot() {
    returning_with_an_old_snapshot("serializable", "SERIALIZABLE", "SELECT rgrid_register('zombie')");
}

#[test]
fn a_return_whose_row_is_newer_than_its_snapshot_is_to_be_repeated() {
    let cluster = server();
    let database = cluster.database("newer_death");
    let (mut client, mut worker) = (database.connect(), database.connect());
    run(&mut worker, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM executions");
    claim_jobs(&mut client, "victim", 1);
    silent_worker(&mut client, "victim");
    await_death(&mut client, "victim");
    assert_eq!(sqlstate(&mut worker, "SELECT rgrid_heartbeat('victim')"), "40001");
    run(&mut worker, "ROLLBACK");
    assert_eq!(beat(&mut worker, "victim"), 2);
}

#[test]
fn a_worker_leaves_although_rows_of_other_tables_refer_to_its_row() {
    let cluster = server();
    let database = cluster.database("referred_to");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE TABLE log_lines (worker_id text REFERENCES worker_heartbeats, line text);
         SELECT rgrid_register('logged'), rgrid_register('quiet');
         INSERT INTO log_lines VALUES ('logged', 'hello')",
    );
    assert!(ask::<bool>(&mut client, "SELECT rgrid_deregister('logged')", &[]));
    assert!(ask::<bool>(&mut client, "SELECT rgrid_deregister('quiet')", &[]));
    assert_eq!(ledger(&mut client, "logged"), ["1 deregistered 0 gone"]);
    assert_eq!(deaths(&mut client, "quiet"), 0);
    assert_eq!(cluster.log_lines_with(&["row of worker \"logged\" stays"]).len(), 1);
    await_sweep(&mut client, "victim");
    assert_eq!(deaths(&mut client, "logged"), 1, "it is gone already");
    assert_eq!(ask::<i64>(&mut client, "SELECT incarnation FROM rgrid_register('logged')", &[]), 2);
    assert_eq!(ledger(&mut client, "logged"), ["1 deregistered 0 returned"]);
    run(&mut client, "DELETE FROM log_lines");
    assert!(ask::<bool>(&mut client, "SELECT rgrid_deregister('logged')", &[]));
    assert_eq!(
        ask::<i64>(&mut client, "SELECT count(*) FROM worker_heartbeats WHERE worker_id = 'logged'", &[]),
        0
    );
}
