//! A worker's call answers within `rgrid_heartbeat.call_timeout`, whatever a watched table does. Jobs that it leaves
//! behind are settled later, unless somebody has changed them.

use crate::cluster::*;
use postgres::Client;
use std::time::{Duration, Instant};

/// Sweeps every 200 ms; a worker is stale after a minute, so only registrations end a life.
fn server() -> Shared {
    Shared::of(|| {
        Cluster::quick()
            .setting("rgrid_heartbeat.stale_threshold", "1min")
            .setting("rgrid_heartbeat.call_timeout", "1500ms")
            .setting("rgrid_heartbeat.statement_timeout", "500ms")
    })
}

/// A table `slow.jobs` of the role, watched, with a running job of `worker`, who is alive with a job in `executions`.
fn watched_table(client: &mut Client, role: &str) {
    let sql = format!(
        "CREATE ROLE {role} LOGIN;
         CREATE SCHEMA slow AUTHORIZATION {role};
         CREATE TABLE slow.jobs (id bigint PRIMARY KEY, worker_id text, status text, execution_error text,
                                 completed_at timestamp, progress integer);
         ALTER TABLE slow.jobs OWNER TO {role};
         SELECT rgrid_watch_jobs('slow.jobs');
         SELECT rgrid_register('worker')"
    );
    run(client, &sql);
    claim_jobs(client, "worker", 1);
    run(client, "INSERT INTO slow.jobs SELECT id, worker_id, status FROM executions");
}

fn with_trigger(client: &mut Client, body: &str) {
    let sql = format!(
        "CREATE FUNCTION slow.act() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} RETURN NEW; END$$;
         CREATE TRIGGER act BEFORE UPDATE ON slow.jobs FOR EACH ROW EXECUTE FUNCTION slow.act()"
    );
    run(client, &sql);
}

/// The new number of a worker that registers, which takes no longer than it may.
fn register(client: &mut Client, worker: &str) -> i64 {
    let started = Instant::now();
    let incarnation = ask(client, "SELECT incarnation FROM rgrid_register($1)", &[&worker]);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    incarnation
}

fn status(client: &mut Client) -> String {
    ask(client, "SELECT string_agg(status, ' ' ORDER BY id) FROM slow.jobs", &[])
}

fn noted(client: &mut Client) -> i64 {
    ask(client, "SELECT count(*) FROM rgrid_unsettled_jobs", &[])
}

fn jobs_of_death(client: &mut Client, incarnation: i64) -> i64 {
    let sql = "SELECT jobs_failed FROM rgrid_worker_deaths WHERE worker_id = 'worker' AND incarnation = $1";
    ask(client, sql, &[&incarnation])
}

/// The job is settled for the first incarnation, and nothing stays noted.
fn await_settlement(client: &mut Client) {
    wait_until("the job to be settled", || status(client) == "failed");
    wait_until("the note to go", || noted(client) == 0);
    assert_eq!(jobs_of_death(client, 1), 2);
}

#[test]
fn a_table_that_cannot_be_read_keeps_no_worker_away() {
    let cluster = server();
    let database = cluster.database("unreadable");
    let (mut client, mut owner) = (database.connect(), database.connect());
    watched_table(&mut client, "locks_all");
    run(&mut owner, "BEGIN; LOCK TABLE slow.jobs");
    assert_eq!(register(&mut client, "worker"), 2);
    assert_eq!(failed_jobs(&mut client, "worker"), 1);
    assert_eq!(register(&mut client, "new"), 1);
    assert!(ask::<bool>(&mut client, "SELECT rgrid_deregister('new')", &[]));
    assert!(noted(&mut client) >= 2);
    run(&mut owner, "COMMIT");
    await_settlement(&mut client);
}

#[test]
fn jobs_of_the_new_process_are_not_taken_for_those_of_the_old_one() {
    let cluster = server();
    let database = cluster.database("claims");
    let (mut client, mut owner) = (database.connect(), database.connect());
    watched_table(&mut client, "locks_for_claims");
    // Both in one transaction, which has written before: its own id is older than the moment of the registration.
    run(&mut owner, "BEGIN; LOCK TABLE slow.jobs");
    run(&mut client, "BEGIN; CREATE TABLE written_before (); SAVEPOINT claim");
    assert_eq!(register(&mut client, "worker"), 2);
    let mut other = database.connect();
    run(&mut other, "CREATE TABLE committed_meanwhile ()");
    run(&mut owner, "COMMIT");
    run(&mut client, "INSERT INTO slow.jobs SELECT id + 1, worker_id, 'running' FROM slow.jobs");
    run(&mut client, "COMMIT");
    wait_until("the old job to be settled", || status(&mut client) == "failed running");
    wait_until("the note to go", || noted(&mut client) == 0);
    assert_eq!(jobs_of_death(&mut client, 1), 2);
    assert_eq!(status(&mut client), "failed running");
}

#[test]
fn locked_jobs_are_settled_when_their_lock_is_gone_and_they_are_as_before() {
    let cluster = server();
    let database = cluster.database("locked_jobs");
    let (mut client, mut zombie) = (database.connect(), database.connect());
    watched_table(&mut client, "locks_jobs");
    run(&mut client, "INSERT INTO slow.jobs SELECT id + 1, worker_id, status FROM slow.jobs");
    run(
        &mut zombie,
        "BEGIN; UPDATE slow.jobs SET status = 'completed' WHERE id = (SELECT min(id) FROM slow.jobs)",
    );
    // There is time to wait for a lock, but not for long.
    run(&mut client, "SET rgrid_heartbeat.call_timeout = '4s'");
    assert_eq!(register(&mut client, "worker"), 2);
    assert_eq!(status(&mut client), "running failed");
    assert!(ask::<bool>(
        &mut client,
        "SELECT job_keys = ARRAY[(SELECT min(id)::text FROM slow.jobs)] AND reason LIKE '%locked by another session'
         FROM rgrid_unsettled_jobs",
        &[]
    ));
    run(&mut zombie, "ROLLBACK");
    wait_until("the job to be settled", || status(&mut client) == "failed failed");
    wait_until("the note to go", || noted(&mut client) == 0);
    assert_eq!(jobs_of_death(&mut client, 1), 3);
}

#[test]
fn jobs_that_are_left_behind_twice_count_for_the_life_that_ran_them() {
    let cluster = server();
    let database = cluster.database("left_twice");
    let (mut client, mut first, mut second) = (database.connect(), database.connect(), database.connect());
    watched_table(&mut client, "leaves_twice");
    run(&mut first, "BEGIN; SELECT FROM slow.jobs FOR UPDATE");
    assert_eq!(register(&mut client, "worker"), 2);
    run(
        &mut client,
        "INSERT INTO slow.jobs (id, worker_id, status) SELECT id + 1, worker_id, status FROM slow.jobs",
    );
    run(&mut second, "BEGIN; SELECT FROM slow.jobs ORDER BY id DESC LIMIT 1 FOR UPDATE");
    assert_eq!(register(&mut client, "worker"), 3);
    assert_eq!(noted(&mut client), 2);
    run(&mut second, "ROLLBACK");
    run(&mut first, "ROLLBACK");
    wait_until("the jobs to be settled", || status(&mut client) == "failed failed");
    wait_until("the notes to go", || noted(&mut client) == 0);
    assert_eq!((jobs_of_death(&mut client, 1), jobs_of_death(&mut client, 2)), (2, 1));
}

#[test]
fn a_job_that_was_changed_meanwhile_is_said_and_left_alone() {
    let cluster = server();
    let database = cluster.database("changed_jobs");
    let (mut client, mut zombie) = (database.connect(), database.connect());
    watched_table(&mut client, "changes_jobs");
    // In a subtransaction, whose id no snapshot of SQL shows.
    run(&mut zombie, "BEGIN; CREATE TABLE zombies (); SAVEPOINT s; UPDATE slow.jobs SET progress = 99");
    assert_eq!(register(&mut client, "worker"), 2);
    run(&mut zombie, "COMMIT");
    wait_until("the note to go", || noted(&mut client) == 0);
    assert_eq!(status(&mut client), "running");
    let key: String = ask(&mut client, "SELECT id::text FROM slow.jobs", &[]);
    let line = "\"worker\" had left behind in table slow.jobs have changed since and are not settled";
    assert_eq!(cluster.log_lines_with(&[line, &key]).len(), 1);
}

/// A transaction that changes the job in a subtransaction, after so many others.
fn change_after_subtransactions(zombie: &mut Client, count: i32) {
    let sql = format!(
        "CREATE TABLE notes (n integer);
         BEGIN;
         DO $$BEGIN
             FOR n IN 1..{count} LOOP
                 BEGIN INSERT INTO notes VALUES (n); EXCEPTION WHEN division_by_zero THEN NULL; END;
             END LOOP;
             BEGIN UPDATE slow.jobs SET progress = 1; EXCEPTION WHEN division_by_zero THEN NULL; END;
         END$$"
    );
    run(zombie, &sql);
}

#[test]
fn jobs_of_a_transaction_with_many_subtransactions_are_left_alone() {
    let cluster = server();
    let database = cluster.database("overflow");
    let (mut client, mut zombie) = (database.connect(), database.connect());
    watched_table(&mut client, "many_subtransactions");
    change_after_subtransactions(&mut zombie, 100);
    assert_eq!(register(&mut client, "worker"), 2);
    run(&mut zombie, "COMMIT");
    wait_until("the note to go", || noted(&mut client) == 0);
    assert_eq!(status(&mut client), "running");
}

#[test]
fn a_worker_is_told_no_number_while_its_rows_cannot_be_noted() {
    // A server of its own: these transactions are those of all databases.
    let cluster = Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h").start();
    let database = cluster.database("too_many");
    let (mut client, mut zombie) = (database.connect(), database.connect());
    watched_table(&mut client, "too_many_subtransactions");
    change_after_subtransactions(&mut zombie, 200_100);
    run(&mut client, "CREATE TABLE a_later_transaction ()");
    let error = client.execute("SELECT rgrid_register('worker')", &[]).expect_err("the job is locked");
    let error = error.as_db_error().expect("an error of the server");
    assert_eq!(error.code().code(), "55P03");
    assert!(error.detail().is_some_and(|detail| detail.contains("subtransactions")), "{error:?}");
    run(&mut zombie, "ROLLBACK");
    assert_eq!(register(&mut client, "worker"), 2);
    assert_eq!(status(&mut client), "failed");
}

#[test]
fn whatever_a_trigger_raises_keeps_no_worker_away() {
    let cluster = server();
    for code in ["40001", "40P01", "55P03", "57014", "57P01", "XX000"] {
        let database = cluster.database(&format!("raises_{}", code.to_lowercase()));
        let mut client = database.connect();
        watched_table(&mut client, &format!("raises_{}", code.to_lowercase()));
        with_trigger(&mut client, &format!("RAISE EXCEPTION 'no' USING ERRCODE = '{code}';"));
        assert_eq!(register(&mut client, "worker"), 2, "{code}");
        assert_eq!(failed_jobs(&mut client, "worker"), 1, "{code}");
        run(&mut client, "ALTER TABLE slow.jobs DISABLE TRIGGER act");
        await_settlement(&mut client);
    }
}

#[test]
fn a_trigger_that_sleeps_or_cancels_keeps_no_worker_away() {
    let cluster = server();
    for (name, body) in [
        ("sleeps", "PERFORM pg_sleep(3600);"),
        ("cancels", "PERFORM pg_cancel_backend(pg_backend_pid()), pg_sleep(3600);"),
    ] {
        let database = cluster.database(name);
        let mut client = database.connect();
        watched_table(&mut client, name);
        with_trigger(&mut client, body);
        // Only its own sessions may be cancelled by the role.
        let sql = "GRANT EXECUTE ON FUNCTION rgrid_register(text, text) TO @me; SELECT rgrid_reassign_worker('worker', '@me')";
        run(&mut client, &sql.replace("@me", name));
        let mut worker = database.connect_as(name);
        run(&mut worker, "SET statement_timeout = '1min'");
        assert_eq!(register(&mut worker, "worker"), 2, "{name}");
        assert_eq!(noted(&mut client), 1, "{name}");
        run(&mut client, "ALTER TABLE slow.jobs DISABLE TRIGGER act");
        await_settlement(&mut client);
    }
}

#[test]
fn a_trigger_that_ends_a_workers_session_ends_no_second_one() {
    let cluster = server();
    for (name, body) in [
        (
            "outlives",
            "LOOP BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;",
        ),
        ("exits", "PERFORM set_config('exit_on_error', 'on', false); RAISE EXCEPTION 'bye';"),
    ] {
        let database = cluster.database(name);
        let mut client = database.connect();
        watched_table(&mut client, name);
        with_trigger(&mut client, body);
        let started = Instant::now();
        database.connect().execute("SELECT rgrid_register('worker')", &[]).expect_err("the session ends");
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        assert_eq!(register(&mut database.connect(), "worker"), 2, "{name}");
        assert_eq!(failed_jobs(&mut client, "worker"), 1, "{name}");
        assert_eq!(status(&mut client), "running", "{name}");
    }
}

#[test]
fn a_locked_row_of_a_worker_is_an_error_within_the_limit() {
    let cluster = server();
    let database = cluster.database("locked_worker");
    let (mut client, mut holder) = (database.connect(), database.connect());
    run(&mut client, "SELECT rgrid_register('worker')");
    run(&mut holder, "BEGIN; SELECT FROM worker_heartbeats FOR UPDATE");
    for call in
        ["rgrid_heartbeat('worker', 'elsewhere')", "rgrid_register('worker')", "rgrid_deregister('worker')"]
    {
        let started = Instant::now();
        let error = client.execute(&format!("SELECT {call}"), &[]).expect_err("the row is locked");
        let error = error.as_db_error().expect("an error of the server");
        assert_eq!(
            (error.code().code(), error.message()),
            ("55P03", "could not lock the worker's row within 1.5 s")
        );
        assert!(started.elapsed() < Duration::from_secs(30), "{call}: {:?}", started.elapsed());
    }
    let mut locker = database.connect();
    run(&mut locker, "BEGIN; LOCK TABLE rgrid_incarnations");
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_register()"), "55P03", "under a new id");
    run(&mut locker, "COMMIT");
    run(&mut client, "SET lock_timeout = '10ms'");
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_register('worker')"), "55P03");
    run(&mut holder, "COMMIT");
    assert_eq!(register(&mut client, "worker"), 2);
}

#[test]
fn locked_tables_hold_up_neither_a_dry_run_nor_a_health_check() {
    let cluster = server();
    let database = cluster.database("many_locked");
    let (mut client, mut owner) = (database.connect(), database.connect());
    run(&mut client, "SELECT rgrid_register('dead')");
    sweep_away(&mut client, "dead");
    run(&mut owner, "BEGIN");
    for n in 0..40 {
        run(&mut client, &format!("CREATE TABLE t{n} (LIKE executions); SELECT rgrid_watch_jobs('t{n}')"));
        run(&mut owner, &format!("LOCK TABLE t{n}"));
    }
    for call in ["SELECT count(*) FROM rgrid_sweep(dry_run => true)", "SELECT count(*) FROM rgrid_health()"] {
        let started = Instant::now();
        ask::<i64>(&mut client, call, &[]);
        assert!(started.elapsed() < Duration::from_secs(20), "{call}: {:?}", started.elapsed());
    }
}

#[test]
fn a_locked_table_that_refers_to_a_worker_keeps_it_from_leaving_for_no_longer_than_it_may() {
    let cluster = server();
    let database = cluster.database("locked_reference");
    let (mut client, mut holder) = (database.connect(), database.connect());
    run(
        &mut client,
        "CREATE TABLE notes (worker_id text REFERENCES worker_heartbeats ON DELETE SET NULL);
         SELECT rgrid_register('worker'); INSERT INTO notes VALUES ('worker')",
    );
    run(&mut holder, "BEGIN; LOCK TABLE notes");
    let started = Instant::now();
    assert!(ask::<bool>(&mut client, "SELECT rgrid_deregister('worker')", &[]));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(ledger(&mut client, "worker"), ["1 deregistered 0 gone"]);
}

#[test]
fn a_locked_job_beside_one_that_cannot_be_requeued_is_noted_too() {
    let cluster = server();
    let database = cluster.database("mixed");
    let (mut client, mut zombie) = (database.connect(), database.connect());
    watched_table(&mut client, "mixes");
    run(
        &mut client,
        "ALTER TABLE slow.jobs ADD attempts int NOT NULL DEFAULT 0, ADD CHECK (status <> 'queued' OR id % 2 = 0);
         SELECT rgrid_watch_jobs('slow.jobs', on_death => 'requeue', attempts_column => 'attempts',
                                 max_attempts_column => NULL);
         UPDATE slow.jobs SET id = 1; INSERT INTO slow.jobs (id, worker_id, status) VALUES (2, 'worker', 'running')",
    );
    run(&mut zombie, "BEGIN; SELECT FROM slow.jobs WHERE id = 2 FOR UPDATE");
    assert_eq!(register(&mut client, "worker"), 2);
    assert_eq!(status(&mut client), "failed running");
    assert_eq!(noted(&mut client), 1);
    run(&mut zombie, "ROLLBACK");
    wait_until("the other job to be requeued", || status(&mut client) == "failed queued");
}
