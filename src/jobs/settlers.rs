//! Queues whose jobs are settled by a call: by a function of their owner, or by the statements for a queue that is
//! known by name. Only sweepers call: with the owner's rights, in a subtransaction, for so long as any statement may
//! take. What could not be done is noted ([`unsettled_calls`]) in the transaction of the death, and tried again by each
//! sweep: a call is made at least once for each death.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use pgrx::pg_sys;

use super::pauses::{Occasion, is_paused_at, may_touch, note_overdue};
use super::settle::{Outcome, check_constraints_at_once, until};
use super::settler::{Settler, label};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::scope;
use crate::pg::timer::Deadline;
use crate::rules::bisection::{RetryBudget, bisect};
use crate::settings;
use crate::shmem::problems::{Place, Problem};
use crate::shmem::quarantine;
use crate::tables::job_queues::{self, Watch};
use crate::tables::unsettled_calls::{self, Unsettled};

/// What is noted for calls that a session leaves to a sweeper.
const LEFT_TO_A_SWEEPER: &str = "a sweeper has yet to call it";

fn problem(watch: &Watch, oid: pg_sys::Oid, error: &Error) -> Problem {
    Problem::new(place(oid), format!("settle jobs by {}", label(&watch.name)), error).with_hint_of(error)
}

fn place(oid: pg_sys::Oid) -> Place {
    Place::JobQueue { queue: oid }
}

/// Has the jobs of these workers settled that were just declared dead. In a session, and where that fails, it is noted.
pub fn settle(
    installation: &Installation,
    workers: &[String],
    now: DateTime<Utc>,
    occasion: Occasion,
    outcome: &mut Outcome,
) -> Result<()> {
    for watch in job_queues::all(installation)? {
        let workers = watch.workers(workers);
        if workers.is_empty() {
            continue;
        }
        if scope::statement_limit().is_none() {
            unsettled_calls::note(installation, &watch.name, &workers, now, LEFT_TO_A_SWEEPER)?;
            continue;
        }
        let mut call = Call { watch: &watch, now, occasion, settled: Vec::new(), outcome };
        let failure = call.settle(&workers);
        let done: HashSet<&str> = call.settled.into_iter().collect();
        if let Some(reason) = failure {
            let left: Vec<&str> = workers.into_iter().filter(|id| !done.contains(id)).collect();
            unsettled_calls::note(installation, &watch.name, &left, now, &reason)?;
        }
    }
    Ok(())
}

/// Has settled what is noted for these workers and a queue. Returns those for whom that was done.
pub fn settle_noted<'a>(
    installation: &Installation,
    noted: &'a [Unsettled],
    now: DateTime<Utc>,
    outcome: &mut Outcome,
) -> Result<Vec<&'a Unsettled>> {
    check_constraints_at_once()?;
    let watches = job_queues::all(installation)?;
    let mut all_done = Vec::new();
    for noted in noted.chunk_by(|one, other| one.queue == other.queue) {
        let Some(first) = noted.first() else { continue };
        let Some(watch) = watches.iter().find(|watch| watch.name == first.queue) else { continue };
        let mut workers: Vec<&str> = noted.iter().map(|one| one.worker.as_str()).collect();
        workers.dedup();
        let mut call = Call { watch, now, occasion: Occasion::Orphans, settled: Vec::new(), outcome };
        call.settle(&workers);
        let done: HashSet<&str> = call.settled.into_iter().collect();
        let names: Vec<&str> = done.iter().copied().collect();
        unsettled_calls::forget(installation, &watch.name, &names)?;
        all_done.extend(noted.iter().filter(|one| done.contains(one.worker.as_str())));
    }
    Ok(all_done)
}

/// Has all queues of a worker settle its jobs, which waits for that. Returns whether all did.
pub fn settle_for(
    installation: &Installation,
    worker: &str,
    now: DateTime<Utc>,
    outcome: &mut Outcome,
) -> Result<bool> {
    check_constraints_at_once()?;
    let mut are_all_done = true;
    for watch in job_queues::all(installation)?.iter().filter(|watch| watch.bare(worker).is_some()) {
        let mut call = Call { watch, now, occasion: Occasion::Orphans, settled: Vec::new(), outcome };
        match call.settle(&[worker]) {
            None => unsettled_calls::forget(installation, &watch.name, &[worker])?,
            Some(_) => are_all_done = false,
        }
    }
    Ok(are_all_done)
}

/// Whether a queue settles jobs of this worker.
pub fn are_for(installation: &Installation, worker: &str) -> Result<bool> {
    Ok(job_queues::all(installation)?.iter().any(|watch| watch.bare(worker).is_some()))
}

/// Notes that the queues have yet to settle the jobs of a worker that left.
pub fn note_left(installation: &Installation, worker: &str, now: DateTime<Utc>) -> Result<()> {
    for watch in job_queues::all(installation)? {
        if watch.bare(worker).is_some() {
            unsettled_calls::note(installation, &watch.name, &[worker], now, LEFT_TO_A_SWEEPER)?;
        }
    }
    Ok(())
}

/// Calls of one queue, and what came of them.
struct Call<'a, 'b> {
    watch: &'a Watch,
    now: DateTime<Utc>,
    occasion: Occasion,
    /// The workers whose jobs were settled.
    settled: Vec<&'a str>,
    outcome: &'b mut Outcome,
}

impl<'a> Call<'a, '_> {
    /// Returns why not all of it was done, if that is so.
    fn settle(&mut self, workers: &[&'a str]) -> Option<String> {
        let settler = match scope::subtransaction(|| Settler::open(self.watch)) {
            Ok(settler) => settler,
            Err(error) => return Some(self.failed(pg_sys::InvalidOid, &error)),
        };
        let oid = settler.named.oid;
        if let Err(error) = may_touch(oid, self.occasion) {
            return Some(self.failed(oid, &error));
        }
        if is_paused_at(place(oid), self.occasion, self.now) {
            self.outcome.problems.push(Problem::standing(place(oid)));
            return Some("it failed, and is called again later".into());
        }
        let mut budget = RetryBudget::new(settings::statement_timeout());
        let (mut settled, mut jobs) = (Vec::new(), Vec::new());
        let result =
            bisect(workers, &mut budget, |error: &Error| !error.is_interrupt(), &mut |part: &[&'a str]| {
                let call = || scope::subtransaction(|| settler.settle(part, self.now));
                jobs.append(&mut quarantine::at_work(oid, call)?);
                settled.extend_from_slice(part);
                Ok(())
            });
        if !settled.is_empty() {
            quarantine::settled(oid);
        }
        self.settled = settled;
        self.outcome.settled.append(&mut jobs);
        result.err().map(|error| self.failed(oid, &error))
    }

    fn failed(&mut self, oid: pg_sys::Oid, error: &Error) -> String {
        note_overdue(place(oid), error);
        let problem = problem(self.watch, oid, error);
        let reason = problem.reason().to_owned();
        self.outcome.problems.push(problem);
        reason
    }
}

/// Adds what these workers are running, as far as that can be asked.
pub fn running(
    installation: &Installation,
    workers: &[String],
    deadline: Option<Deadline>,
    found: &mut Outcome,
) -> Result<()> {
    for watch in job_queues::all(installation)? {
        let workers = watch.workers(workers);
        if workers.is_empty() {
            continue;
        }
        let mut oid = pg_sys::InvalidOid;
        let read = until(deadline, || {
            let settler = Settler::open(&watch)?;
            oid = settler.named.oid;
            may_touch(oid, Occasion::Orphans)?;
            quarantine::at_work(oid, || settler.running(&workers))
        });
        match read {
            Ok(mut jobs) => found.settled.append(&mut jobs),
            Err(error) => found.problems.push(problem(&watch, oid, &error)),
        }
    }
    Ok(())
}
