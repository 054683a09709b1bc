//! RGrid's own runner: what is found of its death as it is released, and what with the statements of the examples. The
//! program is `runner.py`.

use crate::cluster::*;
use postgres::Client;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// As in `runner.py`.
const WORKER: &str = "worker-1a2b3c4d";
const PYTHON: &str = "/usr/bin/python3";

/// RGrid's tables, which the extension has adopted, a worker that RGrid knows, and a job in the queue.
fn database(cluster: &Cluster) -> Database<'_> {
    let database = cluster.rgrid_database("rgrid");
    let mut client = database.connect();
    let worker =
        "INSERT INTO workers (worker_id, status, max_concurrent, created_at) VALUES ($1, 'active', 2, now())";
    client.execute(worker, &[&WORKER]).expect("RGrid knows the worker");
    queue_jobs(&mut client, "job", 1);
    database
}

fn with_environment(mut command: Command) -> Command {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    command.env("PYTHONPATH", examples).env("PGAPPNAME", "runner").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/operators/runner.py")
}

/// A runner at work, which is killed with the handle.
fn start(database: &Database<'_>, statements: &str) -> Leashed {
    let (program, dsn) = (program().display().to_string(), database.connection_string());
    let arguments = [PYTHON, &program, &dsn, statements, "run"];
    Leashed::start(with_environment(Command::new("sh")), &arguments, Stdio::null())
}

/// What the program says that does one thing and ends.
fn said(database: &Database<'_>, statements: &str, command: &str) -> String {
    let mut program_of_python = with_environment(Command::new(PYTHON));
    program_of_python.arg(program()).args([&database.connection_string(), statements, command]);
    let output = program_of_python.output().expect("Python can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn jobs_with(client: &mut Client, condition: &str) -> i64 {
    ask(client, &format!("SELECT count(*) FROM executions WHERE {condition}"), &[])
}

#[test]
fn a_job_of_the_released_runner_runs_for_ever_and_a_check_says_so() {
    let cluster = Cluster::quick().start();
    let database = database(&cluster);
    let mut client = database.connect();
    let runner = start(&database, "released");
    wait_until("a job to run", || jobs_with(&mut client, "status = 'running' AND worker_id IS NULL") == 1);
    // While its container runs, it does not beat: it is declared dead, and alive.
    await_death(&mut client, WORKER);
    let sessions = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'runner'";
    assert!(ask::<bool>(&mut client, sessions, &[]), "the runner lives");
    drop(runner);

    let check = "SELECT status || ' ' || detail || ' ' || hint FROM rgrid_health()
                 WHERE check_name = 'jobs without worker public.executions'";
    let found: String = ask(&mut client, check, &[]);
    assert!(found.starts_with("warning 1 running job"), "{found}");
    assert_eq!(ledger(&mut client, WORKER).len(), 1);
    let sweeps = "SELECT sweeps FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    let before: i64 = ask(&mut client, sweeps, &[]);
    wait_until("two more sweeps", || ask::<i64>(&mut client, sweeps, &[]) > before + 1);
    assert_eq!(jobs_with(&mut client, "status = 'running' AND worker_id IS NULL"), 1);
}

#[test]
fn a_job_of_the_changed_runner_fails_when_the_runner_is_killed_and_not_before() {
    let cluster = Cluster::quick().start();
    let database = database(&cluster);
    let mut client = database.connect();
    let runner = start(&database, "changed");
    wait_until("a job to run", || jobs(&mut client, WORKER, "running") == 1);
    let outlived = "SELECT h.last_heartbeat_at - e.started_at > interval '3 seconds'
                    FROM executions e JOIN rgrid_workers w USING (worker_id)
                    CROSS JOIN LATERAL (SELECT timezone('UTC', w.last_heartbeat_at) AS last_heartbeat_at) h";
    wait_until("it to beat for longer than the threshold", || ask(&mut client, outlived, &[]));
    assert_eq!(deaths(&mut client, WORKER), 0);
    drop(runner);
    wait_until("its job to fail", || failed_jobs(&mut client, WORKER) == 1);
}

#[test]
fn two_released_runners_claim_one_job_and_two_changed_ones_do_not() {
    let cluster = Cluster::quick().start();
    let database = database(&cluster);
    assert_eq!(said(&database, "changed", "claim-twice"), "False");
    run(&mut database.connect(), "UPDATE executions SET status = 'queued', worker_id = NULL");
    assert_eq!(said(&database, "released", "claim-twice"), "True");
}

#[test]
fn a_late_result_of_the_released_runner_overwrites_a_failure_and_that_of_the_changed_one_does_not() {
    let cluster = Cluster::quick().start();
    let database = database(&cluster);
    let mut client = database.connect();
    run(&mut client, &format!("SELECT rgrid_register('{WORKER}')"));
    run(&mut client, &format!("UPDATE executions SET status = 'running', worker_id = '{WORKER}'"));
    run(&mut client, &format!("SELECT rgrid_deregister('{WORKER}')"));
    assert_eq!(failed_jobs(&mut client, WORKER), 1);
    assert_eq!(said(&database, "changed", "late-result"), "False");
    assert_eq!(failed_jobs(&mut client, WORKER), 1);
    said(&database, "released", "late-result");
    assert_eq!(jobs(&mut client, WORKER, "completed"), 1);
}
