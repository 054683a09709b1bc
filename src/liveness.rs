//! The rules about time, in plain Rust: who is dead at time t, and when to look again.
//!
//! Knows no PostgreSQL and reads no clock; "now" is always an argument. Wall-clock times are
//! `DateTime<Utc>`, moments of the monotonic clock are `Duration`s since an arbitrary start.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// A database of which nothing is known, or that lacks the extension, is looked at this often.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(60);

/// Old rows are looked for no more often than this, unless they are kept for a shorter time.
const PRUNE_INTERVAL: Duration = Duration::from_secs(300);

/// What a sweep may be late by, beside another check interval, before somebody should be told.
const SWEEP_TOLERANCE: Duration = Duration::from_secs(5);

/// The longest pause before a database whose sweeper fails is tried again.
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(300);

/// The wall clock was set, or the machine slept, when it and the monotonic clock disagree by more than this. A
/// heartbeat that is ahead of the server's clock by more is from the future.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(1);

/// On a busy machine a process that should run again may have to wait so long.
const USUAL_DELAY: Duration = Duration::from_secs(2);

/// A worker whose last heartbeat is older than this is dead; `None` while nobody can be judged.
///
/// Silence counts only while the server was able to hear: from `observing_since`, when it began to listen
/// without interruption. Until that is a whole `threshold` ago, silence proves nothing about anybody.
pub fn cutoff(
    now: DateTime<Utc>,
    observing_since: DateTime<Utc>,
    threshold: Duration,
) -> Option<DateTime<Utc>> {
    let cutoff = now - delta(threshold);
    (observing_since < cutoff).then_some(cutoff)
}

/// How long a worker has been silent; never negative, so that a timestamp from the future counts as now.
pub fn silence(now: DateTime<Utc>, last_heartbeat_at: DateTime<Utc>) -> Duration {
    (now - last_heartbeat_at).to_std().unwrap_or(Duration::ZERO)
}

/// What is older than this may be removed; `None` when nothing is, or when that was looked for just now.
pub fn prune_horizon(
    now: DateTime<Utc>,
    last: Option<DateTime<Utc>>,
    retention: Option<Duration>,
) -> Option<DateTime<Utc>> {
    let retention = retention?;
    let is_due = last.is_none_or(|last| silence(now, last) >= PRUNE_INTERVAL.min(retention));
    is_due.then(|| now - delta(retention))
}

/// By how much a sweep is late that should have followed the one that began at `last`; `None` while it is not, give
/// or take what a busy server needs.
pub fn lateness(now: DateTime<Utc>, last: DateTime<Utc>, check_interval: Duration) -> Option<Duration> {
    let since = silence(now, last);
    (since > check_interval * 2 + SWEEP_TOLERANCE).then(|| since - check_interval)
}

/// A heartbeat later than this cannot have been heard yet: another clock wrote it, or this one was set back. A
/// client's clock may be a little ahead.
pub fn future(now: DateTime<Utc>) -> DateTime<Utc> {
    now + CLOCK_TOLERANCE
}

/// Two clocks read at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// What the wall clock said.
    pub wall: DateTime<Utc>,
    /// What the monotonic clock said, which neither NTP steps nor a suspended machine move.
    pub monotonic: Duration,
}

/// Whether the wall clock was stepped, or the machine slept, between two moments.
pub fn clock_stepped(earlier: Moment, later: Moment) -> bool {
    let monotonic = delta(later.monotonic.saturating_sub(earlier.monotonic));
    (later.wall - earlier.wall - monotonic).abs() > CLOCK_TOLERANCE
}

/// Whether the whole server was stopped for so long that workers may not have been heard: the process that wanted to
/// run again at `expected` ran much later. A frozen container moves both clocks.
pub fn was_frozen(expected: Duration, woke: Duration, threshold: Duration) -> bool {
    woke.saturating_sub(expected) > USUAL_DELAY.max(threshold / 2)
}

/// How many workers may die at once without being held back first.
#[derive(Clone, Copy, Debug)]
pub struct MassDeath {
    /// This share of the living workers; with 1 nobody is ever held back.
    pub fraction: f64,
    /// And this number.
    pub minimum: usize,
}

impl MassDeath {
    /// Whether a number of silent workers can be a mass death at all, however many are alive.
    pub fn is_possible(&self, silent: usize) -> bool {
        self.fraction < 1.0 && silent > self.minimum
    }

    #[allow(clippy::cast_precision_loss, reason = "exact for more workers than fit anywhere")]
    fn is_exceeded(&self, silent: usize, living: usize) -> bool {
        self.is_possible(silent) && silent as f64 > self.fraction * living as f64
    }
}

/// Workers that are held back, or were in this mass death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When it began.
    pub since: DateTime<Utc>,
    /// How many were silent at the last look.
    pub workers: usize,
    /// It has ended, by time or by an operator, and the sweeps that settle these workers are going on.
    pub is_over: bool,
}

/// Whether silent workers are held back: the hold that there is from now on, if any.
///
/// A hold begins with a mass death and lasts for one `threshold` at most. When it is over, sweeps go ahead, and only
/// after one has found no mass death any more can there be another hold.
pub fn hold(
    known: Option<Hold>,
    limits: &MassDeath,
    (silent, living): (usize, usize),
    now: DateTime<Utc>,
    threshold: Duration,
) -> Option<Hold> {
    if !limits.is_exceeded(silent, living) {
        return None;
    }
    let hold = known.unwrap_or(Hold { since: now, workers: silent, is_over: false });
    let is_over = hold.is_over || now - hold.since >= delta(threshold);
    Some(Hold { workers: silent, is_over, ..hold })
}

/// What is known of the extension in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nobody has looked yet.
    Unknown,
    /// The database does not have the extension.
    Absent,
    /// The database has the extension.
    Present,
}

/// What a sweeper is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Write heartbeats to their rows.
    Flush,
    /// That, and look for dead workers.
    Sweep,
}

/// The settings that say when a sweeper is due.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// Time between sweeps; `None` while sweeping is switched off.
    pub check: Option<Duration>,
    /// How long heartbeats may stay in memory.
    pub flush: Duration,
}

impl Intervals {
    /// The longest that the launcher sleeps: databases and heartbeats come without telling it.
    pub fn longest_sleep(&self) -> Duration {
        self.check.unwrap_or(DISCOVERY_INTERVAL).min(self.flush).min(DISCOVERY_INTERVAL)
    }
}

/// What the launcher knows of a database when it asks whether a sweeper is due. Times are of the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// What the last sweeper found.
    pub presence: Presence,
    /// When the last sweeper was started, for whatever.
    pub last_started: Option<Duration>,
    /// When the last one was started to sweep.
    pub last_sweep: Option<Duration>,
    /// How many sweepers in a row have failed.
    pub failures: u32,
    /// Somebody asked for a look: the extension was created, a worker registered.
    pub requested: bool,
    /// There are heartbeats in memory that are not in their rows.
    pub unwritten: bool,
}

impl Visit {
    /// When a sweeper is due and for what; a time that has passed when it should already have been started, `None`
    /// when nothing is to be done until something changes.
    pub fn due(&self, intervals: &Intervals) -> Option<(Duration, Task)> {
        let retry_at = match (self.failures, self.last_started) {
            (1.., Some(last_started)) => last_started + retry_pause(self.failures),
            _ => Duration::ZERO,
        };
        let sweep = self.sweep_due(intervals).map(|at| (at.max(retry_at), Task::Sweep));
        let flush = self.flush_due(intervals).map(|at| (at.max(retry_at), Task::Flush));
        match (sweep, flush) {
            // A sweep flushes, too.
            (Some(sweep), Some(flush)) => Some(if flush.0 < sweep.0 { flush } else { sweep }),
            (sweep, flush) => sweep.or(flush),
        }
    }

    fn sweep_due(&self, intervals: &Intervals) -> Option<Duration> {
        let check = intervals.check?;
        let Some(last_sweep) = self.last_sweep else { return Some(Duration::ZERO) };
        let pause = match self.presence {
            _ if self.failures > 0 || self.requested => Duration::ZERO,
            Presence::Present => check,
            _ => DISCOVERY_INTERVAL,
        };
        Some(last_sweep + pause)
    }

    fn flush_due(&self, intervals: &Intervals) -> Option<Duration> {
        let is_due = self.unwritten && self.presence != Presence::Absent;
        is_due.then(|| self.last_started.map_or(Duration::ZERO, |at| at + intervals.flush))
    }
}

/// The pause after the n-th failure in a row: one second, doubled each time, up to five minutes.
fn retry_pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    Duration::from_secs(1 << doublings).min(LONGEST_RETRY_PAUSE)
}

/// A length of time as a chrono one. Each comes from a setting or a clock and fits; a longer one means "for ever".
pub fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLD: Duration = Duration::from_secs(120);
    const INTERVAL: Duration = Duration::from_secs(60);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    const INTERVALS: Intervals = Intervals { check: Some(INTERVAL), flush: Duration::from_secs(10) };

    /// A database with the extension that was swept at second 60.
    fn visit() -> Visit {
        Visit {
            presence: Presence::Present,
            last_started: Some(INTERVAL),
            last_sweep: Some(INTERVAL),
            failures: 0,
            requested: false,
            unwritten: false,
        }
    }

    fn due_at(visit: Visit) -> Option<(u64, Task)> {
        visit.due(&INTERVALS).map(|(at, task)| (at.as_secs(), task))
    }

    #[test]
    fn nobody_is_judged_before_the_server_listened_for_a_whole_threshold() {
        assert_eq!(cutoff(at(119), at(0), THRESHOLD), None);
        assert_eq!(cutoff(at(120), at(0), THRESHOLD), None);
        assert_eq!(cutoff(at(121), at(0), THRESHOLD), Some(at(1)));
    }

    #[test]
    fn a_start_of_observation_in_the_future_judges_nobody() {
        assert_eq!(cutoff(at(0), at(3_600), THRESHOLD), None);
    }

    #[test]
    fn a_timestamp_from_the_future_is_no_silence() {
        assert_eq!(silence(at(0), at(60)), Duration::ZERO);
        assert_eq!(silence(at(60), at(0)), Duration::from_secs(60));
    }

    #[test]
    fn nothing_is_pruned_before_its_time() {
        let day = Duration::from_secs(86_400);
        assert_eq!(prune_horizon(at(86_400), None, Some(day)), Some(at(0)));
        assert_eq!(prune_horizon(at(86_400), None, None), None, "kept for ever");
    }

    #[test]
    fn old_rows_are_looked_for_every_five_minutes_or_as_often_as_they_get_old() {
        let day = Some(Duration::from_secs(86_400));
        assert_eq!(prune_horizon(at(299), Some(at(0)), day), None);
        assert!(prune_horizon(at(300), Some(at(0)), day).is_some());
        let short = Some(Duration::from_secs(2));
        assert_eq!(prune_horizon(at(1), Some(at(0)), short), None);
        assert_eq!(prune_horizon(at(2), Some(at(0)), short), Some(at(0)));
        assert!(prune_horizon(at(0), Some(at(0)), Some(Duration::ZERO)).is_some());
    }

    #[test]
    fn a_sweep_is_late_when_two_intervals_and_some_seconds_have_passed() {
        assert_eq!(lateness(at(125), at(0), INTERVAL), None);
        assert_eq!(lateness(at(126), at(0), INTERVAL), Some(Duration::from_secs(66)));
        assert_eq!(lateness(at(0), at(3_600), INTERVAL), None, "the clock was set back");
    }

    fn moment(wall: i64, monotonic: u64) -> Moment {
        Moment { wall: at(wall), monotonic: Duration::from_secs(monotonic) }
    }

    #[test]
    fn clocks_that_agree_within_a_second_were_not_stepped() {
        assert!(!clock_stepped(moment(0, 100), moment(60, 160)));
        assert!(!clock_stepped(moment(0, 100), moment(61, 160)));
    }

    #[test]
    fn a_step_in_either_direction_is_noticed() {
        assert!(clock_stepped(moment(0, 100), moment(62, 160)));
        assert!(clock_stepped(moment(0, 100), moment(58, 160)));
        assert!(clock_stepped(moment(0, 100), moment(-3_600, 160)));
    }

    #[test]
    fn a_heartbeat_is_from_the_future_when_it_is_ahead_by_more_than_a_second() {
        assert_eq!(future(at(0)), at(1));
    }

    #[test]
    fn a_process_that_runs_much_later_than_it_wanted_was_frozen() {
        let seconds = Duration::from_secs;
        assert!(!was_frozen(seconds(100), seconds(90), THRESHOLD), "woken early");
        assert!(!was_frozen(seconds(100), seconds(160), THRESHOLD));
        assert!(was_frozen(seconds(100), seconds(161), THRESHOLD));
        assert!(!was_frozen(seconds(100), seconds(102), seconds(1)), "busy, not frozen");
        assert!(was_frozen(seconds(100), seconds(103), seconds(1)));
    }

    const HALF: MassDeath = MassDeath { fraction: 0.5, minimum: 10 };

    fn begun(second: i64, workers: usize) -> Option<Hold> {
        Some(Hold { since: at(second), workers, is_over: false })
    }

    #[test]
    fn a_mass_death_is_held_back_from_its_first_sight() {
        assert_eq!(hold(None, &HALF, (11, 20), at(0), THRESHOLD), begun(0, 11));
    }

    #[test]
    fn few_workers_and_small_shares_are_never_held_back() {
        assert_eq!(hold(None, &HALF, (10, 10), at(0), THRESHOLD), None, "not more than the minimum");
        assert_eq!(hold(None, &HALF, (11, 22), at(0), THRESHOLD), None, "not more than the share");
        assert_eq!(hold(None, &HALF, (0, 0), at(0), THRESHOLD), None);
    }

    #[test]
    fn with_a_share_of_one_nobody_is_held_back() {
        let off = MassDeath { fraction: 1.0, minimum: 0 };
        assert_eq!(hold(None, &off, (1_000, 1_000), at(0), THRESHOLD), None);
    }

    #[test]
    fn with_a_share_of_zero_every_death_above_the_minimum_is_held_back() {
        let strict = MassDeath { fraction: 0.0, minimum: 0 };
        assert_eq!(hold(None, &strict, (1, 1_000), at(0), THRESHOLD), begun(0, 1));
    }

    #[test]
    fn a_hold_ends_after_one_threshold_even_if_it_grows() {
        let grown = hold(begun(0, 11), &HALF, (15, 20), at(119), THRESHOLD);
        assert_eq!(grown, begun(0, 15));
        let over = hold(grown, &HALF, (20, 20), at(120), THRESHOLD);
        assert_eq!(over, Some(Hold { since: at(0), workers: 20, is_over: true }));
    }

    #[test]
    fn a_hold_that_is_over_stays_over_until_its_workers_are_settled() {
        let over = Some(Hold { since: at(0), workers: 20, is_over: true });
        assert_eq!(hold(over, &HALF, (19, 20), at(1), THRESHOLD).map(|hold| hold.is_over), Some(true));
        assert_eq!(hold(over, &HALF, (0, 0), at(1), THRESHOLD), None);
    }

    #[test]
    fn a_hold_ends_when_enough_workers_are_back() {
        assert_eq!(hold(begun(0, 11), &HALF, (10, 20), at(1), THRESHOLD), None);
    }

    #[test]
    fn a_database_never_visited_is_due_now() {
        let unknown = Visit { presence: Presence::Unknown, last_started: None, last_sweep: None, ..visit() };
        assert_eq!(due_at(unknown), Some((0, Task::Sweep)));
    }

    #[test]
    fn a_sweep_is_due_one_interval_after_the_last_one_started() {
        assert_eq!(due_at(visit()), Some((120, Task::Sweep)));
    }

    #[test]
    fn a_database_without_the_extension_is_looked_at_every_minute() {
        let absent = Visit { presence: Presence::Absent, ..visit() };
        for check in [Duration::from_secs(3_600), Duration::from_millis(10)] {
            let due = absent.due(&Intervals { check: Some(check), ..INTERVALS });
            assert_eq!(due, Some((Duration::from_secs(120), Task::Sweep)));
        }
    }

    #[test]
    fn a_request_makes_a_database_due_unless_its_sweeper_fails() {
        let requested = Visit { presence: Presence::Absent, requested: true, ..visit() };
        assert_eq!(due_at(requested), Some((60, Task::Sweep)));
        assert_eq!(due_at(Visit { failures: 3, ..requested }), Some((64, Task::Sweep)));
    }

    #[test]
    fn a_sweeper_that_failed_is_tried_again_before_its_interval_is_over() {
        assert_eq!(due_at(Visit { failures: 1, ..visit() }), Some((61, Task::Sweep)));
    }

    #[test]
    fn heartbeats_in_memory_are_flushed_between_sweeps() {
        let unwritten = Visit { unwritten: true, ..visit() };
        assert_eq!(due_at(unwritten), Some((70, Task::Flush)));
        let flushed = Visit { last_started: Some(Duration::from_secs(110)), ..unwritten };
        assert_eq!(due_at(flushed), Some((120, Task::Sweep)));
    }

    #[test]
    fn a_flush_waits_for_a_failing_sweeper_too() {
        let failing = Visit { unwritten: true, failures: 6, ..visit() };
        assert_eq!(due_at(failing), Some((92, Task::Sweep)));
    }

    #[test]
    fn without_sweeping_there_is_nothing_but_flushes() {
        let off = Intervals { check: None, ..INTERVALS };
        assert_eq!(visit().due(&off), None);
        let unwritten = Visit { unwritten: true, ..visit() };
        assert_eq!(unwritten.due(&off), Some((Duration::from_secs(70), Task::Flush)));
        let absent = Visit { presence: Presence::Absent, ..unwritten };
        assert_eq!(absent.due(&off), None);
    }

    #[test]
    fn pauses_after_failures_grow_up_to_five_minutes() {
        let pauses: Vec<u64> = [1, 2, 3, 9, 10, 1_000].map(|n| retry_pause(n).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn the_launcher_never_sleeps_longer_than_a_minute() {
        let sleep =
            |check, flush| Intervals { check, flush: Duration::from_secs(flush) }.longest_sleep().as_secs();
        let hour = Some(Duration::from_secs(3_600));
        assert_eq!((sleep(hour, 3_600), sleep(None, 3_600)), (60, 60));
        assert_eq!((sleep(hour, 10), sleep(Some(Duration::from_secs(1)), 10)), (10, 1));
    }
}
