//! Declaring deaths and settling the jobs of the dead: for the sweeper, for `rgrid_sweep()`, and for a worker
//! that comes back.
//!
//! What orders a sweep and a returning worker is the lock on the worker's row in `worker_heartbeats`: a sweep
//! holds it from the judgement until the jobs are settled and the ledger is written; a heartbeat takes it before
//! it reads the ledger. Jobs left over from a death that is already in the ledger are settled under the lock on
//! the ledger's row, which a returning worker must change.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::ledger::{self, Death, Reason};
use crate::pg::{self, scope};
use crate::settle::{Problem, Settlement, running, settle, settle_now};
use crate::workers::{HeartbeatTable, Worker};
use crate::{buffer, databases, liveness, notify, settings};

/// One row of `rgrid_sweep()`.
pub struct Line {
    worker: Worker,
    job_table: Option<String>,
    failed: i64,
    requeued: i64,
}

/// What a sweep did, or would do.
#[derive(Default)]
pub struct Report {
    /// One line for each dead worker and table, or for a worker that ran nothing.
    pub lines: Vec<Line>,
    /// Tables that failed.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Adds problems, each table's once.
    fn add_problems(&mut self, problems: Vec<Problem>) {
        for problem in problems {
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
    }

    fn add(&mut self, workers: Vec<Worker>, mut settlement: Settlement, without_jobs: bool) {
        self.add_problems(std::mem::take(&mut settlement.problems));
        for worker in workers {
            let jobs = settlement.by_worker.remove(&worker.id).unwrap_or_default();
            if jobs.is_empty() && without_jobs {
                self.lines.push(Line { worker: worker.clone(), job_table: None, failed: 0, requeued: 0 });
            }
            self.lines.extend(jobs.into_iter().map(|(table, jobs)| Line {
                worker: worker.clone(),
                job_table: Some(table),
                failed: jobs.failed,
                requeued: jobs.requeued,
            }));
        }
    }
}

/// A sweep of the present database, made anew for each transaction.
pub struct Sweep {
    installation: Installation,
    heartbeats: HeartbeatTable,
    now: DateTime<Utc>,
    /// Workers last heard of before it are silent.
    recent: DateTime<Utc>,
    /// The same, for who is dead; `None` while nobody can be judged.
    cutoff: Option<DateTime<Utc>>,
}

impl Sweep {
    /// Reads the clock and the settings.
    pub fn new(installation: Installation) -> Result<Self> {
        let heartbeats = HeartbeatTable::open(&installation)?;
        let now = pg::now();
        let threshold = settings::stale_threshold();
        let cutoff = liveness::cutoff(now, databases::observing_since(), threshold);
        Ok(Self { installation, heartbeats, now, recent: now - liveness::delta(threshold), cutoff })
    }

    /// Writes down the return of workers that are in the ledger as dead and whose rows others have renewed
    /// since. Returns the ones that are still dead.
    pub fn close_returned(&self) -> Result<Vec<Worker>> {
        let dead = ledger::dead(&self.installation)?;
        let back = self.returned(&dead)?;
        if back.is_empty() {
            return Ok(dead);
        }
        let ids: Vec<&str> = back.iter().map(|worker| worker.id.as_str()).collect();
        for worker in ledger::close(&self.installation, &ids, self.now)? {
            log_at_commit(format!("worker \"{}\" came back after it was declared dead", printable(&worker)));
        }
        Ok(dead.into_iter().filter(|worker| !ids.contains(&worker.id.as_str())).collect())
    }

    fn returned(&self, dead: &[Worker]) -> Result<Vec<Worker>> {
        match dead {
            [] => Ok(Vec::new()),
            dead => self.heartbeats.heard_since(self.recent, dead),
        }
    }

    /// The workers that are to be declared dead, without locking anything.
    pub fn silent(&self, dead: &[Worker]) -> Result<Vec<Worker>> {
        let Some(cutoff) = self.cutoff else { return Ok(Vec::new()) };
        let mut silent = self.heartbeats.silent_since(cutoff, &ids(dead))?;
        silent.iter_mut().for_each(Worker::renew);
        silent.retain(|worker| worker.last_heartbeat_at < cutoff);
        Ok(silent)
    }

    /// Frees the places in memory of those who are silent: their rows tell as much.
    pub fn forget_silent(&self) {
        if let Some(cutoff) = self.cutoff {
            buffer::forget_silent(cutoff);
        }
    }

    /// Declares these workers dead, those that have beaten meanwhile or that others are at work on apart.
    pub fn declare_dead(&self, silent: &[String]) -> Result<Report> {
        let mut report = Report::default();
        let Some(cutoff) = self.cutoff else { return Ok(report) };
        let mut workers = self.heartbeats.lock_silent(silent, cutoff)?;
        // Another sweep may have been faster: with the rows locked, the ledger tells for good.
        let known = ledger::dead_among(&self.installation, &ids(&workers))?;
        workers.iter_mut().for_each(Worker::renew);
        // The second look: who has beaten meanwhile is alive; the others' heartbeats wait for the row from here on.
        workers.retain(|worker| !known.contains(&worker.id) && buffer::remove_silent(&worker.id, cutoff));
        if workers.is_empty() {
            return Ok(report);
        }
        let settlement = settle(&self.installation, &ids(&workers), self.now)?;
        let deaths: Vec<Death> =
            workers.iter().map(|worker| death(worker, Reason::Stale, self.now, &settlement)).collect();
        record(&self.installation, &deaths, &settlement)?;
        // A trigger may have beaten for its worker while the death was not written yet.
        ids(&workers).iter().for_each(|id| buffer::remove(id));
        report.add(workers, settlement, true);
        Ok(report)
    }

    /// Of these dead workers, the ones that have running jobs: claimed after their death, or locked at the time.
    /// And the tables that could not be asked.
    pub fn with_leftovers(&self, dead: &[Worker]) -> Result<(Vec<String>, Vec<Problem>)> {
        let found = running(&self.installation, &ids(dead))?;
        let mut workers: Vec<String> = found.by_worker.into_keys().collect();
        workers.sort_unstable();
        Ok((workers, found.problems))
    }

    /// Settles what these workers still run, those that have come back meanwhile apart.
    pub fn settle_leftovers(&self, dead: &[String]) -> Result<Report> {
        let mut report = Report::default();
        let mut workers = ledger::lock_dead(&self.installation, dead)?;
        // Who writes its own row may be back without having asked for this lock.
        let back = ids(&self.returned(&workers)?);
        workers.retain(|worker| !back.contains(&worker.id));
        if workers.is_empty() {
            return Ok(report);
        }
        let settlement = settle(&self.installation, &ids(&workers), self.now)?;
        for worker in &workers {
            let (failed, requeued) = settlement.totals(&worker.id);
            if failed + requeued > 0 {
                ledger::add_jobs(&self.installation, &worker.id, failed, requeued)?;
                log_at_commit(format!(
                    "jobs that dead worker \"{}\" still ran were settled: {}",
                    printable(&worker.id),
                    counted(failed, requeued)
                ));
            }
        }
        report.add(workers, settlement, false);
        Ok(report)
    }

    /// What a sweep would do now. Changes and locks nothing.
    fn dry_run(&self) -> Result<Report> {
        let mut report = Report::default();
        let dead = ledger::dead(&self.installation)?;
        let back: HashSet<String> = ids(&self.returned(&dead)?).into_iter().collect();
        let dead: Vec<Worker> = dead.into_iter().filter(|worker| !back.contains(&worker.id)).collect();
        let mut silent = self.silent(&dead)?;
        notice_of_more(silent.len());
        silent.truncate(settings::batch_size());
        let settlement = running(&self.installation, &ids(&silent))?;
        report.add(silent, settlement, true);
        let settlement = running(&self.installation, &ids(&dead))?;
        report.add(dead, settlement, false);
        Ok(report)
    }

    /// One sweep in the caller's transaction.
    fn run(&self) -> Result<Report> {
        let dead = self.close_returned()?;
        let mut silent = ids(&self.silent(&dead)?);
        notice_of_more(silent.len());
        silent.truncate(settings::batch_size());
        let mut report = if silent.is_empty() { Report::default() } else { self.declare_dead(&silent)? };
        let (leftovers, mut problems) = self.with_leftovers(&dead)?;
        if !leftovers.is_empty() {
            let mut settled = self.settle_leftovers(&leftovers)?;
            report.lines.append(&mut settled.lines);
            problems.append(&mut settled.problems);
        }
        report.add_problems(problems);
        Ok(report)
    }
}

/// Settles what a worker in the ledger still runs and writes down that it is back. Its row is locked.
pub fn welcome_back(installation: &Installation, worker: &str) -> Result<()> {
    let now = pg::now();
    let settlement = settle_now(installation, worker, now)?;
    let (failed, requeued) = settlement.totals(worker);
    if failed + requeued > 0 {
        ledger::add_jobs(installation, worker, failed, requeued)?;
    }
    let closed = ledger::close(installation, &[worker], now)?;
    if closed.is_empty() && ledger::standing(installation, worker)?.dead {
        // Its death is newer than the snapshot of this transaction, which cannot change it.
        return Err(Error::SerializationFailure);
    }
    buffer::close(worker);
    if !closed.is_empty() {
        log_at_commit(format!("worker \"{}\" came back after it was declared dead", printable(worker)));
    }
    Ok(())
}

/// Gives up the earlier incarnation of a worker, for a reason of the worker's own. Its row is locked, when it
/// has one. Without `always`, only when it still ran something. Says whether there was a death.
pub fn give_up(installation: &Installation, worker: &Worker, reason: Reason, always: bool) -> Result<bool> {
    let now = pg::now();
    let settlement = settle_now(installation, &worker.id, now)?;
    if !always && settlement.totals(&worker.id) == (0, 0) {
        return Ok(false);
    }
    let mut death = death(worker, reason, now, &settlement);
    death.returned_at = (reason == Reason::Restarted).then_some(now);
    record(installation, &[death], &settlement)?;
    buffer::close(&worker.id);
    Ok(true)
}

/// Adds what a dead worker still runs to its death. Its row is locked.
pub fn settle_dead(installation: &Installation, worker: &str) -> Result<()> {
    let (failed, requeued) = settle_now(installation, worker, pg::now())?.totals(worker);
    if failed + requeued > 0 {
        ledger::add_jobs(installation, worker, failed, requeued)?;
    }
    Ok(())
}

fn death(worker: &Worker, reason: Reason, now: DateTime<Utc>, settlement: &Settlement) -> Death {
    let (jobs_failed, jobs_requeued) = settlement.totals(&worker.id);
    Death {
        worker: worker.clone(),
        reason,
        declared_dead_at: now,
        jobs_failed,
        jobs_requeued,
        returned_at: None,
    }
}

/// Writes deaths into the ledger and, once they are committed, into the log, and tells those who listen.
fn record(installation: &Installation, deaths: &[Death], settlement: &Settlement) -> Result<()> {
    let new = ledger::record(installation, deaths)?;
    for death in deaths {
        if let Some(incarnation) = new.get(&death.worker.id) {
            notify::notify(death, *incarnation, settlement)?;
            log_at_commit(epitaph(death));
        }
    }
    Ok(())
}

/// The log line of a death.
fn epitaph(death: &Death) -> String {
    let id = printable(&death.worker.id);
    let host =
        death.worker.hostname.as_deref().map_or("unknown".into(), |name| format!("\"{}\"", printable(name)));
    let jobs = counted(death.jobs_failed, death.jobs_requeued);
    let seconds = seconds(liveness::silence(death.declared_dead_at, death.worker.last_heartbeat_at));
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
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64())
}

fn counted(failed: i64, requeued: i64) -> String {
    match requeued {
        0 => format!("jobs failed: {failed}"),
        _ => format!("jobs failed: {failed}, requeued: {requeued}"),
    }
}

/// A name from a table that others write, fit for one line of the log.
pub fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// To the server's log alone: what goes to a client may fail, and nothing may fail after the commit.
fn log_at_commit(line: String) {
    scope::at_commit(move || {
        ErrorReport::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, line, "rgrid_heartbeat")
            .report(PgLogLevel::LOG_SERVER_ONLY);
    });
}

fn ids(workers: &[Worker]) -> Vec<String> {
    workers.iter().map(|worker| worker.id.clone()).collect()
}

/// Tells the caller of `rgrid_sweep()` that one call is not enough.
fn notice_of_more(silent: usize) {
    let batch = settings::batch_size();
    if silent > batch {
        notice!("{silent} workers are dead, of which one call settles {batch}; call rgrid_sweep() again");
    }
}

/// One sweep of the present database now, or what one would do.
///
/// Follows the rules of the sweeper: nobody is dead before the server has listened for a whole threshold. Returns
/// a row for each dead worker and job table in which it had running jobs, or one with a NULL `job_table` for
/// one that had none; then rows for jobs left over from earlier deaths.
#[pg_extern]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn rgrid_sweep(
    dry_run: default!(bool, "false"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(worker_id, String),
            name!(hostname, Option<String>),
            name!(last_heartbeat_at, Option<TimestampWithTimeZone>),
            name!(job_table, Option<String>),
            name!(jobs_failed, i64),
            name!(jobs_requeued, i64),
        ),
    >,
    ErrorReport,
> {
    if !dry_run {
        pg::prevent_unless_writable(c"rgrid_sweep()");
    }
    let sweep = Sweep::new(Installation::of_caller()?)?;
    let report = if dry_run { sweep.dry_run()? } else { sweep.run()? };
    for problem in &report.problems {
        warning!("{}", problem.message());
    }
    Ok(TableIterator::new(report.lines.into_iter().map(|line| {
        (
            line.worker.id,
            line.worker.hostname,
            pg::timestamptz(line.worker.last_heartbeat_at),
            line.job_table,
            line.failed,
            line.requeued,
        )
    })))
}
