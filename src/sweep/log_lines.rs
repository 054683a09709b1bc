//! What the server's log says about deaths and returns.

use std::time::Duration;

use pgrx::pg_sys;

use crate::pg::{catalog, commit, report};
use crate::rules::liveness;
use crate::rules::text::printable;
use crate::tables::deaths::{Death, Reason};

/// The log line of a death.
pub fn death_line(death: &Death) -> String {
    let id = printable(&death.worker.id);
    let host =
        death.worker.hostname.as_deref().map_or("unknown".into(), |name| format!("\"{}\"", printable(name)));
    let jobs = counted(death.jobs_failed, death.jobs_requeued);
    let ago = |time| seconds(liveness::silence(death.declared_dead_at, time));
    let seconds = ago(death.worker.last_heartbeat_at);
    match death.reason {
        Reason::Stale => {
            format!("worker \"{id}\" on host {host} declared dead: last heartbeat {seconds} s ago, {jobs}")
        }
        Reason::Restarted => format!(
            "worker \"{id}\" on host {host} was registered again: last heartbeat {seconds} s ago, {jobs}"
        ),
        Reason::Deregistered => format!(
            "worker \"{id}\" on host {host} deregistered with running jobs: \
             last heartbeat {seconds} s ago, {jobs}"
        ),
        Reason::Disconnected { at } => format!(
            "worker \"{id}\" on host {host} declared dead: its session was lost {} s ago, \
             last heartbeat {seconds} s ago, {jobs}",
            ago(at)
        ),
    }
}

/// The log line of a return.
pub fn return_line(worker: &str) -> String {
    format!("worker \"{}\" came back after it was declared dead", printable(worker))
}

/// The log line of jobs that were settled after their worker had come back.
pub fn left_behind_line(worker: &str, jobs: &str) -> String {
    format!(
        "jobs that worker \"{}\" had left behind when it came back were settled: {jobs}",
        printable(worker)
    )
}

/// The log line of jobs that were left behind and have been changed since.
pub fn changed_line(worker: &str, table: pg_sys::Oid, keys: &[String]) -> String {
    let table = catalog::qualified_name(table).unwrap_or_default();
    const NAMED: usize = 20;
    let more = keys.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = &keys[..keys.len().min(NAMED)];
    let (worker, keys) = (printable(worker), format!("{}{more}", printable(&named.join(", "))));
    format!(
        "jobs that worker \"{worker}\" had left behind in table {table} have changed since and are not settled: {keys}"
    )
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64())
}

/// Numbers of jobs in words.
pub fn counted(failed: i64, requeued: i64) -> String {
    match requeued {
        0 => format!("jobs failed: {failed}"),
        _ => format!("jobs failed: {failed}, requeued: {requeued}"),
    }
}

/// Writes to the server's log at the commit, and not to the client: sending to a client can fail, and nothing may fail
/// after the commit.
pub fn log_at_commit(lines: Vec<String>) {
    if lines.is_empty() {
        return;
    }
    commit::at_commit(move || {
        for line in lines {
            report::log_to_server(line);
        }
    });
}
