//! The ledger of deaths, `rgrid_worker_deaths`: every death once, and which workers are dead now.
//!
//! A worker is dead while one of its rows has no `returned_at`; a unique index allows one such row a worker.
//! A session that adds or closes a row of a worker holds the lock on the worker's row of `worker_heartbeats`, if there
//! is one.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use pgrx::datum::TimestampWithTimeZone;

use crate::error::Result;
use crate::installation::Installation;
use crate::pg::{self, arrays, scope, sql};
use crate::shmem::{counters, databases};
use crate::tables::heartbeats::Worker;
use crate::tables::incarnations::{self, BASE, HIGHEST};
use crate::tables::worker_owners;

pub mod prune;
pub mod views;

/// Why a worker was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was silent for longer than the threshold.
    Stale,
    /// Another process registered under its id.
    Restarted,
    /// It deregistered while it still had running jobs.
    Deregistered,
    /// Its session ended because its client vanished, and it was not heard again.
    Disconnected {
        /// When the session ended; not known of a death that is read.
        at: DateTime<Utc>,
    },
}

impl Reason {
    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Restarted => "restarted",
            Self::Deregistered => "deregistered",
            Self::Disconnected { .. } => "disconnected",
        }
    }
}

/// What the tables say about one worker.
#[derive(Clone, Debug)]
pub struct WorkerRecord {
    /// The incarnation that it is told: that after its last death, or what [`crate::tables::incarnations`] has for a
    /// worker without one.
    pub incarnation: i64,
    /// Whether it is dead now.
    pub dead: bool,
    /// The name of the role that its id belongs to. The role may have been dropped or renamed.
    pub owner: Option<String>,
}

/// A death to be recorded.
#[derive(Clone, Debug)]
pub struct Death {
    /// The worker as it was last seen.
    pub worker: Worker,
    /// Why it was given up.
    pub reason: Reason,
    /// When it was given up.
    pub declared_dead_at: DateTime<Utc>,
    /// Running jobs that were marked as failed.
    pub jobs_failed: i64,
    /// Running jobs that were returned to the queue.
    pub jobs_requeued: i64,
    /// When it came back. Equal to `declared_dead_at` when another process took over its id.
    pub returned_at: Option<DateTime<Utc>>,
}

/// What the ledger, and the numbers that outlive it, say about a worker, and the number that it is told. The caller has
/// locked its row of `worker_heartbeats`, and says whether there was one before. A number that is higher than what was
/// noted for the worker is noted.
///
/// The lock orders this with sweeps only if this sees what they committed before the lock was taken. So it uses a new
/// snapshot, whatever the caller's isolation level.
///
/// # Errors
///
/// `numeric_value_out_of_range` when there is no number for the worker.
pub fn worker_record(installation: &Installation, worker: &str, had_row: bool) -> Result<WorkerRecord> {
    let look = || scope::with_latest_snapshot(|| look_up(installation, worker, had_row));
    let mut found = look()?;
    if !found.is_current {
        incarnations::raise_base(installation)?;
        found = look()?;
    }
    if !found.is_noted {
        incarnations::note(installation, worker, found.record.incarnation)?;
    }
    Ok(found.record)
}

/// What is read of a worker before it is told a number.
struct Found {
    record: WorkerRecord,
    /// Its number need not be noted.
    is_noted: bool,
    /// The base is this database's own; otherwise it is raised first.
    is_current: bool,
}

fn look_up(installation: &Installation, worker: &str, had_row: bool) -> Result<Found> {
    let deaths = installation.stored("rgrid_worker_deaths", (c"worker_id", worker), |row| {
        let returned_at: Option<TimestampWithTimeZone> = row.optional(c"returned_at")?;
        Ok((row.required::<i64>(c"incarnation")?, returned_at.is_none()))
    })?;
    let last = deaths.iter().map(|(incarnation, _)| *incarnation).max();
    let dead = deaths.iter().any(|(_, is_dead)| *is_dead);
    let owner = worker_owners::noted(installation, worker)?;
    let next = last.map(|last| incarnations::after(last, worker)).transpose()?;
    let known = next.max(incarnations::noted(installation, worker)?);
    let is_living = !dead && (had_row || owner.is_some());
    let (numbers, is_current) = incarnations::numbers(installation, known.is_none() && !is_living)?;
    let incarnation = incarnations::told(known, is_living, numbers, worker)?;
    Ok(Found {
        record: WorkerRecord { incarnation, dead, owner },
        is_noted: incarnation == known.unwrap_or(1),
        is_current,
    })
}

/// Of these workers, the ones whose death cannot be recorded, because their number is out of range.
pub fn out_of_range(installation: &Installation, workers: &[String]) -> Result<HashSet<String>> {
    let statement = installation.sql(&format!(
        "SELECT w.id FROM unnest($1::text[]) AS w (id) \
         LEFT JOIN (SELECT d.worker_id, least(pg_catalog.max(d.incarnation), {HIGHEST}) AS last \
                    FROM @extschema@.rgrid_worker_deaths d WHERE d.worker_id = ANY ($1) GROUP BY 1) d \
             ON d.worker_id = w.id \
         LEFT JOIN @extschema@.rgrid_incarnations i ON i.worker_id = w.id \
         WHERE {} > {HIGHEST}",
        incarnations::number("d.last"),
    ));
    let found = installation
        .as_owner(|| sql::read(&statement, &[arrays::of(workers)], |row| row.required(1, "worker id")))?;
    Ok(found.into_iter().collect())
}

/// Whether the ledger has a death of this worker.
pub fn has_died(installation: &Installation, worker: &str) -> Result<bool> {
    let of_worker = || installation.stored("rgrid_worker_deaths", (c"worker_id", worker), |_| Ok(()));
    Ok(!scope::with_latest_snapshot(of_worker)?.is_empty())
}

/// The dead workers, as they were when they were given up.
pub fn dead(installation: &Installation) -> Result<Vec<Worker>> {
    let statement = installation.sql(
        "SELECT d.worker_id, d.hostname, d.last_heartbeat_at \
         FROM @extschema@.rgrid_worker_deaths d WHERE d.returned_at IS NULL ORDER BY d.worker_id",
    );
    installation.as_owner(|| sql::read(&statement, &[], dead_worker))
}

/// Of these workers, the ones that are dead at this moment. That stays true until the transaction ends only if the
/// caller has locked their rows of `worker_heartbeats`.
pub fn dead_among(installation: &Installation, workers: &[String]) -> Result<HashSet<String>> {
    let statement = installation.sql(
        "SELECT d.worker_id FROM @extschema@.rgrid_worker_deaths d \
         WHERE d.worker_id = ANY ($1) AND d.returned_at IS NULL",
    );
    // The latest snapshot, because the caller may have waited for the row locks.
    let dead = installation.as_owner(|| {
        sql::read_latest(&statement, &[arrays::of(workers)], |row| row.required(1, "worker id"))
    })?;
    Ok(dead.into_iter().collect())
}

/// Of these workers, the ones that are still dead. Their rows of the ledger stay locked until the transaction ends.
/// Rows that another session has locked are left out.
pub fn lock_dead(installation: &Installation, workers: &[String]) -> Result<Vec<Worker>> {
    let statement = installation.sql(
        "SELECT d.worker_id, d.hostname, d.last_heartbeat_at \
         FROM @extschema@.rgrid_worker_deaths d \
         WHERE d.worker_id = ANY ($1) AND d.returned_at IS NULL \
         ORDER BY d.worker_id FOR UPDATE SKIP LOCKED",
    );
    installation.as_owner(|| sql::write_returning(&statement, &[arrays::of(workers)], dead_worker))
}

fn dead_worker(row: sql::Row<'_>) -> Result<Worker> {
    let time = row.optional(3)?.map_or(DateTime::<Utc>::MIN_UTC, pg::time_of);
    Ok(Worker { id: row.required(1, "worker id")?, hostname: row.optional(2)?, last_heartbeat_at: time })
}

/// Records deaths, each with the worker's current incarnation. Returns the workers whose death is new, and its number.
///
/// Two sessions can only try to record the same death when the worker has no row in `worker_heartbeats` to lock. Then
/// only the first one records it. `notified` says whether listeners are told. The number that comes next is noted,
/// whatever becomes of the ledger.
pub fn record(installation: &Installation, deaths: &[Death], notified: bool) -> Result<HashMap<String, i64>> {
    incarnations::raise_base(installation)?;
    let statement = installation.sql(&format!(
        "WITH recorded AS ( \
         INSERT INTO @extschema@.rgrid_worker_deaths \
             (worker_id, incarnation, hostname, last_heartbeat_at, declared_dead_at, reason, \
              jobs_failed, jobs_requeued, returned_at, notified) \
         SELECT n.worker_id, {}, \
                n.hostname, n.last_heartbeat_at, n.declared_dead_at, n.reason, \
                n.jobs_failed, n.jobs_requeued, n.returned_at, $9 \
         FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], \
                     $6::bigint[], $7::bigint[], $8::timestamptz[]) \
              AS n (worker_id, hostname, last_heartbeat_at, declared_dead_at, reason, \
                    jobs_failed, jobs_requeued, returned_at) \
         LEFT JOIN (SELECT d.worker_id, least(pg_catalog.max(d.incarnation), {HIGHEST}) AS last \
                    FROM @extschema@.rgrid_worker_deaths d WHERE d.worker_id = ANY ($1) GROUP BY 1) d \
             ON d.worker_id = n.worker_id \
         LEFT JOIN @extschema@.rgrid_incarnations i ON i.worker_id = n.worker_id \
         ON CONFLICT DO NOTHING RETURNING worker_id, incarnation), \
         noted AS ( \
         INSERT INTO @extschema@.rgrid_incarnations AS i (worker_id, incarnation) \
         SELECT r.worker_id, greatest(r.incarnation + 1, {BASE}) FROM recorded r \
         ON CONFLICT (worker_id) DO UPDATE SET incarnation = EXCLUDED.incarnation) \
         SELECT r.worker_id, r.incarnation FROM recorded r",
        incarnations::number("d.last"),
    ));
    let column = |value: fn(&Death) -> &str| arrays::texts(deaths.iter().map(value));
    let time = |value: fn(&Death) -> Option<DateTime<Utc>>| {
        deaths.iter().map(|death| value(death).and_then(pg::timestamptz)).collect::<Vec<_>>()
    };
    let number = |value: fn(&Death) -> i64| deaths.iter().map(value).collect::<Vec<_>>();
    let hostnames: Vec<Option<&str>> = deaths.iter().map(|death| death.worker.hostname.as_deref()).collect();
    let arguments = [
        column(|death| &death.worker.id),
        hostnames.into(),
        time(|death| Some(death.worker.last_heartbeat_at)).into(),
        time(|death| Some(death.declared_dead_at)).into(),
        column(|death| death.reason.as_str()),
        number(|death| death.jobs_failed).into(),
        number(|death| death.jobs_requeued).into(),
        time(|death| death.returned_at).into(),
        notified.into(),
    ];
    let new = installation.as_owner(|| {
        sql::write_returning(&statement, &arguments, |row| {
            Ok((row.required(1, "worker id")?, row.required(2, "incarnation")?))
        })
    })?;
    let new: HashMap<String, i64> = new.into_iter().collect();
    count(deaths.iter().filter(|death| new.contains_key(&death.worker.id)));
    Ok(new)
}

/// Counts deaths once they are committed.
fn count<'a>(deaths: impl Iterator<Item = &'a Death>) {
    let (mut number, mut failed, mut requeued) = (0, 0, 0);
    for death in deaths {
        number += 1;
        failed += counters::number(death.jobs_failed);
        requeued += counters::number(death.jobs_requeued);
    }
    databases::count_at_commit(move |counters| {
        counters.deaths += number;
        counters.jobs_failed += failed;
        counters.jobs_requeued += requeued;
    });
}

/// Adds jobs that were settled after a death to its row: that of this incarnation, or of the worker that is dead now.
pub fn add_jobs(
    installation: &Installation,
    worker: &str,
    incarnation: Option<i64>,
    (failed, requeued): (i64, i64),
) -> Result<()> {
    let statement = installation.sql(
        "UPDATE @extschema@.rgrid_worker_deaths d \
         SET jobs_failed = d.jobs_failed + $2, jobs_requeued = d.jobs_requeued + $3 \
         WHERE d.worker_id = $1 AND CASE WHEN $4 IS NULL THEN d.returned_at IS NULL ELSE d.incarnation = $4 END",
    );
    let arguments = [worker.into(), failed.into(), requeued.into(), incarnation.into()];
    installation.as_owner(|| sql::write(&statement, &arguments))?;
    databases::count_at_commit(move |counters| {
        counters.jobs_failed += counters::number(failed);
        counters.jobs_requeued += counters::number(requeued);
    });
    Ok(())
}

/// Sets the last heartbeat of those of these dead workers that have one later than `limit` to `now`. Such a heartbeat
/// comes from a clock that was set back since. Otherwise their next heartbeat would seem older than their last.
pub fn clamp_to_now(
    installation: &Installation,
    workers: &[String],
    limit: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<()> {
    let statement = installation.sql(
        "UPDATE @extschema@.rgrid_worker_deaths d SET last_heartbeat_at = $3 \
         WHERE d.worker_id = ANY ($1) AND d.returned_at IS NULL AND d.last_heartbeat_at > $2",
    );
    let arguments = [workers.to_vec().into(), pg::timestamptz(limit).into(), pg::timestamptz(now).into()];
    installation.as_owner(|| sql::write(&statement, &arguments))?;
    Ok(())
}

/// Records that dead workers came back. Returns those whose return was not recorded yet.
pub fn close(
    installation: &Installation,
    workers: &[&str],
    returned_at: DateTime<Utc>,
) -> Result<Vec<String>> {
    let statement = installation.sql(
        "UPDATE @extschema@.rgrid_worker_deaths d SET returned_at = $2 \
         WHERE d.worker_id = ANY ($1) AND d.returned_at IS NULL RETURNING d.worker_id, d.reason",
    );
    let arguments = [workers.to_vec().into(), pg::timestamptz(returned_at).into()];
    let closed: Vec<(String, String)> = installation.as_owner(|| {
        sql::write_returning(&statement, &arguments, |row| {
            Ok((row.required(1, "worker id")?, row.required(2, "reason")?))
        })
    })?;
    let is_false = |reason: &str| ["stale", "disconnected"].contains(&reason);
    let false_deaths = counters::number(closed.iter().filter(|(_, reason)| is_false(reason)).count());
    if false_deaths > 0 {
        databases::count_at_commit(move |counters| counters.false_deaths += false_deaths);
    }
    Ok(closed.into_iter().map(|(worker, _)| worker).collect())
}
