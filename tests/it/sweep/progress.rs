//! Sweeps get on, whatever is in their way: locks, code that hangs, big numbers; and they say what they leave.

use crate::cluster::*;
use postgres::Client;
use std::time::{Duration, Instant};

/// A trigger that hangs on each update of the table.
fn hang(client: &mut Client, table: &str) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(600); RETURN NEW; END';
         CREATE TRIGGER hang BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION hang()"
    );
    run(client, &sql);
}

/// A second table of jobs, which is settled after executions.
fn other_jobs(client: &mut Client, worker: &str) {
    run(
        client,
        "CREATE TABLE IF NOT EXISTS tasks (worker_id text, status text, execution_error text, completed_at timestamptz);
         INSERT INTO rgrid_job_tables VALUES ('tasks') ON CONFLICT DO NOTHING",
    );
    client.execute("INSERT INTO tasks VALUES ($1, 'running')", &[&worker]).expect("a task");
}

fn failed_tasks(client: &mut Client) -> i64 {
    ask(client, "SELECT count(*) FROM tasks WHERE status = 'failed'", &[])
}

#[test]
fn a_trigger_that_hangs_is_cut_short_reported_once_and_tried_again() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.statement_timeout", "500ms").start();
    let database = cluster.database("hanging");
    let mut client = database.connect();
    claim_jobs(&mut client, "victim", 1);
    other_jobs(&mut client, "victim");
    hang(&mut client, "executions");
    silent_worker(&mut client, "victim");
    await_death(&mut client, "victim");
    assert_eq!(failed_tasks(&mut client), 1, "the other table is settled");
    let reports = || {
        let lines = ["could not settle jobs in table public.executions", "statement timeout"];
        cluster.log_lines_with(&lines).len()
    };
    wait_until("the report", || reports() == 1);
    await_sweep(&mut client, "a-later-victim");
    assert_eq!(jobs(&mut client, "victim", "running"), 1);
    run(&mut client, "DROP TRIGGER hang ON executions");
    wait_until("the job to be settled", || failed_jobs(&mut client, "victim") == 1);
    assert_eq!((reports(), deaths(&mut client, "victim")), (1, 1));
}

#[test]
fn a_heartbeat_table_that_hangs_stops_no_sweep() {
    let cluster = Cluster::quick()
        .setting("rgrid_heartbeat.statement_timeout", "500ms")
        .setting("rgrid_heartbeat.flush_interval", "100ms")
        .start();
    let database = cluster.rgrid_database("hanging_rows");
    let mut client = database.connect();
    run(&mut client, "ALTER TABLE worker_heartbeats DROP CONSTRAINT worker_heartbeats_worker_id_fkey");
    known_worker(&mut client, "alive");
    hang(&mut client, "worker_heartbeats");
    let _beats = Beating::calling(database.connect(), "alive");
    run(
        &mut client,
        "INSERT INTO worker_heartbeats VALUES ('victim', timezone('UTC', now()) - interval '1 hour')",
    );
    await_death(&mut client, "victim");
    assert_eq!(deaths(&mut client, "alive"), 0);
    wait_until("the report", || {
        !cluster.log_lines_with(&["could not write heartbeats", "statement timeout"]).is_empty()
    });
    run(&mut client, "DROP TRIGGER hang ON worker_heartbeats");
}

#[test]
fn a_sweep_can_be_cancelled() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("cancelled");
    let mut client = database.connect();
    claim_jobs(&mut client, "victim", 1);
    hang(&mut client, "executions");
    silent_worker(&mut client, "victim");
    let sleeping = "SELECT max(pid) FROM pg_stat_activity WHERE backend_type = $1 AND wait_event = 'PgSleep'";
    let mut sweeper = None;
    wait_until("a sweeper that hangs", || {
        sweeper = ask::<Option<i32>>(&mut client, sleeping, &[&SWEEPER]);
        sweeper.is_some()
    });
    run(&mut client, &format!("SELECT pg_cancel_backend({})", sweeper.expect("its pid")));
    await_death(&mut client, "victim");
    wait_until("the report", || {
        !cluster
            .log_lines_with(&["could not settle jobs", "canceling statement due to user request"])
            .is_empty()
    });
    run(&mut client, "ALTER TABLE executions DISABLE TRIGGER hang");
    for pid in cluster.pids(SWEEPER) {
        run(&mut client, &format!("SELECT pg_cancel_backend({pid})"));
    }
    wait_until("the job to be settled", || failed_jobs(&mut client, "victim") == 1);
}

#[test]
fn jobs_that_others_have_locked_are_counted_and_said_once() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("locked");
    let (mut client, mut holder) = (database.connect(), database.connect());
    claim_jobs(&mut client, "victim", 3);
    run(&mut holder, "BEGIN; SELECT FROM executions WHERE id <= 2 FOR UPDATE");
    silent_worker(&mut client, "victim");
    let reports = || {
        let lines = ["could not settle jobs in table public.executions", "locked by other sessions: 2"];
        cluster.log_lines_with(&lines).len()
    };
    wait_until("the report", || reports() == 1);
    await_sweep(&mut client, "a-later-victim");
    assert_eq!(reports(), 1);
    let told = "SELECT rgrid_sweep()";
    run(&mut client, told);
    run(&mut holder, "COMMIT");
    wait_until("the jobs to be settled", || failed_jobs(&mut client, "victim") == 3);
    await_sweep(&mut client, "the-last-victim");
    assert_eq!(cluster.log_lines_with(&["could not settle"]).len() - reports(), 0, "{}", cluster.log());
}

#[test]
fn a_sweep_by_hand_waits_for_no_lock_longer_than_a_second() {
    let cluster = Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h").start();
    let database = cluster.database("waits");
    let (mut client, mut holder) = (database.connect(), database.connect());
    for table in ["worker_heartbeats", "rgrid_worker_deaths"] {
        run(&mut holder, &format!("BEGIN; LOCK TABLE {table}"));
        let started = Instant::now();
        assert_eq!(sqlstate(&mut client, "SELECT rgrid_sweep()"), "55P03", "{table}");
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        run(&mut holder, "COMMIT");
    }
    let timeout: String = ask(&mut client, "SHOW lock_timeout", &[]);
    assert_eq!(timeout, "0", "the session's own setting is back");
}

#[test]
fn no_transaction_of_a_sweeper_declares_more_deaths_than_a_batch() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.batch_size", "3").start();
    let database = cluster.database("batches");
    let mut client = database.connect();
    run(
        &mut client,
        "INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at)
         SELECT 'w' || n, clock_timestamp() - interval '1 hour' FROM generate_series(1, 20) AS n",
    );
    let count = "SELECT count(*) FROM rgrid_worker_deaths";
    wait_until("the deaths", || ask::<i64>(&mut client, count, &[]) == 20);
    let most = "SELECT max(n) FROM (SELECT count(*) AS n FROM rgrid_worker_deaths GROUP BY xmin::text) AS t";
    assert_eq!(ask::<i64>(&mut client, most, &[]), 3);
}

#[test]
fn future_rows_are_pulled_back_in_batches() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.batch_size", "3").start();
    let database = cluster.database("future_batches");
    let mut client = database.connect();
    run(
        &mut client,
        "INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at)
         SELECT 'w' || n, clock_timestamp() + interval '1 hour' FROM generate_series(1, 7) AS n",
    );
    let future = "SELECT count(*) FROM worker_heartbeats WHERE last_heartbeat_at > clock_timestamp()";
    wait_until("the rows to be pulled back", || ask::<i64>(&mut client, future, &[]) == 0);
    let most = "SELECT max(n) FROM (SELECT count(*) AS n FROM worker_heartbeats GROUP BY xmin::text) AS t";
    assert_eq!(ask::<i64>(&mut client, most, &[]), 3);
}

#[test]
fn problems_of_a_flush_beside_those_of_a_sweep_are_logged_once() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.flush_interval", "50ms").start();
    let database = cluster.database("troubled");
    let mut client = database.connect();
    claim_jobs(&mut client, "dead", 1);
    known_worker(&mut client, "bad");
    run(
        &mut client,
        "ALTER TABLE executions DROP COLUMN completed_at;
         ALTER TABLE worker_heartbeats ADD CHECK (worker_id <> 'bad') NOT VALID",
    );
    let _beats = Beating::calling(database.connect(), "bad");
    silent_worker(&mut client, "dead");
    let said = |what: &str| cluster.log_lines_with(&["WARNING:", "could not", what]).len();
    let both = || (said("settle jobs in table public.executions"), said("write heartbeats"));
    wait_until("both to be said", || both() == (1, 1));
    stays(Duration::from_secs(3), "nothing is said again", || both() == (1, 1) && said("") == 2);
}
