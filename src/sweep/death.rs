//! Declaring and closing one death: for a sweep, and for a worker that returns, registers or leaves.
//!
//! The worker's row of `worker_heartbeats` is locked, if it has one: that lock orders all of these.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::log_lines::{death_line, log_at_commit, return_line};
use super::{notify, requests};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::settle::totals;
use crate::jobs::{LeftBehind, Outcome, RefusedJob, SettledJobs, session};
use crate::pg::timer::Deadline;
use crate::pg::{self, notifications, row_versions};
use crate::shmem::buffer;
use crate::tables::deaths::{self, Death, Reason};
use crate::tables::heartbeats::Worker;
use crate::tables::unsettled;

/// Declares workers dead whose jobs were settled. Records the deaths in the ledger and, at the commit, in the log;
/// notifies listeners; sends their next heartbeats to their rows.
pub fn declare(
    installation: &Installation,
    workers: &[Worker],
    reason: impl Fn(&Worker) -> Reason,
    now: DateTime<Utc>,
    jobs: &Outcome,
) -> Result<()> {
    if workers.is_empty() {
        return Ok(());
    }
    let by_worker = jobs.by_worker();
    let deaths: Vec<Death> = workers
        .iter()
        .map(|worker| death(worker, reason(worker), now, jobs_of(&by_worker, worker)))
        .collect();
    record(installation, &deaths, &by_worker, &jobs.refused)?;
    // A trigger may have sent a heartbeat for its worker before the death was recorded.
    workers.iter().for_each(|worker| buffer::close(&worker.id));
    Ok(())
}

/// A dead worker returns: settles its running jobs, notes those that cannot be settled now, and closes its death.
pub fn close_on_return(installation: &Installation, worker: &str, deadline: Deadline) -> Result<()> {
    let now = pg::now();
    if let Some(jobs) = requests::settle_by_sweeper(installation, worker, deadline)? {
        deaths::add_jobs(installation, worker, None, (jobs.failed, jobs.requeued))?;
    }
    let left = settle_dead(installation, worker, now, deadline)?;
    note_left(installation, &[worker], &left)?;
    let closed = deaths::close(installation, &[worker], now)?;
    buffer::close(worker);
    log_at_commit(closed.iter().map(|worker| return_line(worker)).collect());
    Ok(())
}

/// Another process registers under a worker's id: the earlier incarnation is dead. Without `always` only if it has
/// running jobs, which prove that it existed. Returns whether there was a death.
pub fn end_for_restart(
    installation: &Installation,
    worker: &Worker,
    always: bool,
    deadline: Deadline,
) -> Result<bool> {
    let now = pg::now();
    let by_call = match always {
        true => requests::settle_by_sweeper(installation, &worker.id, deadline)?,
        false => requests::settle_noted_by_sweeper(installation, &worker.id, deadline)?,
    };
    let mut jobs = session::settle(installation, &worker.id, now, deadline)?;
    jobs.settled.extend(by_call);
    let has_ended = end(installation, worker, Reason::Restarted, always, now, &jobs)?;
    note_left(installation, &[&worker.id], &jobs.left)?;
    Ok(has_ended)
}

/// A worker leaves: this is a death only if it has running jobs. Those that cannot be settled now are orphans then.
pub fn end_for_leaving(installation: &Installation, worker: &Worker, deadline: Deadline) -> Result<()> {
    let now = pg::now();
    let jobs = session::settle(installation, &worker.id, now, deadline)?;
    if !end(installation, worker, Reason::Deregistered, false, now, &jobs)? {
        note_left(installation, &[&worker.id], &jobs.left)?;
    }
    Ok(())
}

/// The death is of the moment before its jobs were settled, which have that time.
fn end(
    installation: &Installation,
    worker: &Worker,
    reason: Reason,
    always: bool,
    now: DateTime<Utc>,
    jobs: &Outcome,
) -> Result<bool> {
    let has_jobs = jobs.totals() != (0, 0) || jobs.left.iter().any(|left| left.was_read);
    if !always && !has_jobs {
        return Ok(false);
    }
    let by_worker = jobs.by_worker();
    let mut death = death(worker, reason, now, jobs_of(&by_worker, worker));
    death.returned_at = (reason == Reason::Restarted).then_some(now);
    record(installation, &[death], &by_worker, &jobs.refused)?;
    buffer::close(&worker.id);
    Ok(true)
}

/// Settles the running jobs of a dead worker, and adds them to its death. Returns those that cannot be settled now.
pub fn settle_dead(
    installation: &Installation,
    worker: &str,
    now: DateTime<Utc>,
    deadline: Deadline,
) -> Result<Vec<LeftBehind>> {
    let jobs = session::settle(installation, worker, now, deadline)?;
    if jobs.totals() != (0, 0) {
        deaths::add_jobs(installation, worker, None, jobs.totals())?;
    }
    Ok(jobs.left)
}

/// Notes the jobs that each of these workers leaves behind, so that sweepers settle those that nobody has changed until
/// then. Only after that may a worker be told its new number.
///
/// # Errors
///
/// [`Error::NotNoted`] when it is not known which rows are being changed at this moment.
pub fn note_left(installation: &Installation, workers: &[&str], left: &[LeftBehind]) -> Result<()> {
    let Some(first) = left.first() else { return Ok(()) };
    let snapshot = row_versions::ended_by_now().ok_or_else(|| Error::NotNoted {
        table: first.table.name.clone(),
        reason: "It is not known which rows are changing: a transaction, perhaps this one, is very old, or has had very many \
                 subtransactions.",
    })?;
    for LeftBehind { table, keys, reason, .. } in left {
        unsettled::note(installation, workers, table.oid, &snapshot, keys, reason)?;
    }
    Ok(())
}

fn jobs_of<'a>(by_worker: &'a HashMap<&str, Vec<&SettledJobs>>, worker: &Worker) -> &'a [&'a SettledJobs] {
    by_worker.get(worker.id.as_str()).map_or(&[], Vec::as_slice)
}

fn death(worker: &Worker, reason: Reason, now: DateTime<Utc>, jobs: &[&SettledJobs]) -> Death {
    let (jobs_failed, jobs_requeued) = totals(jobs.iter().copied());
    Death {
        worker: worker.clone(),
        reason,
        declared_dead_at: now,
        jobs_failed,
        jobs_requeued,
        returned_at: None,
    }
}

fn record(
    installation: &Installation,
    deaths: &[Death],
    by_worker: &HashMap<&str, Vec<&SettledJobs>>,
    refused: &[RefusedJob],
) -> Result<()> {
    let has_room = notifications::has_room()?;
    let new = deaths::record(installation, deaths, has_room)?;
    let (mut events, mut lines) = (Vec::new(), Vec::new());
    for death in deaths {
        if let Some(incarnation) = new.get(&death.worker.id) {
            events.push(notify::of_death(death, *incarnation, jobs_of(by_worker, &death.worker), refused)?);
            lines.push(death_line(death));
        }
    }
    log_at_commit(lines);
    notify::send(&events, has_room)
}
