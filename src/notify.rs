//! Telling whoever listens on the channel `rgrid_worker_deaths`: one JSON object a death, delivered when the death
//! is committed.

use chrono::{DateTime, Utc};
use pgrx::pg_sys;
use serde::Serialize;

use crate::error::Result;
use crate::ledger::Death;
use crate::pg::{arrays, sql};
use crate::settle::Settlement;

const CHANNEL: &str = "rgrid_worker_deaths";

/// Bytes that a payload may have; Postgres takes fewer than 8,000.
const PAYLOAD_LIMIT: usize = 7_999;

/// A death, as a listener gets it.
#[derive(Serialize)]
struct Notice<'a> {
    worker_id: &'a str,
    /// Which of its lives ended.
    incarnation: i64,
    hostname: Option<&'a str>,
    last_heartbeat_at: DateTime<Utc>,
    declared_dead_at: DateTime<Utc>,
    reason: &'a str,
    jobs: Vec<Jobs<'a>>,
    /// Keys or tables did not all fit.
    truncated: bool,
}

/// The jobs of one table that were settled.
#[derive(Serialize)]
struct Jobs<'a> {
    table: &'a str,
    failed: i64,
    requeued: i64,
    /// The primary keys of these jobs, where the table has one of a single column.
    keys: Vec<&'a str>,
}

/// The notification of a death.
///
/// # Errors
///
/// None that can happen: the notice is plain data.
pub fn of_death(death: &Death, incarnation: i64, settlement: &Settlement) -> Result<String> {
    let jobs = settlement.by_worker.get(&death.worker.id).into_iter().flatten();
    let (worker_id, hostname) = (&death.worker.id, death.worker.hostname.as_deref());
    let mut notice = Notice {
        worker_id: cut(worker_id),
        incarnation,
        hostname: hostname.map(cut),
        last_heartbeat_at: death.worker.last_heartbeat_at,
        declared_dead_at: death.declared_dead_at,
        reason: death.reason.as_str(),
        jobs: jobs
            .map(|(table, jobs)| Jobs {
                table,
                failed: jobs.failed,
                requeued: jobs.requeued,
                keys: jobs.keys.iter().map(String::as_str).collect(),
            })
            .collect(),
        truncated: cut(worker_id) != worker_id || hostname.map(cut) != hostname,
    };
    payload(&mut notice)
}

/// As many characters of a name as the functions take. An adopted table may have longer ones, and no notification is to
/// keep a death from being declared.
fn cut(name: &str) -> &str {
    const LIMIT: usize = 255;
    name.char_indices().nth(LIMIT).map_or(name, |(end, _)| &name[..end])
}

/// Sends notifications, in this order, when the present transaction commits.
pub fn send(payloads: &[String]) -> Result<()> {
    if payloads.is_empty() {
        return Ok(());
    }
    let statement = sql::Kept::new(
        "SELECT pg_catalog.count(pg_catalog.pg_notify($1, p.payload)) FROM pg_catalog.unnest($2) AS p (payload)"
            .into(),
        &[pg_sys::TEXTOID, pg_sys::TEXTARRAYOID],
    );
    statement.select(&[CHANNEL.into(), arrays::of(payloads)], |_| Ok(()))?;
    Ok(())
}

/// The notice as JSON, with as many of its tables and, after those, of their keys as fit.
fn payload(notice: &mut Notice<'_>) -> Result<String> {
    let keys: Vec<Vec<&str>> = notice.jobs.iter_mut().map(|jobs| std::mem::take(&mut jobs.keys)).collect();
    let mut length = serde_json::to_string(notice)?.len();
    while length > PAYLOAD_LIMIT && notice.jobs.pop().is_some() {
        notice.truncated = true;
        length = serde_json::to_string(notice)?.len();
    }
    for (jobs, keys) in notice.jobs.iter_mut().zip(keys) {
        for key in keys {
            // Quoted and escaped, and a comma.
            length += serde_json::to_string(key)?.len() + 1;
            if length > PAYLOAD_LIMIT {
                notice.truncated = true;
                break;
            }
            jobs.keys.push(key);
        }
    }
    Ok(serde_json::to_string(notice)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Reason;
    use crate::workers::Worker;

    fn notice(tables: &[String]) -> Notice<'_> {
        Notice {
            worker_id: "worker-1",
            incarnation: 2,
            hostname: None,
            last_heartbeat_at: DateTime::UNIX_EPOCH,
            declared_dead_at: DateTime::UNIX_EPOCH,
            reason: "stale",
            jobs: tables
                .iter()
                .map(|table| Jobs { table, failed: 1, requeued: 0, keys: vec!["42"] })
                .collect(),
            truncated: false,
        }
    }

    #[test]
    fn a_notice_is_one_object_with_times_in_utc() {
        let tables = ["public.executions".to_owned()];
        assert_eq!(
            payload(&mut notice(&tables)).unwrap(),
            r#"{"worker_id":"worker-1","incarnation":2,"hostname":null,"last_heartbeat_at":"1970-01-01T00:00:00Z","declared_dead_at":"1970-01-01T00:00:00Z","reason":"stale","jobs":[{"table":"public.executions","failed":1,"requeued":0,"keys":["42"]}],"truncated":false}"#
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
        let payload = of_death(&death, 1, &Settlement::default()).unwrap();
        let read: serde_json::Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(read["hostname"], "ä".repeat(255));
        assert_eq!(read["truncated"], true);
    }

    #[test]
    fn tables_that_do_not_fit_are_left_out_and_it_is_said() {
        let tables: Vec<String> = (0..100).map(|n| format!("{}{n}", "t".repeat(120))).collect();
        let payload = payload(&mut notice(&tables)).unwrap();
        assert!(payload.len() <= PAYLOAD_LIMIT && payload.len() > PAYLOAD_LIMIT - 200);
        assert!(payload.ends_with(r#""truncated":true}"#));
    }

    #[test]
    fn keys_that_do_not_fit_are_left_out_before_any_table_is() {
        let keys: Vec<String> = (0..5_000).map(|n| format!("job \"{n}\"")).collect();
        let tables = ["public.executions".to_owned(), "public.others".to_owned()];
        let mut notice = notice(&tables);
        notice.jobs[0].keys = keys.iter().map(String::as_str).collect();
        let payload = payload(&mut notice).unwrap();
        assert!(payload.len() <= PAYLOAD_LIMIT && payload.len() > PAYLOAD_LIMIT - 50);
        let read: serde_json::Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(read["jobs"].as_array().unwrap().len(), 2);
        assert_eq!(read["jobs"][0]["keys"][1], "job \"1\"");
        assert_eq!(read["truncated"], true);
    }
}
