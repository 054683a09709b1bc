//! Since when the server has been able to hear the workers: silence before that proves nothing about any worker.
//!
//! Kept for each database under the lock of [`super::databases`]. It starts anew when the extension is created or
//! updated, when sweeping was switched off or on, when a clock was stepped, and when all processes stood still.

use chrono::{DateTime, Utc};

use super::databases::{DATABASES, DatabaseTable, change, request_visit, state};
use super::{is_preloaded, launcher};
use crate::pg::{self, report};
use crate::rules::liveness::{self, Moment};
use crate::rules::schedule::Presence;
use crate::settings;

/// Since when the server has been able to hear the workers of the current database.
///
/// Without shared memory no process notices interruptions, so this is the server's start. With it, a database that the
/// launcher has not seen yet, or in which no silence counts, is observed from now on.
pub fn observing_since() -> DateTime<Utc> {
    if !is_preloaded() {
        return pg::server_started_at();
    }
    match state(pg::current_database()) {
        Some(state) if state.suspended.is_none() => {
            let since = pg::from_postgres(state.observing_since);
            if state.is_warm {
                since
            } else {
                liveness::observed_cold(since, pg::now(), settings::stale_threshold())
            }
        }
        _ => pg::now(),
    }
}

/// Whether memory has to be filled from the rows of the current database.
pub fn is_cold() -> bool {
    is_preloaded()
        && state(pg::current_database()).is_some_and(|state| !state.is_warm && state.suspended.is_none())
}

/// Whether a sweeper is filling memory from the rows of the current database.
pub fn is_being_filled() -> bool {
    is_preloaded() && {
        let (shared, database) = (DATABASES.share(), pg::current_database());
        shared.states[..shared.used].iter().any(|state| state.oid == database && state.is_being_filled)
    }
}

/// Runs `work`, which fills memory.
pub fn being_filled<T>(work: impl FnOnce() -> T) -> T {
    let set = |is_being_filled| {
        change(pg::current_database(), |state| state.is_being_filled = is_being_filled);
    };
    set(true);
    let done = work();
    set(false);
    done
}

/// Memory was filled from the rows of the current database. If it got any worker, silence counts from now on: until now
/// heartbeats may have been too slow to be taken in time.
pub fn warmed(now: DateTime<Utc>, got_workers: bool) {
    change(pg::current_database(), |state| {
        state.is_warm = true;
        if got_workers {
            state.observing_since = pg::to_postgres(now);
        }
    });
}

/// Why no silence counts in a database for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspension {
    /// The SQL objects are of another version than the library: functions refuse heartbeats.
    ForeignVersion,
    /// A subscription writes to the heartbeats or to the ledger: another server hears the workers.
    Subscription,
}

/// No silence counts in the current database until [`resume`].
pub fn suspend(why: Suspension) {
    change(pg::current_database(), |state| state.suspended = Some(why));
}

/// Whether no silence counts in the current database.
pub fn is_suspended() -> bool {
    state(pg::current_database()).is_some_and(|state| state.suspended.is_some())
}

/// Silence counts in the current database. If it did not before, for the reason that is returned, observation starts
/// anew.
pub fn resume(now: DateTime<Utc>) -> Option<Suspension> {
    let suspended = change(pg::current_database(), |state| {
        let suspended = state.suspended.take();
        if suspended.is_some() {
            state.is_warm = false;
            state.observing_since = pg::to_postgres(now);
        }
        suspended
    });
    suspended.flatten()
}

/// The extension was created in the current database: silence before that proves nothing about any worker, and whether
/// the extension is there has to be looked up again.
pub fn installed(now: DateTime<Utc>) {
    if is_preloaded() {
        change(pg::current_database(), |state| {
            state.observing_since = pg::to_postgres(now);
            state.is_warm = false;
            state.presence = Presence::Unknown;
        });
        request_visit();
    }
}

/// Starts observation anew in all databases.
pub fn observe_all_from(now: DateTime<Utc>) {
    DATABASES.exclusive().observe_from(now);
}

/// Reads both clocks. If the wall clock was stepped since a process last read them, or all processes stood still,
/// observation starts anew in all databases. Called by the launcher in each round and before each judgement, so that no
/// worker is judged by a clock that was stepped a moment ago.
pub fn watch_clocks() -> Moment {
    let now = Moment { wall: pg::now(), monotonic: pg::monotonic() };
    if !is_preloaded() {
        return now;
    }
    let overslept = launcher::overslept(now.monotonic, settings::stale_threshold());
    // Under one lock, so that nothing is judged by the new clock and the old time.
    let was_stepped = {
        let mut shared = DATABASES.exclusive();
        let was_stepped = shared.was_stepped(now);
        if was_stepped || overslept.is_some() {
            shared.observe_from(now.wall);
        }
        was_stepped
    };
    let was_frozen = overslept.is_some_and(launcher::forget_wakes_at);
    let interruption = match (was_stepped, was_frozen) {
        (true, _) => "the system clock was stepped or the machine was suspended",
        (_, true) => "the server was suspended",
        _ => return now,
    };
    // To the server's log alone: the caller of `rgrid_sweep()` may be the first to notice.
    report::log_to_server(format!("{interruption}: silence counts from now on"));
    now
}

impl DatabaseTable {
    /// Whether the wall clock was stepped since a process last looked at both clocks; true once for each step.
    fn was_stepped(&mut self, now: Moment) -> bool {
        let earlier = self.clocks.replace(now);
        earlier.is_some_and(|earlier| liveness::clock_stepped(earlier, now))
    }

    fn observe_from(&mut self, now: DateTime<Utc>) {
        let used = self.used;
        for state in &mut self.states[..used] {
            state.observing_since = pg::to_postgres(now);
            state.hold = None;
        }
    }
}
