//! Rehearsals: a job of a table is settled when the table is watched, and on demand, and nothing of it stays.

use crate::cluster::*;
use postgres::Client;
use std::time::{Duration, Instant};

/// Only sessions sweep.
fn server() -> Shared {
    Shared::of(|| {
        Cluster::builder()
            .setting("rgrid_heartbeat.check_interval", "1h")
            .setting("rgrid_heartbeat.call_timeout", "1500ms")
    })
}

/// An empty table of jobs with a trigger that has this body, `when`, not watched yet.
fn table(client: &mut Client, when: &str, body: &str) {
    run(
        client,
        &format!(
            "CREATE TABLE tasks (id serial PRIMARY KEY, worker_id text, status text NOT NULL, execution_error text,
                                 completed_at timestamptz, retry_count int);
             CREATE FUNCTION on_task() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN {body}; RETURN NEW; END$f$;
             CREATE TRIGGER on_task {when} ON tasks FOR EACH ROW EXECUTE FUNCTION on_task()"
        ),
    );
}

const WATCH: &str = "SELECT rgrid_watch_jobs('tasks')";
const REQUEUE: &str = "SELECT rgrid_watch_jobs('tasks', on_death => 'requeue', max_attempts_column => NULL)";

/// What a rehearsal says: status and detail of each attempt.
fn rehearse(client: &mut Client, table: &str) -> Vec<(String, String)> {
    let rows = client.query(&format!("SELECT status, detail FROM rgrid_rehearse('{table}')"), &[]);
    rows.unwrap_or_else(|error| panic!("{error:?}")).iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The same for a rehearsal of one attempt.
#[track_caller]
fn it_says(client: &mut Client, status: &str, detail: &str) {
    let attempts = rehearse(client, "tasks");
    assert!(attempts.len() == 1 && attempts[0].0 == status && attempts[0].1.contains(detail), "{attempts:?}");
}

fn check(client: &mut Client, table: &str) -> (String, String) {
    let sql = "SELECT status, detail FROM rgrid_health() WHERE check_name = 'job table public.' || $1";
    let row = client.query_one(sql, &[&table]).expect("there is such a check");
    (row.get(0), row.get(1))
}

fn tasks(client: &mut Client) -> Option<String> {
    ask(client, "SELECT string_agg(concat_ws(' ', id, worker_id, status), ', ' ORDER BY id) FROM tasks", &[])
}

#[test]
fn a_trigger_that_names_what_is_not_there_is_met_when_the_table_is_watched() {
    let cluster = server();
    let mut client = cluster.database("missing").connect();
    for (number, (body, code)) in
        [("INSERT INTO nowhere VALUES (1)", "42P01"), ("PERFORM no_function()", "42883")].iter().enumerate()
    {
        table(&mut client, "AFTER UPDATE", body);
        for watch in [WATCH, REQUEUE] {
            assert_eq!(sqlstate(&mut client, watch), *code, "with a made-up job");
        }
        run(&mut client, "INSERT INTO tasks (worker_id, status) VALUES ('w1', 'running')");
        assert_eq!(sqlstate(&mut client, WATCH), *code, "with a running job");
        assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM rgrid_job_tables", &[]), 0, "{number}");
        run(&mut client, "DROP TABLE tasks; DROP FUNCTION on_task");
    }
}

#[test]
fn a_rehearsal_leaves_nothing_behind() {
    let cluster = server();
    let database = cluster.database("untouched");
    let mut client = database.connect();
    run(&mut client, "CREATE TABLE audit (job int); LISTEN settled");
    let body = "PERFORM pg_advisory_lock(7); PERFORM set_config('work_mem', '77MB', false);
                NOTIFY settled; INSERT INTO audit VALUES (NEW.id)";
    table(&mut client, "AFTER UPDATE OF status", body);
    run(&mut client, WATCH);
    it_says(&mut client, "ok", "Settled a made-up job, and undid it.");
    run(&mut client, "INSERT INTO tasks (id, worker_id, status) VALUES (70, 'w1', 'running')");
    run(&mut client, &format!("BEGIN; {WATCH}"));
    it_says(&mut client, "ok", "Settled job 70, and undid it.");
    // Inside of the transaction, too.
    run(&mut database.connect(), "SET lock_timeout = '1s'; UPDATE tasks SET retry_count = 1");
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", &[]), 0);
    run(&mut client, "COMMIT");
    assert_eq!(tasks(&mut client).as_deref(), Some("70 w1 running"));
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM audit", &[]), 0);
    assert_ne!(ask::<String>(&mut client, "SHOW work_mem", &[]), "77MB");
    assert!(client.notifications().is_empty());
}

#[test]
fn an_owner_without_the_rights_is_met_when_the_table_is_watched() {
    let cluster = server();
    let database = cluster.database("rights");
    let mut client = database.connect();
    run(&mut client, "CREATE ROLE poor LOGIN; CREATE TABLE secret (job int)");
    table(&mut client, "AFTER UPDATE", "INSERT INTO secret VALUES (NEW.id)");
    run(
        &mut client,
        "ALTER TABLE tasks OWNER TO poor; ALTER SEQUENCE tasks_id_seq OWNER TO poor;
         GRANT EXECUTE ON FUNCTION rgrid_watch_jobs, rgrid_rehearse TO poor",
    );
    let mut owner = database.connect_as("poor");
    assert_eq!(sqlstate(&mut owner, WATCH), "42501", "the trigger's");
    run(&mut client, "GRANT INSERT ON secret TO poor; REVOKE UPDATE ON tasks FROM poor");
    for caller in [&mut owner, &mut client] {
        assert_eq!(sqlstate(caller, WATCH), "42501", "the statement's");
    }
    run(&mut client, "GRANT UPDATE (status, execution_error, completed_at) ON tasks TO poor");
    run(&mut owner, WATCH);
    it_says(&mut owner, "ok", "a made-up job");
}

#[test]
fn code_of_another_role_runs_in_a_superusers_session_on_request_only() {
    let cluster = server();
    let database = cluster.database("strange");
    let mut client = database.connect();
    let body = "PERFORM set_config('exit_on_error', 'on', false); RAISE EXCEPTION 'bye'";
    table(&mut client, "BEFORE UPDATE", body);
    run(&mut client, "CREATE ROLE stranger; ALTER TABLE tasks OWNER TO stranger");
    run(&mut client, "INSERT INTO tasks (worker_id, status) VALUES ('w1', 'running')");
    run(&mut client, WATCH);
    let (status, detail) = check(&mut client, "tasks");
    assert!(status == "warning" && detail.contains("never tried"), "{status}: {detail}");
    assert!(client.batch_execute("SELECT rgrid_rehearse('tasks')").is_err());
    assert!(client.batch_execute("SELECT 1").is_err(), "it has ended the session");
}

#[test]
fn what_only_one_job_meets_is_a_warning() {
    let cluster = server();
    let mut client = cluster.database("one_job").connect();
    table(&mut client, "BEFORE UPDATE", "NULL");
    run(&mut client, "ALTER TABLE tasks ADD CONSTRAINT stays CHECK (status <> 'failed')");
    run(&mut client, WATCH);
    it_says(&mut client, "warning", "violates check constraint \"stays\". A rehearsal tried a made-up job.");
    run(&mut client, REQUEUE);
    let attempts = rehearse(&mut client, "tasks");
    assert_eq!(attempts[0], ("ok".into(), "Settled a made-up job, and undid it.".into()));
    assert!(attempts[1].0 == "warning" && attempts[1].1.contains("as if its attempts were used up"));
    assert_eq!(check(&mut client, "tasks").0, "warning", "it was not tried");
    run(&mut client, "ALTER TABLE tasks DROP CONSTRAINT stays; DROP TRIGGER on_task ON tasks");
    run(
        &mut client,
        "CREATE OR REPLACE FUNCTION on_task() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    );
    run(&mut client, "CREATE TRIGGER on_task BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION on_task()");
    run(&mut client, WATCH);
    it_says(&mut client, "warning", "running after it was settled");
}

#[test]
fn a_table_is_never_tried_before_a_job_of_it_was_settled() {
    let cluster = Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h").start();
    let database = cluster.database("untried");
    let mut client = database.connect();
    let (status, detail) = check(&mut client, "executions");
    assert!(status == "ok" && detail.contains("never tried"), "{status}: {detail}");
    run(
        &mut client,
        "CREATE FUNCTION on_job() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER on_job BEFORE UPDATE ON executions FOR EACH ROW EXECUTE FUNCTION on_job()",
    );
    // Its columns without a default: no job can be made up.
    for watch in ["SELECT 1", "SELECT rgrid_watch_jobs('executions')"] {
        run(&mut client, watch);
        let attempts = rehearse(&mut client, "executions");
        assert!(attempts[0].0 == "warning" && attempts[0].1.contains("none could be added"), "{attempts:?}");
        let (status, detail) = check(&mut client, "executions");
        assert!(status == "warning" && detail.contains("never tried"), "{status}: {detail}");
    }
    run(&mut client, "TRUNCATE rgrid_job_tables");
    claim_jobs(&mut client, "w1", 1);
    assert_eq!(rehearse(&mut client, "executions")[0].0, "ok");
    assert_eq!(check(&mut client, "executions").0, "ok");
    drop(client);
    cluster.restart("fast");
    assert_eq!(check(&mut database.connect(), "executions").0, "ok", "the server remembers it");
}

#[test]
fn a_job_that_does_not_run_after_it_was_made_up_is_none() {
    let cluster = server();
    let mut client = cluster.database("queueing").connect();
    table(&mut client, "BEFORE INSERT", "NEW.status := 'queued'");
    run(&mut client, WATCH);
    it_says(&mut client, "warning", "none could be added");
}

#[test]
fn a_death_tries_a_table() {
    let cluster = Cluster::quick().start();
    let mut client = cluster.database("deadly").connect();
    table(&mut client, "AFTER UPDATE", "NULL");
    run(&mut client, "INSERT INTO rgrid_job_tables (job_table) VALUES ('tasks')");
    run(&mut client, "INSERT INTO tasks (worker_id, status) VALUES ('w1', 'running')");
    assert!(check(&mut client, "tasks").1.contains("never tried"));
    silent_worker(&mut client, "w1");
    await_death(&mut client, "w1");
    let (status, detail) = check(&mut client, "tasks");
    assert!(status == "ok" && !detail.contains("never tried"), "{status}: {detail}");
    run(
        &mut client,
        "ALTER TABLE tasks ADD needed int NOT NULL DEFAULT 1; ALTER TABLE tasks ALTER needed DROP DEFAULT",
    );
    run(&mut client, WATCH);
    assert!(check(&mut client, "tasks").1.contains("never tried"), "it is watched anew");
    run(&mut client, "DROP TABLE tasks");
    let known = "SELECT count(*) FROM rgrid_tried_tables";
    wait_until("the table to be forgotten", || ask::<i64>(&mut client, known, &[]) == 0);
}

#[test]
fn a_rehearsal_waits_for_nobody() {
    let cluster = server();
    let database = cluster.database("waiting");
    let (mut client, mut other) = (database.connect(), database.connect());
    table(&mut client, "AFTER UPDATE", "NULL");
    run(&mut client, "INSERT INTO tasks (worker_id, status) VALUES ('w1', 'running')");
    let begun = Instant::now();
    run(&mut other, "BEGIN; SELECT FROM tasks FOR UPDATE");
    run(&mut client, WATCH);
    it_says(&mut client, "ok", "a made-up job");
    run(&mut other, "ROLLBACK; BEGIN; LOCK TABLE tasks IN SHARE MODE");
    run(&mut client, WATCH);
    it_says(&mut client, "warning", "lock timeout");
    run(&mut other, "ROLLBACK");
    assert!(begun.elapsed() < Duration::from_secs(30));
    let hang = "CREATE OR REPLACE FUNCTION on_task() RETURNS trigger LANGUAGE plpgsql AS
                    'BEGIN PERFORM pg_sleep(600); RETURN NEW; END'";
    run(&mut client, hang);
    it_says(&mut client, "warning", "it took longer than");
    let outlive = "CREATE OR REPLACE FUNCTION on_task() RETURNS trigger LANGUAGE plpgsql AS
                       'BEGIN LOOP
                            BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END;
                        END LOOP; END'";
    run(&mut client, outlive);
    let begun = Instant::now();
    assert!(client.batch_execute("SELECT rgrid_rehearse('tasks')").is_err(), "the session was ended");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_deferred_trigger_is_met_by_rehearsals_and_by_sweeps() {
    let cluster = Cluster::quick().start();
    let mut client = cluster.database("deferred").connect();
    run(&mut client, "CREATE TABLE audit (job int)");
    table(&mut client, "BEFORE INSERT", "NULL");
    run(
        &mut client,
        "CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON tasks DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION later()",
    );
    run(&mut client, WATCH);
    it_says(&mut client, "ok", "a made-up job");
    run(&mut client, "INSERT INTO tasks (worker_id, status) VALUES ('w1', 'running')");
    silent_worker(&mut client, "w1");
    wait_until("the trigger to have run", || ask::<i64>(&mut client, "SELECT count(*) FROM audit", &[]) == 1);
    run(&mut client, "DROP TABLE audit");
    assert_eq!(sqlstate(&mut client, WATCH), "42P01");
}

#[test]
fn a_deferred_check_of_the_caller_stays_deferred() {
    let cluster = server();
    let mut client = cluster.database("pending").connect();
    table(&mut client, "BEFORE INSERT", "NULL");
    run(
        &mut client,
        "CREATE TABLE parents (id int PRIMARY KEY);
         CREATE TABLE children (parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)",
    );
    run(
        &mut client,
        &format!("BEGIN; INSERT INTO children VALUES (1); {WATCH}; INSERT INTO parents VALUES (1); COMMIT"),
    );
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM rgrid_job_tables", &[]), 1);
}

#[test]
fn a_deferred_trigger_that_waits_runs_as_it_would_at_the_commit() {
    let cluster = server();
    let database = cluster.database("definer");
    let mut client = database.connect();
    table(&mut client, "BEFORE INSERT", "NULL");
    run(
        &mut client,
        &format!(
            "{WATCH};
             CREATE FUNCTION rehearse_for_all() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS
                 'SELECT detail FROM public.rgrid_rehearse(''public.tasks'')';
             CREATE ROLE waiter LOGIN; CREATE SCHEMA waiter AUTHORIZATION waiter"
        ),
    );
    let mut waiter = database.connect_as("waiter");
    run(
        &mut waiter,
        "CREATE SEQUENCE runs; CREATE SEQUENCE runs_as_another; CREATE TABLE waiting (n int);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             PERFORM nextval('waiter.runs');
             IF current_user <> 'waiter' THEN PERFORM nextval('waiter.runs_as_another'); END IF;
             RETURN NULL; END$$;
         CREATE CONSTRAINT TRIGGER note AFTER INSERT ON waiting DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION note();
         BEGIN; INSERT INTO waiting VALUES (1); SELECT public.rehearse_for_all(); COMMIT",
    );
    for (sequence, runs) in [("runs", Some(2)), ("runs_as_another", None)] {
        let sql = "SELECT last_value FROM pg_sequences WHERE sequencename = $1";
        assert_eq!(ask::<Option<i64>>(&mut client, sql, &[&sequence]), runs, "{sequence}");
    }
}
