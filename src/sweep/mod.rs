//! What a round of a sweeper does in a database, and a sweep by hand. The order is the same for both.
//!
//! The lock on the worker's row in `worker_heartbeats` orders a sweep and a returning worker. A sweep holds it from the
//! judgement until the jobs are settled and the ledger is written; a heartbeat takes it before it reads the ledger.
//! Orphaned jobs, those of a death that is already in the ledger, are settled under the lock on the ledger's row, which
//! a returning worker must change.

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::Outcome;
use crate::pg::timer::Deadline;
use crate::pg::{self, process, scope};
use crate::settings;
use crate::shmem::databases;
use crate::shmem::problems::{Place, Problem};
use crate::tables::heartbeats::Worker;

pub mod death;
pub mod disconnected;
pub mod filling;
pub mod flush;
pub mod local_time;
mod log_lines;
mod look;
pub mod mass_death;
pub mod notify;
pub mod own_tables;
pub mod prune;
pub mod replicated;
pub mod requests;
mod steps;

use look::{Orphans, WorkToDo};
use steps::Sweep;

/// How a sweep is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By a sweeper: every batch, each in a transaction of its own.
    Sweeper,
    /// In the session and the transaction of a caller: one batch of each kind. With `force` no death is held back.
    ByHand {
        /// Whether a hold is lifted.
        force: bool,
    },
    /// What a sweep by hand would do. Changes and locks nothing.
    DryRun {
        /// As above.
        force: bool,
        /// Tables that cannot be read until then are left out, and named.
        deadline: Deadline,
    },
}

/// What one step of a sweep did, or would do.
pub struct Step {
    /// The workers that it dealt with.
    pub workers: Vec<Worker>,
    /// Whether it declared them dead; otherwise they were dead before.
    pub are_new: bool,
    /// What became of their jobs.
    pub jobs: Outcome,
}

/// One sweep of the current database: sets heartbeats ahead of the clock to the current time, declares disconnected and
/// silent workers dead, settles orphaned jobs. Calls `report` after each step. Returns what could not be done.
pub fn sweep(mode: Mode, report: &mut dyn FnMut(&Step)) -> Result<Vec<Problem>> {
    mode.report_activity("looking for dead workers");
    let followed = mode.attempt(Sweep::follow).unwrap_or_else(|error| Some(Some(of_following(&error))));
    let followed = followed.flatten();
    let Some(WorkToDo { ahead, silent, mut orphans, noted, calls }) = mode.step(Sweep::look)? else {
        return Ok(mode.unjudged()?.into_iter().collect());
    };
    let mut problems = Problems(std::mem::take(&mut orphans.problems));
    problems.add(followed);
    for batch in mode.batches(&ahead) {
        let clamped = mode.attempt(|sweep| sweep.clamp_to_now(batch));
        problems.add(clamped.err().map(|error| of_clamping(&error)));
    }
    if silent.len() + orphans.workers.len() + noted.len() + calls.len() > 0 {
        mode.report_activity("settling jobs of dead workers");
    }
    for problem in disconnected::judge(mode, report)? {
        problems.add(Some(problem));
    }
    for batch in mode.batches(&silent) {
        if let Some(mut step) = mode.step(|sweep| sweep.declare_dead(batch))? {
            report(&step);
            problems.add(step.jobs.problems.drain(..));
        }
    }
    for batch in mode.batches(&std::mem::take(&mut orphans.workers)) {
        if let Some(mut step) = mode.step(|sweep| sweep.settle_orphans(batch))? {
            report(&step);
            orphans.subtract(&step.jobs);
            problems.add(step.jobs.problems.drain(..));
        }
    }
    for batch in mode.batches(&noted) {
        if let Some(mut step) = mode.step(|sweep| sweep.settle_noted(batch))? {
            report(&step);
            problems.add(step.jobs.problems.drain(..));
        }
    }
    for batch in mode.batches(&calls) {
        if let Some(mut step) = mode.step(|sweep| sweep.settle_calls(batch))? {
            report(&step);
            problems.add(step.jobs.problems.drain(..));
        }
    }
    problems.add(note_locked(mode, &orphans, &problems));
    Ok(problems.0)
}

/// The problems of orphaned jobs that other sessions have locked. A sweeper records their number.
fn note_locked(mode: Mode, orphans: &Orphans, problems: &Problems) -> Vec<Problem> {
    let locked = orphans.locked(&problems.0);
    if mode == Mode::Sweeper {
        let count = locked.iter().map(|(_, jobs)| jobs).sum();
        databases::change(pg::current_database(), |state| state.locked_jobs = count);
    }
    locked.iter().map(|(table, jobs)| Problem::of_locked_jobs(table.oid, &table.name, *jobs)).collect()
}

fn of_following(error: &Error) -> Problem {
    Problem::new(Place::OwnTables, "follow the watched tables", error)
}

fn of_clamping(error: &Error) -> Problem {
    Problem::new(Place::FutureHeartbeats, "set heartbeats from the future to the current time", error)
}

/// What could not be done: each place once, however many batches met it. What was met now says more than what is known
/// to last.
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, problems: impl IntoIterator<Item = Problem>) {
        for problem in problems {
            match self.0.iter_mut().find(|known| known.place == problem.place) {
                None => self.0.push(problem),
                Some(known) if known.is_standing() => *known = problem,
                Some(_) => {}
            }
        }
    }
}

impl Mode {
    /// Runs a step in the transaction that it belongs to; `None` where nobody is judged, and when the extension was
    /// dropped meanwhile.
    fn step<T>(self, work: impl FnOnce(&Sweep) -> Result<T>) -> Result<Option<T>> {
        let run = || match replicated::judging()? {
            Some(installation) => work(&Sweep::new(installation, self)?).map(Some),
            None => Ok(None),
        };
        if self == Self::Sweeper { scope::transaction(run) } else { run() }
    }

    /// Why nobody is judged, for a caller. A sweeper looks at the beginning of its round.
    fn unjudged(self) -> Result<Option<Problem>> {
        if self == Self::Sweeper { Ok(None) } else { replicated::problem(&Installation::of_caller()?) }
    }

    /// Runs a step whose error rolls back nothing else.
    fn attempt<T>(self, work: impl FnOnce(&Sweep) -> Result<T>) -> Result<Option<T>> {
        if self == Self::Sweeper { self.step(work) } else { scope::subtransaction(|| self.step(work)) }
    }

    /// The batches that are dealt with in one sweep, each of so many workers.
    fn batches<T>(self, workers: &[T]) -> impl Iterator<Item = &[T]> {
        let most = if self == Self::Sweeper { usize::MAX } else { 1 };
        workers.chunks(settings::batch_size()).take(most)
    }

    fn report_activity(self, activity: &str) {
        if self == Self::Sweeper {
            process::report_activity(activity);
        }
    }

    fn is_dry_run(self) -> bool {
        matches!(self, Self::DryRun { .. })
    }

    fn deadline(self) -> Option<Deadline> {
        match self {
            Self::DryRun { deadline, .. } => Some(deadline),
            _ => None,
        }
    }

    /// Whether no death is held back.
    fn is_forced(self) -> bool {
        matches!(self, Self::ByHand { force: true } | Self::DryRun { force: true, .. })
    }
}
