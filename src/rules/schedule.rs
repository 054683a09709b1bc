//! When the launcher looks at which database, and when old rows are looked for.
//!
//! Moments of the monotonic clock are `Duration`s since an arbitrary start; "now" is always an argument.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::liveness::{USUAL_DELAY, delta, silence};

/// An unknown database, or one without the extension, is looked at this often.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(60);

/// Old rows are looked for no more often than this, unless they are kept for a shorter time.
const PRUNE_INTERVAL: Duration = Duration::from_secs(300);

/// What a sweep may be late by, beside another check interval, before an operator is told.
const SWEEP_TOLERANCE: Duration = Duration::from_secs(5);

/// The longest time that a table is left out which has ended sweepers, or held them up. One that has been good for as
/// long is judged anew.
pub const LONGEST_QUARANTINE: Duration = Duration::from_secs(3_600);

/// The longest pause before a database whose sweeper fails, or a table that cannot be settled, is tried again.
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(300);

/// The longest pause between two flushes while a snapshot is held.
const LONGEST_FLUSH_PAUSE: Duration = Duration::from_secs(7_200);

/// What is older than this may be removed; `None` when everything is kept, or when old rows were looked for just now.
pub fn prune_horizon(
    now: DateTime<Utc>,
    last: Option<DateTime<Utc>>,
    retention: Option<Duration>,
) -> Option<DateTime<Utc>> {
    let retention = retention?;
    let is_due = last.is_none_or(|last| silence(now, last) >= PRUNE_INTERVAL.min(retention));
    is_due.then(|| now - delta(retention))
}

/// How late the sweep after the one that began at `last` is, or `None` within two intervals and a tolerance for a busy
/// server.
pub fn lateness(now: DateTime<Utc>, last: DateTime<Utc>, check_interval: Duration) -> Option<Duration> {
    let since = silence(now, last);
    (since > check_interval * 2 + SWEEP_TOLERANCE).then(|| since - check_interval)
}

/// What is known of the extension in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// No sweeper has looked yet.
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
    /// Judge the workers that have lost their sessions.
    Judge,
    /// Write heartbeats to their rows, and look for dead workers, also among those that have lost their sessions.
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
    /// When the last sweeper was started, for either task.
    pub last_started: Option<Duration>,
    /// When the last one was started to sweep.
    pub last_sweep: Option<Duration>,
    /// How many sweepers in a row have failed.
    pub failures: u32,
    /// A session asked for a look: the extension was created, a worker registered, or code of others was refused.
    pub requested: bool,
    /// There are heartbeats in memory that are not in their rows.
    pub unwritten: bool,
    /// When a worker is to be judged that has lost its session.
    pub judge_at: Option<Duration>,
}

impl Visit {
    /// When a sweeper is due and for what. The time has passed if it should already have been started. `None` when
    /// nothing is due until something changes.
    pub fn due(&self, intervals: &Intervals) -> Option<(Duration, Task)> {
        let retry_at = match (self.failures, self.last_started) {
            (1.., Some(last_started)) => last_started + retry_pause(self.failures),
            _ => Duration::ZERO,
        };
        // Of those that are due at the same time, the one that does most: a sweep flushes and judges, too.
        let tasks = [
            (self.sweep_due(intervals), Task::Sweep),
            (self.judge_at.filter(|_| intervals.check.is_some()), Task::Judge),
            (self.flush_due(intervals), Task::Flush),
        ];
        let due = tasks.into_iter().filter_map(|(at, task)| Some((at?.max(retry_at), task)));
        due.min_by_key(|(at, _)| *at)
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
        // While sweeping is off, a sweeper that only flushes takes back what is not the extension's own, and fills
        // memory.
        let is_asked_for = self.requested || self.presence == Presence::Unknown;
        let is_called = is_asked_for && intervals.check.is_none();
        let pause = if is_called { Duration::ZERO } else { intervals.flush };
        let is_due = is_called || self.unwritten && self.presence != Presence::Absent;
        is_due.then(|| self.last_started.map_or(Duration::ZERO, |at| at + pause))
    }
}

/// The pause after the n-th failure in a row: one second, doubled each time, up to five minutes.
fn retry_pause(failures: u32) -> Duration {
    doubled(Duration::from_secs(1), failures).min(LONGEST_RETRY_PAUSE)
}

/// Whether something is tried again that has failed from `since` to `last`: after a pause as long as that, up to five
/// minutes.
pub fn is_tried_again(since: DateTime<Utc>, last: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    has_paused(since, last, now, LONGEST_RETRY_PAUSE)
}

/// Whether heartbeats are written to their rows, although since `since` none of the versions that flushes leave behind
/// can be removed: each flush goes through all of them. After a pause as long as that has lasted at the last flush, up
/// to two hours: twenty flushes a day.
pub fn is_flushed_again(since: DateTime<Utc>, last: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    has_paused(since, last, now, LONGEST_FLUSH_PAUSE)
}

fn has_paused(since: DateTime<Utc>, last: DateTime<Utc>, now: DateTime<Utc>, longest: Duration) -> bool {
    silence(now, last) >= silence(last, since).min(longest)
}

/// How long a table is left out that has ended or held up a sweeper so many times in a row: half a minute, doubled each
/// time, up to an hour.
pub fn quarantine(times: u32) -> Duration {
    doubled(Duration::from_secs(30), times).min(LONGEST_QUARANTINE)
}

/// When a sweeper is overdue whose statements end after `limit`, unless code of a table's owner keeps them from it:
/// some time later, because a busy server may be slow to end them.
pub fn overdue(limit: Duration) -> Duration {
    limit + limit / 2 + USUAL_DELAY
}

fn doubled(first: Duration, times: u32) -> Duration {
    first * (1 << times.saturating_sub(1).min(16))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            judge_at: None,
        }
    }

    fn due_at(visit: Visit) -> Option<(u64, Task)> {
        visit.due(&INTERVALS).map(|(at, task)| (at.as_secs(), task))
    }

    #[test]
    fn nothing_is_pruned_before_its_time() {
        let day = Duration::from_secs(86_400);
        assert_eq!(prune_horizon(at(86_400), None, Some(day)), Some(at(0)));
        assert_eq!(prune_horizon(at(86_400), None, None), None, "kept forever");
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

    #[test]
    fn a_database_never_visited_is_due_now() {
        let unknown = Visit { presence: Presence::Unknown, last_started: None, last_sweep: None, ..visit() };
        assert_eq!(due_at(unknown), Some((0, Task::Sweep)));
    }

    #[test]
    fn a_worker_that_lost_its_session_is_judged_at_its_time() {
        let lost = Visit { judge_at: Some(Duration::from_secs(70)), ..visit() };
        assert_eq!(due_at(lost), Some((70, Task::Judge)));
        assert_eq!(
            due_at(Visit { judge_at: Some(INTERVAL * 2), ..visit() }),
            Some((120, Task::Sweep)),
            "by a sweep"
        );
        assert_eq!(due_at(Visit { unwritten: true, ..lost }), Some((70, Task::Judge)), "before a flush");
        assert_eq!(due_at(Visit { failures: 5, ..lost }), Some((76, Task::Sweep)), "after a pause");
        let off = Intervals { check: None, ..INTERVALS };
        assert_eq!(lost.due(&off), None, "not while sweeping is off");
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
    fn a_call_while_sweeping_is_off_is_answered_at_once_without_a_sweep() {
        let off = Intervals { check: None, ..INTERVALS };
        assert_eq!(visit().due(&off), None);
        let called = Visit { requested: true, ..visit() };
        assert_eq!(called.due(&off), Some((INTERVAL, Task::Flush)));
        let unknown = Visit { presence: Presence::Unknown, last_started: None, last_sweep: None, ..visit() };
        assert_eq!(unknown.due(&off), Some((Duration::ZERO, Task::Flush)), "memory is to be filled");
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
    fn what_fails_is_tried_again_after_as_long_as_it_has_lasted_up_to_five_minutes() {
        let retry_after =
            |lasted| (0..1_000).find(|pause| is_tried_again(at(0), at(lasted), at(lasted + pause)));
        let pauses = [0, 60, 120, 299, 300, 100_000].map(retry_after);
        assert_eq!(pauses, [0, 60, 120, 299, 300, 300].map(Some));
    }

    #[test]
    fn while_a_snapshot_is_held_a_day_has_few_flushes() {
        let (mut last, mut flushes) = (0, 1);
        for now in (0..86_400).step_by(10) {
            if now > last && is_flushed_again(at(0), at(last), at(now)) {
                (last, flushes) = (now, flushes + 1);
            }
        }
        assert_eq!(flushes, 22);
        assert!(is_flushed_again(at(0), at(0), at(10)), "a short one costs nothing");
        assert!(is_flushed_again(at(0), at(90_000), at(97_200)), "two hours at most");
    }

    #[test]
    fn a_table_that_ends_sweepers_is_left_out_for_longer_and_longer() {
        let pauses: Vec<u64> = [1, 2, 3, 8, 1_000].map(|n| quarantine(n).as_secs()).into();
        assert_eq!(pauses, [30, 60, 120, 3_600, 3_600]);
    }

    #[test]
    fn a_sweeper_is_overdue_some_time_after_its_statement_should_have_ended() {
        assert_eq!(overdue(Duration::from_secs(60)), Duration::from_secs(92));
        assert_eq!(overdue(Duration::from_millis(100)), Duration::from_millis(2_150));
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
