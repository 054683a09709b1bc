//! Which worker is dead at time t, and since when silence counts.
//!
//! Knows no PostgreSQL and reads no clock; "now" is always an argument. Wall-clock times are
//! `DateTime<Utc>`, moments of the monotonic clock are `Duration`s since an arbitrary start.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// The wall clock was set, or the machine slept, when it and the monotonic clock disagree by more than this. A
/// heartbeat may be ahead of the server's clock by as much.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(1);

/// On a busy machine a process that should run again may have to wait so long.
pub const USUAL_DELAY: Duration = Duration::from_secs(2);

/// A worker whose last heartbeat is older than this is dead; `None` while no worker can be judged.
///
/// Silence counts only while the server was able to hear: from `observing_since`, when it began to listen without
/// interruption. Until that is a whole `threshold` ago, silence proves nothing about any worker. `excuse` is the time
/// since then in which workers could not connect.
pub fn cutoff(
    now: DateTime<Utc>,
    observing_since: DateTime<Utc>,
    threshold: Duration,
    excuse: Duration,
) -> Option<DateTime<Utc>> {
    let cutoff = now - delta(threshold) - delta(excuse);
    (observing_since < cutoff).then_some(cutoff)
}

/// Since when silence counts in a database whose memory is not filled yet: its heartbeats may be too many to be taken
/// in time. But not for longer than another `threshold`, because perhaps it cannot be filled.
pub fn observed_cold(
    observing_since: DateTime<Utc>,
    now: DateTime<Utc>,
    threshold: Duration,
) -> DateTime<Utc> {
    now.min(observing_since + delta(threshold)).max(observing_since)
}

/// How long a worker has been silent; never negative: a heartbeat that is ahead of the clock counts as now.
pub fn silence(now: DateTime<Utc>, last_heartbeat_at: DateTime<Utc>) -> Duration {
    (now - last_heartbeat_at).to_std().unwrap_or(Duration::ZERO)
}

/// The latest time that a heartbeat may have. A later one is ahead of the clock: another clock wrote it, or this one
/// was set back. A client's clock may be a little ahead.
pub fn latest_credible(now: DateTime<Utc>) -> DateTime<Utc> {
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
    /// This share of the living workers; with 1 no worker is ever held back.
    pub fraction: f64,
    /// And this number.
    pub minimum: usize,
}

impl MassDeath {
    /// Whether any worker is ever held back.
    pub fn is_enabled(&self) -> bool {
        self.fraction < 1.0
    }

    /// Whether a number of quiet workers can be a mass death at all, however many are alive.
    pub fn is_possible(&self, quiet: usize) -> bool {
        self.is_enabled() && quiet > self.minimum
    }

    #[allow(clippy::cast_precision_loss, reason = "exact for more workers than fit anywhere")]
    fn is_exceeded(&self, quiet: usize, living: usize) -> bool {
        self.is_possible(quiet) && quiet as f64 > self.fraction * living as f64
    }
}

/// A worker that was not heard since this moment is quiet. Most are not dead yet, but healthy ones beat at least three
/// times in a threshold. So when a network is cut, all are quiet before the first of them is silent for a whole
/// threshold.
pub fn quiet_since(now: DateTime<Utc>, threshold: Duration) -> DateTime<Utc> {
    now - delta(threshold / 2)
}

/// How many workers fell quiet together, of those with these last heartbeats: within half a threshold of the last of
/// all. Others were lost before that, one by one.
pub fn together(last_heartbeats: &[DateTime<Utc>], threshold: Duration) -> usize {
    let Some(last) = last_heartbeats.iter().max() else { return 0 };
    let first = *last - delta(threshold / 2);
    last_heartbeats.iter().filter(|heartbeat| **heartbeat >= first).count()
}

/// The workers of a database at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// How many are to be declared dead.
    pub silent: usize,
    /// How many fell quiet together, the silent ones among them.
    pub quiet: usize,
    /// How many are not dead, whether they are heard or not.
    pub living: usize,
}

/// Workers that are held back, or were in this mass death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When it began.
    pub since: DateTime<Utc>,
    /// How many were silent at the last look.
    pub workers: usize,
    /// It was ended, by time or by an operator. Sweeps are settling these workers.
    pub is_over: bool,
}

/// Whether silent workers are held back: returns the hold that applies from now on, if any.
///
/// A hold begins when some workers are silent and too many are quiet. It lasts until no worker is silent, for one
/// `threshold` at most: when the first ones are heard again, the others get the time to follow. When it is over, sweeps
/// go ahead, and only after one has found no mass death any more can there be another hold.
pub fn hold(
    known: Option<Hold>,
    limits: &MassDeath,
    fleet: Fleet,
    now: DateTime<Utc>,
    threshold: Duration,
) -> Option<Hold> {
    let goes_on = limits.is_enabled() && known.is_some_and(|hold| !hold.is_over);
    let is_exceeded = limits.is_exceeded(fleet.quiet, fleet.living);
    if fleet.silent == 0 || !is_exceeded && !goes_on {
        return None;
    }
    let workers = fleet.quiet.max(fleet.silent);
    let hold = known.unwrap_or(Hold { since: now, workers, is_over: false });
    let is_over = hold.is_over || now - hold.since >= delta(threshold);
    Some(Hold { workers, is_over, ..hold })
}

/// A length of time as a chrono one. Each comes from a setting or a clock and fits; a longer one means "forever".
pub fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLD: Duration = Duration::from_secs(120);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn while_memory_is_not_filled_silence_waits_for_another_threshold_at_most() {
        let since = |now| observed_cold(at(0), at(now), THRESHOLD);
        assert_eq!([since(-5), since(0), since(60), since(1_000)], [at(0), at(0), at(60), at(120)]);
        let cutoff = |now| cutoff(at(now), since(now), THRESHOLD, Duration::ZERO);
        assert_eq!((cutoff(240), cutoff(241)), (None, Some(at(121))));
    }

    #[test]
    fn no_worker_is_judged_before_the_server_listened_for_a_whole_threshold() {
        assert_eq!(cutoff(at(119), at(0), THRESHOLD, Duration::ZERO), None);
        assert_eq!(cutoff(at(120), at(0), THRESHOLD, Duration::ZERO), None);
        assert_eq!(cutoff(at(121), at(0), THRESHOLD, Duration::ZERO), Some(at(1)));
    }

    #[test]
    fn silence_while_workers_could_not_connect_does_not_count() {
        let excuse = Duration::from_secs(30);
        assert_eq!(cutoff(at(150), at(0), THRESHOLD, excuse), None);
        assert_eq!(cutoff(at(151), at(0), THRESHOLD, excuse), Some(at(1)));
    }

    #[test]
    fn a_start_of_observation_ahead_of_the_clock_judges_no_worker() {
        assert_eq!(cutoff(at(0), at(3_600), THRESHOLD, Duration::ZERO), None);
    }

    #[test]
    fn a_timestamp_ahead_of_the_clock_is_no_silence() {
        assert_eq!(silence(at(0), at(60)), Duration::ZERO);
        assert_eq!(silence(at(60), at(0)), Duration::from_secs(60));
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
    fn a_heartbeat_may_be_ahead_of_the_clock_by_a_second() {
        assert_eq!(latest_credible(at(0)), at(1));
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

    fn all_silent(silent: usize, living: usize) -> Fleet {
        Fleet { silent, quiet: silent, living }
    }

    #[test]
    fn a_mass_death_is_held_back_from_its_first_sight() {
        assert_eq!(hold(None, &HALF, all_silent(11, 20), at(0), THRESHOLD), begun(0, 11));
    }

    #[test]
    fn the_first_silent_worker_of_a_quiet_fleet_is_held_back() {
        let fleet = Fleet { silent: 1, quiet: 20, living: 20 };
        assert_eq!(hold(None, &HALF, fleet, at(0), THRESHOLD), begun(0, 20));
        assert_eq!(
            hold(None, &HALF, Fleet { silent: 0, ..fleet }, at(0), THRESHOLD),
            None,
            "nobody to hold back"
        );
    }

    #[test]
    fn few_workers_and_small_shares_are_never_held_back() {
        assert_eq!(
            hold(None, &HALF, all_silent(10, 10), at(0), THRESHOLD),
            None,
            "not more than the minimum"
        );
        assert_eq!(hold(None, &HALF, all_silent(11, 22), at(0), THRESHOLD), None, "not more than the share");
        assert_eq!(hold(None, &HALF, all_silent(0, 0), at(0), THRESHOLD), None);
    }

    #[test]
    fn with_a_share_of_one_no_worker_is_held_back() {
        let off = MassDeath { fraction: 1.0, minimum: 0 };
        assert_eq!(hold(None, &off, all_silent(1_000, 1_000), at(0), THRESHOLD), None);
        assert_eq!(hold(begun(0, 1_000), &off, all_silent(1_000, 1_000), at(1), THRESHOLD), None);
    }

    #[test]
    fn with_a_share_of_zero_every_death_above_the_minimum_is_held_back() {
        let strict = MassDeath { fraction: 0.0, minimum: 0 };
        assert_eq!(hold(None, &strict, all_silent(1, 1_000), at(0), THRESHOLD), begun(0, 1));
    }

    #[test]
    fn a_hold_ends_after_one_threshold_even_if_it_grows() {
        let grown = hold(begun(0, 11), &HALF, all_silent(15, 20), at(119), THRESHOLD);
        assert_eq!(grown, begun(0, 15));
        let over = hold(grown, &HALF, all_silent(20, 20), at(120), THRESHOLD);
        assert_eq!(over, Some(Hold { since: at(0), workers: 20, is_over: true }));
    }

    #[test]
    fn a_hold_that_is_over_stays_over_until_its_workers_are_settled() {
        let over = Some(Hold { since: at(0), workers: 20, is_over: true });
        let judged = hold(over, &HALF, all_silent(19, 20), at(1), THRESHOLD);
        assert_eq!(judged.map(|hold| hold.is_over), Some(true));
        assert_eq!(hold(over, &HALF, all_silent(0, 0), at(1), THRESHOLD), None);
        assert_eq!(hold(over, &HALF, all_silent(1, 20), at(1), THRESHOLD), None, "one whose row is locked");
    }

    #[test]
    fn the_last_ones_of_a_fleet_that_comes_back_are_held_as_long_as_the_first() {
        assert_eq!(hold(begun(0, 20), &HALF, all_silent(1, 20), at(60), THRESHOLD), begun(0, 1));
        let over = hold(begun(0, 20), &HALF, all_silent(1, 20), at(120), THRESHOLD);
        assert_eq!(over.map(|hold| hold.is_over), Some(true));
        assert_eq!(hold(begun(0, 20), &HALF, all_silent(0, 20), at(60), THRESHOLD), None, "all are back");
    }

    #[test]
    fn workers_that_fell_quiet_one_by_one_did_not_do_so_together() {
        let every_minute: Vec<_> = (0..20).map(|minute| at(60 * minute)).collect();
        assert_eq!(together(&every_minute, THRESHOLD), 2);
        let within_half_a_minute: Vec<_> = (0..30).map(at).collect();
        assert_eq!(together(&within_half_a_minute, THRESHOLD), 30);
        assert_eq!(together(&[], THRESHOLD), 0);
        assert_eq!(quiet_since(at(60), THRESHOLD), at(0));
    }
}
