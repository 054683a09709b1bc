//! What is counted of lost sessions: how many were lost lately, and how many workers came back. Of fixed size, because
//! it is kept in shared memory.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::disconnection::Loss;

/// Intervals into which two windows are divided for counting.
const BUCKETS: usize = 16;

/// Deaths of which address and host are remembered.
const REMEMBERED: usize = 16;

/// The sessions that were lost lately in a database, whatever became of their workers. Times are microseconds since
/// 1970; 0 for none.
#[derive(Clone, Copy, Debug)]
pub struct RecentLosses {
    /// When each interval began, the latest first.
    begins: [i64; BUCKETS],
    /// How many were lost in it.
    counts: [u32; BUCKETS],
    /// Of the workers that were declared dead last, when they were lost, the address and the host. Of the others,
    /// memory knows.
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

/// Whether workers that keep losing their sessions and coming back are worth a warning: how many came back in the last
/// hour or two, of so many that are tied.
pub fn is_flapping(came_back: u64, tied: u64) -> bool {
    came_back >= 10 && came_back * 2 >= tied
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(5);

    fn at(milliseconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + milliseconds).unwrap()
    }

    fn loss(milliseconds: i64) -> Loss {
        Loss { at: at(milliseconds), address: 1, host: 1 }
    }

    /// One session lost at each of these milliseconds.
    fn lost(moments: impl IntoIterator<Item = i64>) -> RecentLosses {
        let mut losses = RecentLosses::NONE;
        moments.into_iter().for_each(|moment| losses.count(at(moment), WINDOW));
        losses
    }

    fn most(losses: &RecentLosses, moment: i64) -> usize {
        losses.most_around(at(moment), WINDOW)
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
    fn some_workers_that_come_back_are_no_flapping() {
        assert!(!is_flapping(9, 1));
        assert!(is_flapping(10, 20));
        assert!(!is_flapping(10, 21));
    }
}
