//! A circuit breaker: many deaths at once are held back for a while, because a whole fleet seldom dies, and a network
//! often does. Used by sweepers and by `rgrid_sweep()`. The hold is in shared memory, under the lock of the databases.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::notify;
use crate::error::{Error, Result};
use crate::pg::{self, commit, notifications, report};
use crate::rules::liveness::{self, Fleet, Hold};
use crate::settings;
use crate::shmem::{databases, is_preloaded};
use crate::tables::heartbeats::{HeartbeatTable, Worker};

/// The workers of a database, as a sweep sees them.
pub struct Census<'a> {
    /// The table in which the living workers are counted.
    pub heartbeats: &'a HeartbeatTable,
    /// How many workers are to be declared dead.
    pub silent: usize,
    /// The workers that are dead already.
    pub dead: &'a [Worker],
    /// The time of the sweep.
    pub now: DateTime<Utc>,
}

impl Census<'_> {
    /// Reads how many workers are quiet, and how many live. Only if there can be a mass death; otherwise both are 0.
    fn fleet(&self) -> Result<Fleet> {
        let nobody = Fleet { silent: self.silent, quiet: 0, living: 0 };
        if self.silent == 0 || !settings::mass_death().is_enabled() {
            return Ok(nobody);
        }
        let dead: Vec<String> = self.dead.iter().map(|worker| worker.id.clone()).collect();
        let quiet = self.quiet(&dead)?;
        if !settings::mass_death().is_possible(quiet) {
            return Ok(nobody);
        }
        Ok(Fleet { quiet, living: self.heartbeats.count(&dead)?, ..nobody })
    }

    /// How many living workers fell quiet together.
    fn quiet(&self, dead: &[String]) -> Result<usize> {
        let threshold = settings::stale_threshold();
        let since = liveness::quiet_since(self.now, threshold);
        let mut unheard = self.heartbeats.silent_since(since, dead)?;
        unheard.iter_mut().for_each(Worker::renew);
        let last: Vec<DateTime<Utc>> =
            unheard.iter().map(|worker| worker.last_heartbeat_at).filter(|at| *at < since).collect();
        Ok(liveness::together(&last, threshold))
    }

    fn judge(&self, known: Option<Hold>, fleet: Fleet) -> Option<Hold> {
        liveness::hold(known, &settings::mass_death(), fleet, self.now, settings::stale_threshold())
    }
}

/// The notification of a hold that begins.
#[derive(Serialize)]
struct HoldEvent {
    event: &'static str,
    silent: usize,
    living: usize,
    held_since: DateTime<Utc>,
    held_until: DateTime<Utc>,
}

/// The hold, if the silent workers are held back. Records it, and announces it when it begins. Without shared memory no
/// hold can be kept, so there is none.
pub fn hold_back(census: &Census<'_>) -> Result<Option<Hold>> {
    if !is_preloaded() {
        return Ok(None);
    }
    let fleet = census.fleet()?;
    let judged = databases::change(pg::current_database(), |state| {
        let known = state.hold;
        state.hold = census.judge(known, fleet);
        (known, state.hold)
    });
    let Some((known, Some(hold))) = judged.filter(|(_, hold)| hold.is_some_and(|hold| !hold.is_over)) else {
        return Ok(None);
    };
    if known.is_none() {
        announce(&hold, fleet.living)?;
    }
    Ok(Some(hold))
}

/// The hold, if the silent workers would be held back. Changes nothing.
pub fn would_hold_back(census: &Census<'_>) -> Result<Option<Hold>> {
    if !is_preloaded() {
        return Ok(None);
    }
    let fleet = census.fleet()?;
    let known = databases::state(pg::current_database()).and_then(|state| state.hold);
    Ok(census.judge(known, fleet).filter(|hold| !hold.is_over))
}

/// Tells the log and the listeners, once, that workers are held back.
fn announce(hold: &Hold, living: usize) -> Result<()> {
    let event = HoldEvent {
        event: "mass_death_held",
        silent: hold.workers,
        living,
        held_since: hold.since,
        held_until: until(hold),
    };
    notify::send(&[serde_json::to_string(&event)?], notifications::has_room()?)?;
    report::warn(Error::MassDeath { silent: hold.workers, living, at_most: settings::stale_threshold() });
    Ok(())
}

/// When a hold ends at the latest.
pub fn until(hold: &Hold) -> DateTime<Utc> {
    hold.since + liveness::delta(settings::stale_threshold())
}

/// Tells the caller of `rgrid_sweep()` that silent workers are held back.
pub fn notice(hold: &Hold) {
    let seconds = (until(hold) - pg::now()).num_seconds().max(0);
    report::notice(&format!("{} silent workers are held back for {seconds} s more at most", hold.workers));
}

/// Lifts the hold on an operator's word: once this transaction has committed, the workers silent now are not held back.
pub fn lift_at_commit(now: DateTime<Utc>) {
    change_at_commit(move |hold| {
        hold.get_or_insert(Hold { since: now, workers: 0, is_over: false }).is_over = true;
    });
}

/// Ends the hold when this transaction commits, if it is over or `lifted`: then no worker is left that was held back,
/// and the next mass death is another one.
pub fn forget_at_commit(lifted: bool) {
    let known = databases::current().and_then(|state| state.hold);
    if known.is_some_and(|hold| hold.is_over || lifted) {
        change_at_commit(|hold| *hold = None);
    }
}

fn change_at_commit(change: impl FnOnce(&mut Option<Hold>) + 'static) {
    if is_preloaded() {
        let database = pg::current_database();
        commit::at_commit(move || {
            databases::change(database, |state| change(&mut state.hold));
        });
    }
}
