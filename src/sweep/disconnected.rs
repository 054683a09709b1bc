//! Declaring workers dead whose sessions were lost and that were not heard again: by each sweep, and by sweepers that
//! do nothing else, which the launcher starts when a grace is over. Reads memory and the rows of these workers, and no
//! others.
//!
//! The order is that of every death: with the worker's row locked, memory is looked at again, and the entry is closed.
//! A worker that is back by then has a later heartbeat, or is tied to another session, and lives. The entry is not
//! removed: it has the last heartbeat, which may not be in the row yet, and without a commit that counts.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::steps::{Sweep, ids};
use super::{Mode, Step, death, notify, requests};
use crate::error::{Error, Result};
use crate::jobs::pauses::Occasion;
use crate::pg::{self, commit, notifications, report};
use crate::rules::disconnection::{self, ByAddress, Limits, Loss, Verdict};
use crate::rules::liveness::{delta, latest_credible};
use crate::settings;
use crate::shmem::buffer::{self, table::Disconnected, ties};
use crate::shmem::problems::Problem;
use crate::shmem::{connections, databases, is_preloaded, lost_sessions, observation};
use crate::tables::deaths::{self, Reason};
use crate::tables::heartbeats::Worker;

/// What a sweeper does that was started for the disconnected alone. Returns what could not be done.
pub fn judge_disconnected(report: &mut dyn FnMut(&Step)) -> Result<Vec<Problem>> {
    Mode::Sweeper.report_activity("judging disconnected workers");
    let mut problems = requests::serve();
    problems.append(&mut judge(Mode::Sweeper, report)?);
    Ok(problems)
}

/// Between the batches of a flush, which may take long: who is to be judged does not wait for its end. What cannot be
/// done now is left to the sweeper that is started after it.
pub fn judge_those_due() {
    let now = pg::now();
    let is_due = lost_sessions::judge_at(pg::current_database()).is_some_and(|at| at <= now);
    if is_due && settings::enabled() {
        lost_sessions::forget_judge_at();
        requests::serve();
        let has_problem = judge(Mode::Sweeper, &mut |_| ()).map_or(true, |problems| !problems.is_empty());
        if has_problem {
            lost_sessions::judge_by(now);
        }
    }
}

/// Declares the workers dead whose grace is over. Returns what could not be done.
pub(super) fn judge(mode: Mode, report: &mut dyn FnMut(&Step)) -> Result<Vec<Problem>> {
    let due = mode.step(Sweep::look_for_disconnected)?.unwrap_or_default();
    let mut problems = Vec::new();
    for batch in mode.batches(&due) {
        if let Some(mut step) = mode.step(|sweep| sweep.declare_disconnected(batch))? {
            report(&step);
            problems.append(&mut step.jobs.problems);
        }
    }
    Ok(problems)
}

/// The notification that many were lost together.
#[derive(Serialize)]
struct LossEvent {
    event: &'static str,
    workers: usize,
    lost_at: DateTime<Utc>,
}

/// What is known of the sessions that were lost lately and of those that are there.
struct Census {
    state: databases::State,
    by_address: ByAddress,
    /// Sessions that workers are tied to.
    tied: usize,
    /// When those of them began whose workers had lost a session before, in order.
    came_back: Vec<DateTime<Utc>>,
}

impl Sweep {
    /// The workers that are dead because of their sessions, in the order of their ids. Leaves those to silence that
    /// were lost together with too many others, and notes when the next is to be judged.
    fn look_for_disconnected(&self) -> Result<Vec<Disconnected>> {
        if !is_preloaded() {
            return Ok(Vec::new());
        }
        let database = pg::current_database();
        let lost = ties::disconnected(database);
        let is_open = |worker: &&Disconnected| !worker.is_heard && !worker.is_spared;
        let grace = settings::disconnect_grace().filter(|_| lost.iter().any(|worker| is_open(&worker)));
        let Some((grace, state)) = grace.zip(databases::state(database)) else { return Ok(Vec::new()) };
        let limits = Limits {
            grace,
            excuse: connections::excuse(self.now, grace),
            fraction: settings::max_disconnected_fraction(),
            minimum: settings::mass_death().minimum,
        };
        let census = Census::new(state, &lost);
        let (mut due, mut spared, mut next) = (Vec::new(), Vec::new(), None);
        let since = observation::observing_since();
        for worker in lost.iter().filter(is_open) {
            let loss = loss_of(worker);
            match disconnection::judge(loss.at, census.is_together(&loss, &limits), &limits, since, self.now)
            {
                Verdict::Dead => due.push(worker.clone()),
                Verdict::Waits(end) => next = Some(next.map_or(end, |next: DateTime<Utc>| next.min(end))),
                Verdict::Together => spared.push((worker, true)),
                Verdict::OtherTime => spared.push((worker, false)),
            }
        }
        if !self.mode.is_dry_run() {
            self.spare(&spared, &limits)?;
            next.into_iter().for_each(lost_sessions::judge_by);
        }
        due.sort_by_cached_key(|worker| worker.key.id());
        Ok(due)
    }

    /// Leaves workers to their silence, and tells of those that were lost together.
    fn spare(&self, workers: &[(&Disconnected, bool)], limits: &Limits) -> Result<()> {
        workers.iter().for_each(|(worker, _)| ties::spare(worker));
        let together: Vec<_> = workers.iter().filter(|(_, is_together)| *is_together).collect();
        let Some((first, _)) = together.first() else { return Ok(()) };
        let workers = together.len();
        if lost_sessions::note_spared(workers, self.now, limits.window()) {
            let event =
                LossEvent { event: "sessions_lost_together", workers, lost_at: pg::from_postgres(first.at) };
            notify::send(&[serde_json::to_string(&event)?], notifications::has_room()?)?;
            report::warn(Error::LostTogether { workers });
        }
        Ok(())
    }

    /// Declares these workers dead, except those that are back meanwhile and those that another session has locked,
    /// which are tried again soon.
    fn declare_disconnected(&self, due: &[Disconnected]) -> Result<Step> {
        let by_id: HashMap<String, &Disconnected> =
            due.iter().map(|worker| (worker.key.id(), worker)).collect();
        let due_ids: Vec<String> = due.iter().map(|worker| worker.key.id()).collect();
        if self.mode.is_dry_run() {
            let rows = self.heartbeats.rows_of(&due_ids)?;
            return self.would_settle(&rows, true);
        }
        // A heartbeat ahead of the clock is corrected by the next sweep.
        let locked = self.heartbeats.lock_silent(&due_ids, latest_credible(self.now))?;
        let (mut workers, problem) = self.with_numbers(&locked)?;
        let known = deaths::dead_among(&self.installation, &due_ids)?;
        workers.iter_mut().for_each(Worker::renew);
        workers.retain(|worker| {
            let lost = by_id.get(&worker.id);
            lost.is_some_and(|lost| {
                // A client may have written its row.
                worker.last_heartbeat_at <= pg::from_postgres(lost.at)
                    && !known.contains(&worker.id)
                    && ties::close_disconnected(lost)
            })
        });
        self.deal_with_others(due, &ids(&locked), &ids(&workers))?;
        let mut jobs = self.settle(&workers, Occasion::Death)?;
        jobs.problems.extend(problem);
        let lost_at =
            |worker: &Worker| by_id.get(&worker.id).map_or(self.now, |lost| pg::from_postgres(lost.at));
        let reason = |worker: &Worker| Reason::Disconnected { at: lost_at(worker) };
        death::declare(&self.installation, &workers, reason, self.now, &jobs)?;
        let dead = || workers.iter().filter_map(|worker| by_id.get(&worker.id));
        dead().for_each(|lost| ties::untie_at_commit(lost));
        remember_at_commit(dead().map(|lost| loss_of(lost)));
        Ok(Step { workers, are_new: true, jobs })
    }

    /// What becomes of those that were due and do not die now: one whose row is locked is tried again, one whose row is
    /// gone is forgotten, and one that must not die is left to its silence.
    fn deal_with_others(&self, due: &[Disconnected], locked: &[String], dying: &[String]) -> Result<()> {
        let (locked, dying): (HashSet<&String>, HashSet<&String>) =
            (locked.iter().collect(), dying.iter().collect());
        let left: Vec<&Disconnected> =
            due.iter().filter(|lost| !dying.contains(&lost.key.id()) && ties::is_still(lost)).collect();
        if left.is_empty() {
            return Ok(());
        }
        let left_ids: Vec<String> = left.iter().map(|lost| lost.key.id()).collect();
        let existing = self.heartbeats.existing(&left_ids)?;
        let grace = settings::disconnect_grace().unwrap_or_default();
        for (lost, id) in left.into_iter().zip(&left_ids) {
            if !existing.contains(id) {
                buffer::remove(id);
            } else if locked.contains(id) {
                ties::spare(lost);
            } else {
                let due_at = pg::from_postgres(lost.at) + delta(grace);
                lost_sessions::judge_by(disconnection::retry_at(due_at, self.now));
            }
        }
        Ok(())
    }
}

/// Deaths of which the address and the host are kept, because memory forgets the workers.
fn remember_at_commit(losses: impl Iterator<Item = Loss>) {
    let losses: Vec<Loss> = losses.collect();
    let database = pg::current_database();
    commit::at_commit(move || {
        databases::change(database, |state| losses.iter().for_each(|loss| state.losses.remember(loss)));
    });
}

fn loss_of(worker: &Disconnected) -> Loss {
    Loss { at: pg::from_postgres(worker.at), address: worker.session.address, host: worker.host }
}

impl Census {
    fn new(state: databases::State, lost: &[Disconnected]) -> Self {
        let tied = ties::tied_sessions(pg::current_database());
        // A worker that came back has lost its session, too, at about the time of the new one.
        let back = tied.iter().filter(|tied| tied.came_back).map(|tied| Loss {
            at: pg::from_postgres(tied.since),
            address: tied.session.address,
            host: tied.host,
        });
        let losses = lost.iter().map(loss_of).chain(back).chain(state.losses.of_the_dead());
        let by_address = losses.collect();
        let mut sessions: HashMap<u32, Option<i64>> = HashMap::new();
        for tied in &tied {
            let came_back = tied.came_back.then_some(tied.since);
            let known = sessions.entry(tied.session.number).or_default();
            *known = (*known).max(came_back);
        }
        let mut came_back: Vec<DateTime<Utc>> =
            sessions.values().flatten().map(|at| pg::from_postgres(*at)).collect();
        came_back.sort_unstable();
        Self { state, by_address, tied: sessions.len(), came_back }
    }

    /// Whether a loss is one of so many that it was the network, or a pooler that was killed.
    fn is_together(&self, loss: &Loss, limits: &Limits) -> bool {
        let window = limits.window();
        let lost = self.state.losses.most_around(loss.at, window);
        // Sessions that were there all the time.
        let begin = loss.at - delta(window);
        let kept = self.tied - (self.came_back.len() - self.came_back.partition_point(|at| *at < begin));
        disconnection::is_mass(lost, kept, limits) || self.by_address.are_of_a_pooler(loss, window)
    }
}
