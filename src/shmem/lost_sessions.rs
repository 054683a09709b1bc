//! What is known in each database of sessions of workers that were lost: when somebody has to be judged because of
//! them, how many there were lately, and what was told of it. Under the lock of [`super::databases`]. Which workers
//! they are is in [`super::buffer::ties`].

use std::time::Duration;

use chrono::{DateTime, Utc};
use pgrx::pg_sys;

use super::databases::{State, change, moment};
use super::launcher;
use crate::pg;
use crate::rules::disconnection;
use crate::rules::liveness::{delta, silence};

impl State {
    /// When the next worker is to be judged that has lost its session.
    pub fn judge_at(&self) -> Option<DateTime<Utc>> {
        moment(self.judge_at)
    }

    /// Nobody is to be judged, as far as is known; returns when the next was.
    pub fn forget_judge_at(&mut self) -> Option<DateTime<Utc>> {
        moment(std::mem::take(&mut self.judge_at))
    }

    /// A worker is to be judged at that time. Returns whether that is before all others.
    pub fn judge_by(&mut self, at: DateTime<Utc>) -> bool {
        let at = pg::to_postgres(at);
        let is_first = self.judge_at == 0 || at < self.judge_at;
        if is_first {
            self.judge_at = at;
        }
        is_first
    }
}

/// A session of the current database that workers were tied to was lost: the launcher has them judged after the grace,
/// if there is one. Called at the end of a session, so it cannot fail.
pub fn session_is_lost(at: DateTime<Utc>, grace: Option<Duration>) {
    let is_first = change(pg::current_database(), |state| {
        state.counters.sessions_lost += 1;
        state.losses.count(at, disconnection::window(grace.unwrap_or_default()));
        grace.is_some_and(|grace| state.judge_by(at + delta(grace)))
    });
    if is_first == Some(true) {
        launcher::wake();
    }
}

/// Has a worker of the current database judged at that time.
pub fn judge_by(at: DateTime<Utc>) {
    if change(pg::current_database(), |state| state.judge_by(at)) == Some(true) {
        launcher::wake();
    }
}

/// Somebody in the current database is judged now.
pub fn forget_judge_at() {
    change(pg::current_database(), State::forget_judge_at);
}

/// When somebody in a database is to be judged.
pub fn judge_at(database: pg_sys::Oid) -> Option<DateTime<Utc>> {
    change(database, |state| state.judge_at()).flatten()
}

/// Records that workers of the current database are left to their silence. Returns whether that is news: once in a
/// window.
pub fn note_spared(workers: usize, now: DateTime<Utc>, window: Duration) -> bool {
    let last = change(pg::current_database(), |state| {
        state.counters.spared += workers as u64;
        std::mem::replace(&mut state.told_of_losses, pg::to_postgres(now))
    });
    last.and_then(moment).is_none_or(|last| silence(now, last) > window)
}
