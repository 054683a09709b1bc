//! Notifying the listeners on the channel `rgrid_worker_deaths`: one JSON object a death, delivered when the death
//! is committed.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::log_lines::log_at_commit;
use crate::error::Result;
use crate::jobs::{RefusedJob, SettledJobs};
use crate::pg::notifications::{self, FULL, PAYLOAD_LIMIT};
use crate::rules::text::sqlstate;
use crate::tables::deaths::{Death, Reason};

const CHANNEL: &str = "rgrid_worker_deaths";

/// The notification of a death.
#[derive(Serialize)]
struct DeathEvent<'a> {
    worker_id: &'a str,
    /// The incarnation that ended.
    incarnation: i64,
    hostname: Option<&'a str>,
    last_heartbeat_at: DateTime<Utc>,
    declared_dead_at: DateTime<Utc>,
    reason: &'a str,
    /// When its session was lost, if it died of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnected_at: Option<DateTime<Utc>>,
    jobs: Vec<Jobs<'a>>,
    /// Jobs that are still running, because their tables refuse their new values.
    refused: Vec<Refused<'a>>,
    /// Keys, tables or refused jobs did not all fit.
    truncated: bool,
}

/// The jobs of one table that were settled.
#[derive(Serialize)]
struct Jobs<'a> {
    table: &'a str,
    failed: i64,
    requeued: i64,
    /// The primary keys of these jobs, where the watch wants them and the table has one of a single column.
    keys: Vec<&'a str>,
}

/// A job that could not be settled. Any role can listen, so the reason is an SQLSTATE and not the table's words.
#[derive(Serialize)]
struct Refused<'a> {
    table: &'a str,
    key: Option<&'a str>,
    sqlstate: String,
}

/// The notification of a death. Of the refused jobs, those of other workers do not count.
///
/// # Errors
///
/// None that can happen: the event is plain data.
pub fn of_death(
    death: &Death,
    incarnation: i64,
    jobs: &[&SettledJobs],
    refused: &[RefusedJob],
) -> Result<String> {
    let (worker_id, hostname) = (&death.worker.id, death.worker.hostname.as_deref());
    let mut event = DeathEvent {
        worker_id: cut(worker_id),
        incarnation,
        hostname: hostname.map(cut),
        last_heartbeat_at: death.worker.last_heartbeat_at,
        declared_dead_at: death.declared_dead_at,
        reason: death.reason.as_str(),
        disconnected_at: match death.reason {
            Reason::Disconnected { at } => Some(at),
            _ => None,
        },
        jobs: jobs
            .iter()
            .map(|jobs| Jobs {
                table: &jobs.table.name,
                failed: jobs.failed,
                requeued: jobs.requeued,
                keys: jobs.keys.iter().map(String::as_str).collect(),
            })
            .collect(),
        refused: refused
            .iter()
            .filter(|job| job.worker == *worker_id)
            .map(|job| Refused {
                table: &job.table,
                key: job.key.as_deref(),
                sqlstate: sqlstate(job.code as i32),
            })
            .collect(),
        truncated: cut(worker_id) != worker_id || hostname.map(cut) != hostname,
    };
    payload(&mut event)
}

/// Cuts a name to as many characters as the functions accept. An adopted table may have longer ones, and no
/// notification may prevent a death from being declared.
fn cut(name: &str) -> &str {
    const LIMIT: usize = 255;
    name.char_indices().nth(LIMIT).map_or(name, |(end, _)| &name[..end])
}

/// Sends notifications, in this order, when the current transaction commits. Without room in the queue it sends none,
/// and says so in the log.
pub fn send(payloads: &[String], has_room: bool) -> Result<()> {
    if payloads.is_empty() {
        return Ok(());
    }
    if !has_room {
        let (count, percent) = (payloads.len(), FULL * 100.0);
        log_at_commit(vec![format!(
            "notifications not sent: {count}, because the server's queue is over {percent:.0} % full"
        )]);
        return Ok(());
    }
    notifications::send(CHANNEL, payloads)
}

/// The event as JSON, with as many of its tables, then of its refused jobs, and then of the keys as fit.
fn payload(event: &mut DeathEvent<'_>) -> Result<String> {
    let keys: Vec<Vec<&str>> = event.jobs.iter_mut().map(|jobs| std::mem::take(&mut jobs.keys)).collect();
    let mut length = serde_json::to_string(event)?.len();
    while length > PAYLOAD_LIMIT && event.refused.pop().is_some() {
        event.truncated = true;
        length = serde_json::to_string(event)?.len();
    }
    while length > PAYLOAD_LIMIT && event.jobs.pop().is_some() {
        event.truncated = true;
        length = serde_json::to_string(event)?.len();
    }
    for (jobs, keys) in event.jobs.iter_mut().zip(keys) {
        for key in keys {
            // Quoted and escaped, and a comma.
            length += serde_json::to_string(key)?.len() + 1;
            if length > PAYLOAD_LIMIT {
                event.truncated = true;
                break;
            }
            jobs.keys.push(key);
        }
    }
    Ok(serde_json::to_string(event)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::heartbeats::Worker;

    fn event(tables: &[String]) -> DeathEvent<'_> {
        DeathEvent {
            worker_id: "worker-1",
            incarnation: 2,
            hostname: None,
            last_heartbeat_at: DateTime::UNIX_EPOCH,
            declared_dead_at: DateTime::UNIX_EPOCH,
            reason: "stale",
            disconnected_at: None,
            jobs: tables
                .iter()
                .map(|table| Jobs { table, failed: 1, requeued: 0, keys: vec!["42"] })
                .collect(),
            refused: Vec::new(),
            truncated: false,
        }
    }

    #[test]
    fn an_event_is_one_object_with_times_in_utc() {
        let tables = ["public.executions".to_owned()];
        assert_eq!(
            payload(&mut event(&tables)).unwrap(),
            r#"{"worker_id":"worker-1","incarnation":2,"hostname":null,"last_heartbeat_at":"1970-01-01T00:00:00Z","declared_dead_at":"1970-01-01T00:00:00Z","reason":"stale","jobs":[{"table":"public.executions","failed":1,"requeued":0,"keys":["42"]}],"refused":[],"truncated":false}"#
        );
    }

    #[test]
    fn names_that_are_too_long_are_cut_and_it_is_said() {
        let name = "ä".repeat(9_000);
        let worker =
            Worker { id: name.clone(), hostname: Some(name), last_heartbeat_at: DateTime::UNIX_EPOCH };
        let death = Death {
            worker,
            reason: Reason::Stale,
            declared_dead_at: DateTime::UNIX_EPOCH,
            jobs_failed: 0,
            jobs_requeued: 0,
            returned_at: None,
        };
        let payload = of_death(&death, 1, &[], &[]).unwrap();
        let read: serde_json::Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(read["hostname"], "ä".repeat(255));
        assert_eq!(read["truncated"], true);
    }

    #[test]
    fn tables_that_do_not_fit_are_left_out_and_it_is_said() {
        let tables: Vec<String> = (0..100).map(|n| format!("{}{n}", "t".repeat(120))).collect();
        let payload = payload(&mut event(&tables)).unwrap();
        assert!(payload.len() <= PAYLOAD_LIMIT && payload.len() > PAYLOAD_LIMIT - 200);
        assert!(payload.ends_with(r#""truncated":true}"#));
    }

    #[test]
    fn keys_that_do_not_fit_are_left_out_before_any_table_is() {
        let keys: Vec<String> = (0..5_000).map(|n| format!("job \"{n}\"")).collect();
        let tables = ["public.executions".to_owned(), "public.others".to_owned()];
        let mut event = event(&tables);
        event.jobs[0].keys = keys.iter().map(String::as_str).collect();
        let payload = payload(&mut event).unwrap();
        assert!(payload.len() <= PAYLOAD_LIMIT && payload.len() > PAYLOAD_LIMIT - 50);
        let read: serde_json::Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(read["jobs"].as_array().unwrap().len(), 2);
        assert_eq!(read["jobs"][0]["keys"][1], "job \"1\"");
        assert_eq!(read["truncated"], true);
    }
}
