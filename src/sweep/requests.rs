//! What a returning or registering worker waits for: a sweeper has the queues settle the jobs that the worker's earlier
//! life still runs. Afterwards nobody could tell them from those of the new one.

use std::collections::HashSet;
use std::time::Duration;

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::table::TableName;
use crate::jobs::{Outcome, SettledJobs, settlers};
use crate::pg::timer::Deadline;
use crate::pg::{self, process, scope, version};
use crate::rules::text::printable;
use crate::shmem::lost_sessions;
use crate::shmem::problems::Problem;
use crate::shmem::requests::{self, Answer, Open};
use crate::tables::unsettled_calls;

/// How often a session looks for the answer.
const PAUSE: Duration = Duration::from_millis(5);

/// Has a sweeper settle what queues are still running for a worker, and waits for that. Returns these jobs, if there
/// were some.
///
/// # Errors
///
/// [`Error::CallPending`] when no sweeper has done it by half of the time that is left.
pub fn settle_by_sweeper(
    installation: &Installation,
    worker: &str,
    deadline: Deadline,
) -> Result<Option<SettledJobs>> {
    if !settlers::are_for(installation, worker)? {
        return Ok(None);
    }
    let pending = || Error::CallPending { worker: printable(worker) };
    let waiting = version::wait_event(c"RgridHeartbeatSettle");
    let deadline = deadline.half();
    let mut asked = None;
    while !deadline.remaining().is_zero() {
        if asked.is_none() {
            asked = requests::ask(worker);
            lost_sessions::judge_by(pg::now());
        }
        match asked.as_ref().and_then(requests::Asked::answer) {
            Some(Answer::Settled { failed: 0, requeued: 0 }) => return Ok(None),
            Some(Answer::Settled { failed, requeued }) => return Ok(Some(jobs(worker, failed, requeued))),
            Some(Answer::Failed) => return Err(pending()),
            None => process::wait(PAUSE, waiting),
        }
    }
    Err(pending())
}

fn jobs(worker: &str, failed: i64, requeued: i64) -> SettledJobs {
    let table = TableName { name: "queues".into(), oid: pg_sys::InvalidOid };
    SettledJobs { worker: worker.to_owned(), table, failed, requeued, keys: Vec::new() }
}

/// The same for a worker of whom nothing else is known: only if a queue has not settled jobs of an earlier one.
pub fn settle_noted_by_sweeper(
    installation: &Installation,
    worker: &str,
    deadline: Deadline,
) -> Result<Option<SettledJobs>> {
    match unsettled_calls::among(installation, &HashSet::from([worker.to_owned()]))?.is_empty() {
        true => Ok(None),
        false => settle_by_sweeper(installation, worker, deadline),
    }
}

/// Does what sessions have asked for. Returns what was in the way.
pub fn serve() -> Vec<Problem> {
    requests::open().iter().flat_map(serve_one).collect()
}

fn serve_one(request: &Open) -> Vec<Problem> {
    let mut outcome = Outcome::default();
    let settled = scope::transaction(|| match Installation::find()? {
        Some(installation) => settlers::settle_for(&installation, &request.worker, pg::now(), &mut outcome),
        None => Ok(true),
    });
    let (failed, requeued) = outcome.totals();
    request.answer(match settled {
        Ok(true) => Answer::Settled { failed, requeued },
        _ => Answer::Failed,
    });
    outcome.problems.extend(settled.err().map(|error| Problem::of_round(&error)));
    outcome.problems
}
