//! Row locks are no stronger than those of a plain UPDATE: a transaction that refers to a job stops nothing.

use crate::cluster::*;
use postgres::Client;

/// Jobs that a table of log lines refers to, and a session with an open transaction that has added a line for each.
fn with_open_log_line(database: &Database<'_>, worker: &str) -> Client {
    let (mut client, mut logger) = (database.connect(), database.connect());
    run(&mut client, "CREATE TABLE log (job bigint REFERENCES executions, line text)");
    run(&mut client, &format!("SELECT rgrid_heartbeat('{worker}')"));
    claim_jobs(&mut client, worker, 1);
    run(&mut logger, "BEGIN; INSERT INTO log SELECT id, 'working' FROM executions");
    logger
}

#[test]
fn a_worker_registers_and_leaves_while_a_log_line_of_its_job_is_open() {
    let cluster = Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h").start();
    let database = cluster.database("open_line");
    let _logger = with_open_log_line(&database, "worker");
    let mut client = database.connect();
    run(&mut client, "SELECT rgrid_register('worker')");
    assert_eq!(failed_jobs(&mut client, "worker"), 1);
    claim_jobs(&mut client, "worker", 1);
    assert!(ask::<bool>(&mut client, "SELECT rgrid_deregister('worker')", &[]));
    assert_eq!(failed_jobs(&mut client, "worker"), 2);
}

#[test]
fn a_sweep_requeues_a_job_while_a_log_line_of_it_is_open() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("requeued_line");
    let mut client = database.connect();
    run(&mut client, "SELECT rgrid_watch_jobs('executions', on_death => 'requeue')");
    let _logger = with_open_log_line(&database, "worker");
    let queued = "SELECT count(*) FROM executions WHERE status = 'queued' AND worker_id IS NULL";
    wait_until("the job to be queued", || ask::<i64>(&mut client, queued, &[]) == 1);
}
