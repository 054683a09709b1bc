//! Since when the server has been able to hear the workers: silence before that proves nothing about anybody.
//!
//! Kept for each database under the lock of [`super`]. It starts anew when the extension is created or updated, when
//! sweeping was switched off or on, when a clock was stepped, and when all processes stood still.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{DATABASES, Shared, change, is_preloaded, request_visit, state};
use crate::liveness::{self, Moment, Presence};
use crate::{pg, settings};

/// Since when the server has been able to hear the workers of the present database.
///
/// Without shared memory nobody keeps watch over interruptions, and the server's start has to do. With it, a
/// database that the launcher has not seen yet, or in which nobody is heard, is observed from now on.
pub fn observing_since() -> DateTime<Utc> {
    if !is_preloaded() {
        return pg::server_started_at();
    }
    match state(pg::current_database()) {
        Some(state) if !state.deaf => pg::from_postgres(state.observing_since),
        _ => pg::now(),
    }
}

/// Functions refuse heartbeats in the present database, so no silence counts until [`can_hear`].
pub fn cannot_hear() {
    change(pg::current_database(), |state| state.deaf = true);
}

/// Functions take heartbeats in the present database; if they did not before, observation starts anew.
pub fn can_hear(now: DateTime<Utc>) {
    change(pg::current_database(), |state| {
        if std::mem::take(&mut state.deaf) {
            state.observing_since = pg::to_postgres(now);
        }
    });
}

/// The extension was created in the present database: silence before it proves nothing about anybody, and whatever
/// was known of its absence is out of date.
pub fn installed(now: DateTime<Utc>) {
    if is_preloaded() {
        change(pg::current_database(), |state| {
            state.observing_since = pg::to_postgres(now);
            state.presence = Presence::Unknown;
        });
        request_visit();
    }
}

/// Starts observation anew in all databases.
pub fn observe_all_from(now: DateTime<Utc>) {
    DATABASES.exclusive().observe_from(now);
}

/// Reads both clocks. If the wall clock was stepped since somebody last did, or all processes stood still, observation
/// starts anew in all databases: by the launcher in each round and before each judgement, so that nobody judges by a
/// clock that was stepped a moment ago.
pub fn watch_clocks() -> Moment {
    let now = Moment { wall: pg::now(), monotonic: pg::monotonic() };
    if !is_preloaded() {
        return now;
    }
    let threshold = settings::stale_threshold();
    let interruption = {
        let mut shared = DATABASES.exclusive();
        let interruption = shared.interruption(now, threshold);
        if interruption.is_some() {
            shared.observe_from(now.wall);
        }
        interruption
    };
    if let Some(interruption) = interruption {
        log_interruption(&interruption);
    }
    now
}

/// To the server's log alone: the caller of `rgrid_sweep()` may be the first to notice.
fn log_interruption(interruption: &Interruption) {
    let line = match interruption {
        Interruption::ClockStepped => "the system clock was stepped or the machine was suspended",
        Interruption::Frozen => "the server stood still",
    };
    pg::log_to_server(format!("{line}: silence counts from now on"));
}

/// The launcher says when it wants to be awake again; `None` when it is.
pub fn launcher_wakes_at(at: Option<Duration>) {
    DATABASES.exclusive().launcher_wakes_at = at;
}

/// Why workers may not have been heard, or not at the times that are known of them.
enum Interruption {
    /// The wall clock was set, or the machine slept.
    ClockStepped,
    /// All processes stood still, and the clocks went on.
    Frozen,
}

impl Shared {
    /// What has happened, by these clocks, since somebody last looked at them; each thing is told once.
    fn interruption(&mut self, now: Moment, threshold: Duration) -> Option<Interruption> {
        let earlier = self.clocks.replace(now);
        if earlier.is_some_and(|earlier| liveness::clock_stepped(earlier, now)) {
            return Some(Interruption::ClockStepped);
        }
        let wakes_at = self.launcher_wakes_at?;
        if liveness::was_frozen(wakes_at, now.monotonic, threshold) {
            self.launcher_wakes_at = None;
            return Some(Interruption::Frozen);
        }
        None
    }

    fn observe_from(&mut self, now: DateTime<Utc>) {
        let used = self.used;
        for state in &mut self.states[..used] {
            state.observing_since = pg::to_postgres(now);
            state.hold = None;
        }
    }
}
