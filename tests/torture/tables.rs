//! Reads what the database has in the end.

use crate::cluster::ask;
use crate::history::{Change, Death, History, Job, Row, now};
use postgres::{Client, IsolationLevel};

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
    let mut client = transaction.start().expect("a transaction can be begun");
    history.read_at = now();
    let columns = ["last_heartbeat_at", "declared_dead_at", "returned_at"];
    let ledger = "SELECT worker_id, incarnation, reason, @last_heartbeat_at, @declared_dead_at, @returned_at,
                         jobs_failed FROM rgrid_worker_deaths ORDER BY worker_id, incarnation";
    let rows = client.query(&with_times(ledger, &columns), &[]).expect("the ledger can be read");
    history.deaths = rows
        .iter()
        .map(|row| Death {
            worker: row.get(0),
            incarnation: row.get(1),
            reason: row.get(2),
            last_heartbeat_at: row.get(3),
            declared_dead_at: row.get(4),
            returned_at: row.get(5),
            jobs_failed: row.get(6),
        })
        .collect();
    let changes = "SELECT job, @at, coalesce(worker, ''), coalesce(claimed_under, 0), old, new
                   FROM job_changes ORDER BY seq";
    let rows = client.query(&with_times(changes, &["at"]), &[]).expect("the changes can be read");
    history.changes = rows
        .iter()
        .map(|row| Change {
            job: row.get(0),
            at: row.get(1),
            worker: row.get(2),
            claimed_under: row.get(3),
            old: row.get(4),
            new: row.get(5),
        })
        .collect();
    let jobs = "SELECT id, worker_id, status FROM executions WHERE worker_id IS NOT NULL ORDER BY id";
    let rows = client.query(jobs, &[]).expect("the jobs can be read");
    history.jobs =
        rows.iter().map(|row| Job { id: row.get(0), worker: row.get(1), status: row.get(2) }).collect();
    let beats = "SELECT worker_id, @last_heartbeat_at FROM worker_heartbeats ORDER BY worker_id";
    let rows = client.query(&with_times(beats, &columns), &[]).expect("the heartbeats can be read");
    history.rows = rows.iter().map(|row| Row { worker: row.get(0), last_heartbeat_at: row.get(1) }).collect();
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
