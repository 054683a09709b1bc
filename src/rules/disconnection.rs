//! When a worker is dead whose session has ended because its client vanished.
//!
//! A process that is killed closes its connections, and the server sees it at once. A network that breaks looks the same,
//! and so does a pooler that is killed: then many sessions end at the same time, and nothing is known of any worker but its
//! silence.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::liveness::{delta, latest_credible, silence};

/// Losses within this time belong together, however short the grace is.
const SHORTEST_WINDOW: Duration = Duration::from_secs(5);

/// While a row stays locked, the death is tried again after this, or after a twentieth of the time that it has been.
const SHORTEST_RETRY_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Intervals into which two windows are divided for counting.
const BUCKETS: usize = 16;

/// Deaths of which address and host are remembered.
const REMEMBERED: usize = 16;

/// In the place of a host: the worker has named none.
pub const UNKNOWN_HOST: u32 = 0;

/// What is asked of a worker before it is declared dead because of its session.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long it may take to be heard again.
    pub grace: Duration,
    /// How much longer, because no client could connect.
    pub excuse: Duration,
    /// With more than this share of the sessions lost within one window,
    pub fraction: f64,
    /// and more than this number, silence decides.
    pub minimum: usize,
}

impl Limits {
    /// Losses that are no further apart belong together.
    pub fn window(&self) -> Duration {
        window(self.grace)
    }
}

/// Losses that are no further apart than this belong together.
pub fn window(grace: Duration) -> Duration {
    grace.max(SHORTEST_WINDOW)
}

/// The loss of a worker's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// When the session ended.
    pub at: DateTime<Utc>,
    /// A hash of the client's address.
    pub address: u32,
    /// A hash of the worker's host, or [`UNKNOWN_HOST`].
    pub host: u32,
}

fn apart(one: DateTime<Utc>, other: DateTime<Utc>) -> Duration {
    (one - other).abs().to_std().unwrap_or(Duration::MAX)
}

/// What is to be done about a worker whose session was lost and that was not heard since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may still be heard, until then.
    Waits(DateTime<Utc>),
    /// It is dead.
    Dead,
    /// It was lost together with so many others that silence decides.
    Together,
    /// It was lost before silence counts, or by another clock, so silence decides.
    OtherTime,
}

/// Judges the loss of a worker's session. `is_together` says whether it is one of too many.
pub fn judge(
    lost_at: DateTime<Utc>,
    is_together: bool,
    limits: &Limits,
    observing_since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Verdict {
    if lost_at < observing_since || lost_at > latest_credible(now) {
        return Verdict::OtherTime;
    }
    if is_together {
        return Verdict::Together;
    }
    let end = lost_at + delta(limits.grace) + delta(limits.excuse);
    if now < end { Verdict::Waits(end) } else { Verdict::Dead }
}

/// Whether so many sessions were lost together that it was the network: of the sessions that workers were tied to, `kept` are
/// still there.
#[allow(clippy::cast_precision_loss, reason = "exact for more sessions than fit anywhere")]
pub fn is_mass(lost: usize, kept: usize, limits: &Limits) -> bool {
    lost > limits.minimum && lost as f64 > limits.fraction * (lost + kept) as f64
}

/// When a death is tried again that was due at `due` and whose row is locked.
pub fn retry_at(due: DateTime<Utc>, now: DateTime<Utc>) -> DateTime<Utc> {
    now + delta((silence(now, due) / 20).clamp(SHORTEST_RETRY_PAUSE, LONGEST_RETRY_PAUSE))
}

/// The losses among which a pooler is looked for: those of one address, where there is more than one host.
#[derive(Default)]
pub struct ByAddress(HashMap<u32, Vec<Loss>>);

impl FromIterator<Loss> for ByAddress {
    fn from_iter<T: IntoIterator<Item = Loss>>(losses: T) -> Self {
        let mut by_address: HashMap<u32, Vec<Loss>> = HashMap::new();
        for loss in losses {
            by_address.entry(loss.address).or_default().push(loss);
        }
        let has_hosts = |losses: &[Loss]| {
            let differs = |loss: &Loss| loss.host == UNKNOWN_HOST || loss.host != losses[0].host;
            losses.len() > 1 && losses.iter().any(differs)
        };
        by_address.retain(|_, losses| has_hosts(losses));
        Self(by_address)
    }
}

impl ByAddress {
    /// Whether workers of other hosts, or of hosts that are not known, were lost together with this one, from its address.
    /// It is among them itself.
    pub fn are_of_a_pooler(&self, loss: &Loss, window: Duration) -> bool {
        let Some(losses) = self.0.get(&loss.address) else { return false };
        let mut together = losses.iter().filter(|other| apart(loss.at, other.at) <= window);
        match loss.host {
            UNKNOWN_HOST => together.nth(1).is_some(),
            host => together.any(|other| other.host != host),
        }
    }
}

/// The sessions that were lost lately in a database, whatever became of their workers. Times are microseconds since 1970; 0
/// for none.
#[derive(Clone, Copy, Debug)]
pub struct RecentLosses {
    /// When each interval began, the latest first.
    begins: [i64; BUCKETS],
    /// How many were lost in it.
    counts: [u32; BUCKETS],
    /// Of the workers that were declared dead last, when they were lost, the address and the host. Of the others, memory knows.
    dead: [(i64, u32, u32); REMEMBERED],
}

impl RecentLosses {
    /// None yet.
    pub const NONE: Self = Self { begins: [0; BUCKETS], counts: [0; BUCKETS], dead: [(0, 0, 0); REMEMBERED] };

    /// A session is lost now.
    pub fn count(&mut self, now: DateTime<Utc>, window: Duration) {
        let width = micros(window) * 2 / BUCKETS as i64;
        let now = now.timestamp_micros();
        if self.begins[0] == 0 || (now - self.begins[0]).abs() >= width {
            self.begins.rotate_right(1);
            self.counts.rotate_right(1);
            (self.begins[0], self.counts[0]) = (now, 0);
        }
        self.counts[0] = self.counts[0].saturating_add(1);
    }

    /// The most sessions that were lost within one window that a moment lies in.
    pub fn most_around(&self, moment: DateTime<Utc>, window: Duration) -> usize {
        let (moment, width) = (moment.timestamp_micros(), micros(window));
        let counts = || self.begins.iter().zip(&self.counts).filter(|(begin, _)| **begin != 0);
        let within = |first: i64| {
            let inside = counts().filter(|(begin, _)| (first..=first + width).contains(*begin));
            inside.map(|(_, count)| usize::try_from(*count).unwrap_or(0)).sum()
        };
        let around = counts().filter(|(begin, _)| (**begin - moment).abs() <= width);
        around.map(|(begin, _)| within(*begin)).max().unwrap_or(0)
    }

    /// A worker was declared dead because of this loss.
    pub fn remember(&mut self, loss: &Loss) {
        self.dead.rotate_right(1);
        self.dead[0] = (loss.at.timestamp_micros(), loss.address, loss.host);
    }

    /// The losses of the workers that were declared dead last.
    pub fn of_the_dead(&self) -> impl Iterator<Item = Loss> + '_ {
        let dead = self.dead.iter().filter(|(at, ..)| *at != 0);
        dead.filter_map(|(at, address, host)| {
            Some(Loss { at: DateTime::from_timestamp_micros(*at)?, address: *address, host: *host })
        })
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

/// How many workers came back in the present hour and the one before. Hours begin with the first that did.
#[derive(Clone, Copy, Debug)]
pub struct Hourly {
    /// When the present hour began, in microseconds since 1970; 0 for never.
    begin: i64,
    count: u32,
    before: u32,
}

const HOUR: i64 = 3_600_000_000;

impl Hourly {
    /// None yet.
    pub const NONE: Self = Self { begin: 0, count: 0, before: 0 };

    /// One more.
    pub fn add(&mut self, now: DateTime<Utc>) {
        let now = now.timestamp_micros();
        match now - self.begin {
            0..HOUR => {}
            HOUR..7_200_000_000 => (self.begin, self.before, self.count) = (now, self.count, 0),
            _ => *self = Self { begin: now, count: 0, before: 0 },
        }
        self.count = self.count.saturating_add(1);
    }

    /// How many there were in the last hour or two.
    pub fn recent(&self, now: DateTime<Utc>) -> u64 {
        match now.timestamp_micros() - self.begin {
            0..HOUR => u64::from(self.count) + u64::from(self.before),
            HOUR..7_200_000_000 => u64::from(self.count),
            _ => 0,
        }
    }
}

/// Whether workers that keep losing their sessions and coming back are worth a warning: how many came back in the last hour
/// or two, of so many that are tied.
pub fn is_flapping(came_back: u64, tied: u64) -> bool {
    came_back >= 10 && came_back * 2 >= tied
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { grace: Duration::from_secs(5), excuse: Duration::ZERO, fraction: 0.5, minimum: 10 };

    fn at(milliseconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + milliseconds).unwrap()
    }

    fn loss(milliseconds: i64) -> Loss {
        Loss { at: at(milliseconds), address: 1, host: 1 }
    }

    fn verdict(limits: &Limits, now: i64) -> Verdict {
        judge(at(0), false, limits, at(-10_000), at(now))
    }

    #[test]
    fn a_worker_is_dead_when_its_grace_is_over_and_not_before() {
        assert_eq!(verdict(&LIMITS, 0), Verdict::Waits(at(5_000)));
        assert_eq!(verdict(&LIMITS, 4_999), Verdict::Waits(at(5_000)));
        assert_eq!(verdict(&LIMITS, 5_000), Verdict::Dead);
    }

    #[test]
    fn without_a_grace_it_is_dead_at_once() {
        assert_eq!(verdict(&Limits { grace: Duration::ZERO, ..LIMITS }, 0), Verdict::Dead);
    }

    #[test]
    fn time_in_which_nobody_could_connect_is_added_to_the_grace() {
        let limits = Limits { excuse: Duration::from_secs(3), ..LIMITS };
        assert_eq!(verdict(&limits, 7_999), Verdict::Waits(at(8_000)));
        assert_eq!(verdict(&limits, 8_000), Verdict::Dead);
    }

    #[test]
    fn a_session_that_ended_before_the_server_could_hear_proves_nothing() {
        let judge = |since| judge(at(0), false, &LIMITS, at(since), at(60_000));
        assert_eq!(judge(1), Verdict::OtherTime);
        assert_eq!(judge(0), Verdict::Dead);
    }

    #[test]
    fn a_session_that_ended_in_the_future_proves_nothing() {
        let judge = |now| judge(at(0), false, &LIMITS, at(-3_600_000), at(now));
        assert_eq!(judge(-1_001), Verdict::OtherTime, "the clock was set back");
        assert_eq!(judge(-1_000), Verdict::Waits(at(5_000)));
    }

    #[test]
    fn more_than_half_of_the_sessions_are_the_network() {
        assert!(!is_mass(11, 11, &LIMITS));
        assert!(is_mass(12, 11, &LIMITS));
        assert!(is_mass(11, 0, &LIMITS));
        assert_eq!(judge(at(0), true, &LIMITS, at(-1), at(60_000)), Verdict::Together);
    }

    #[test]
    fn a_few_sessions_are_never_the_network() {
        assert!(!is_mass(10, 0, &LIMITS));
        assert!(!is_mass(1, 0, &LIMITS));
        assert!(is_mass(1, 0, &Limits { minimum: 0, ..LIMITS }));
    }

    #[test]
    fn with_a_share_of_one_nothing_is_the_network() {
        assert!(!is_mass(1_000, 0, &Limits { fraction: 1.0, ..LIMITS }));
        assert!(is_mass(11, 100_000, &Limits { fraction: 0.0, ..LIMITS }));
    }

    /// Whether the first of these is one of a pooler's.
    fn is_of_a_pooler(losses: &[Loss]) -> bool {
        ByAddress::from_iter(losses.iter().copied()).are_of_a_pooler(&losses[0], LIMITS.window())
    }

    #[test]
    fn one_address_with_two_hosts_is_a_pooler() {
        assert!(is_of_a_pooler(&[loss(0), Loss { host: 2, ..loss(100) }]));
        assert!(is_of_a_pooler(&[loss(0), loss(50), Loss { host: 2, ..loss(-100) }]));
        assert!(is_of_a_pooler(&[loss(0), Loss { host: UNKNOWN_HOST, ..loss(100) }]));
    }

    #[test]
    fn processes_of_one_host_may_die_together() {
        assert!(!is_of_a_pooler(&[loss(0), loss(0), loss(100)]));
    }

    #[test]
    fn two_addresses_are_no_pooler() {
        assert!(!is_of_a_pooler(&[loss(0), Loss { host: 2, address: 2, ..loss(100) }]));
    }

    #[test]
    fn hosts_that_are_not_known_may_be_two() {
        let unknown = Loss { host: UNKNOWN_HOST, ..loss(0) };
        assert!(is_of_a_pooler(&[unknown, unknown]));
        assert!(!is_of_a_pooler(&[unknown]), "one worker alone");
        assert!(!is_of_a_pooler(&[unknown, Loss { at: at(9_000), ..unknown }]));
    }

    #[test]
    fn what_is_lost_later_than_a_window_is_another_event() {
        let later = |milliseconds| Loss { host: 2, ..loss(milliseconds) };
        assert!(is_of_a_pooler(&[loss(0), later(5_000)]));
        assert!(!is_of_a_pooler(&[loss(0), later(5_001)]));
        assert_eq!(window(Duration::from_secs(60)), Duration::from_secs(60));
        assert_eq!(window(Duration::ZERO), Duration::from_secs(5), "at least five seconds");
    }

    #[test]
    fn who_came_back_is_counted_for_an_hour_or_two() {
        let (mut hourly, minute) = (Hourly::NONE, 60_000);
        (0..90).for_each(|n| hourly.add(at(n * minute)));
        assert_eq!(hourly.recent(at(90 * minute)), 90);
        assert_eq!(hourly.recent(at(130 * minute)), 30);
        assert_eq!(hourly.recent(at(200 * minute)), 0);
        hourly.add(at(1_000 * minute));
        assert_eq!(hourly.recent(at(1_000 * minute)), 1);
    }

    /// One session lost at each of these milliseconds.
    fn lost(moments: impl IntoIterator<Item = i64>) -> RecentLosses {
        let mut losses = RecentLosses::NONE;
        moments.into_iter().for_each(|moment| losses.count(at(moment), LIMITS.window()));
        losses
    }

    fn most(losses: &RecentLosses, moment: i64) -> usize {
        losses.most_around(at(moment), LIMITS.window())
    }

    #[test]
    fn losses_are_counted_within_a_window_before_or_after() {
        let losses = lost((0..100).map(|n| n * 10));
        assert_eq!(most(&losses, 0), 100, "those after it");
        assert_eq!(most(&losses, 990), 100, "those before it");
        assert_eq!(most(&losses, 20_000), 0);
        assert_eq!(most(&RecentLosses::NONE, 0), 0);
    }

    #[test]
    fn losses_that_are_far_apart_do_not_add_up() {
        let losses = lost((0..100).map(|n| n * 2_000));
        assert_eq!(most(&losses, 198_000), 3);
    }

    #[test]
    fn ten_thousand_sessions_that_end_at_once_are_counted() {
        assert_eq!(most(&lost((0..10_000).map(|n| n / 5)), 1_000), 10_000);
    }

    #[test]
    fn a_clock_that_was_set_back_begins_a_new_count() {
        assert_eq!(most(&lost([3_600_000, 0, 1]), 1), 2);
    }

    #[test]
    fn the_last_deaths_are_remembered() {
        let mut losses = RecentLosses::NONE;
        (0..20).for_each(|n| losses.remember(&loss(n)));
        assert_eq!(losses.of_the_dead().count(), REMEMBERED);
        assert_eq!(losses.of_the_dead().next(), Some(loss(19)));
    }

    #[test]
    fn a_locked_row_is_tried_again_at_once_and_then_less_often() {
        assert_eq!(retry_at(at(0), at(0)), at(20));
        assert_eq!(retry_at(at(0), at(1_000)), at(1_050));
        assert_eq!(retry_at(at(0), at(3_600_000)), at(3_605_000));
    }

    #[test]
    fn some_workers_that_come_back_are_no_flapping() {
        assert!(!is_flapping(9, 1));
        assert!(is_flapping(10, 20));
        assert!(!is_flapping(10, 21));
    }
}
