//! Reads what the database has in the end.

use crate::cluster::ask;
use crate::history::{Change, Death, History, Job, Row, now};
use postgres::{Client, IsolationLevel, Transaction};

/// A time as the history has them.
const MICROSECONDS: &str = "(extract(epoch FROM $time) * 1000000)::bigint";

fn with_times(sql: &str, columns: &[&str]) -> String {
    columns.iter().fold(sql.to_owned(), |sql, column| {
        sql.replace(&format!("@{column}"), &MICROSECONDS.replace("$time", column))
    })
}

/// Puts the tables into the history, as they are at one moment.
pub fn read(client: &mut Client, history: &mut History) {
    let transaction = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    let mut transaction = transaction.start().expect("a transaction can be begun");
    history.read_at = now();
    history.deaths = deaths(&mut transaction);
    history.changes = changes(&mut transaction);
    let jobs = "SELECT id, worker_id, status FROM executions WHERE worker_id IS NOT NULL ORDER BY id";
    let rows = transaction.query(jobs, &[]).expect("the jobs can be read");
    history.jobs =
        rows.iter().map(|row| Job { id: row.get(0), worker: row.get(1), status: row.get(2) }).collect();
    let beats = "SELECT worker_id, @last_heartbeat_at FROM worker_heartbeats ORDER BY worker_id";
    let beats = with_times(beats, &["last_heartbeat_at"]);
    let rows = transaction.query(&beats, &[]).expect("the heartbeats can be read");
    history.rows = rows.iter().map(|row| Row { worker: row.get(0), last_heartbeat_at: row.get(1) }).collect();
}

fn deaths(transaction: &mut Transaction<'_>) -> Vec<Death> {
    let ledger = "SELECT worker_id, incarnation, reason, @last_heartbeat_at, @declared_dead_at, @returned_at,
                         jobs_failed FROM rgrid_worker_deaths ORDER BY worker_id, incarnation";
    let ledger = with_times(ledger, &["last_heartbeat_at", "declared_dead_at", "returned_at"]);
    let rows = transaction.query(&ledger, &[]).expect("the ledger can be read");
    let death = |row: &postgres::Row| Death {
        worker: row.get(0),
        incarnation: row.get(1),
        reason: row.get(2),
        last_heartbeat_at: row.get(3),
        declared_dead_at: row.get(4),
        returned_at: row.get(5),
        jobs_failed: row.get(6),
    };
    rows.iter().map(death).collect()
}

fn changes(transaction: &mut Transaction<'_>) -> Vec<Change> {
    let changes = "SELECT job, @at, coalesce(worker, ''), coalesce(claimed_under, 0), old, new
                   FROM job_changes ORDER BY seq";
    let rows = transaction.query(&with_times(changes, &["at"]), &[]).expect("the changes can be read");
    let change = |row: &postgres::Row| Change {
        job: row.get(0),
        at: row.get(1),
        worker: row.get(2),
        claimed_under: row.get(3),
        old: row.get(4),
        new: row.get(5),
    };
    rows.iter().map(change).collect()
}

/// Whether the workers of whom nobody is left are settled, and the rows of the others are newer than `since`.
pub fn are_at_rest(client: &mut Client, gone: &[String], alive: &[String], since: i64) -> bool {
    let sql = "SELECT NOT EXISTS (SELECT FROM executions WHERE status = 'running' AND worker_id = ANY ($1))
        AND NOT EXISTS (SELECT FROM worker_heartbeats h WHERE h.worker_id = ANY ($1) AND NOT EXISTS (
            SELECT FROM rgrid_worker_deaths d WHERE d.worker_id = h.worker_id AND d.returned_at IS NULL))
        AND NOT EXISTS (SELECT FROM worker_heartbeats h WHERE h.worker_id = ANY ($2)
            AND extract(epoch FROM h.last_heartbeat_at) * 1000000 < $3::bigint)";
    ask(client, sql, &[&gone, &alive, &since])
}
