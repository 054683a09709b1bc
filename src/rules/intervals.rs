//! How long the intervals between the heartbeats of a worker really are, as far as that can be measured without slowing
//! a heartbeat down.
//!
//! A heartbeat only stores its time, so intervals are seen by the flush: of each worker with a heartbeat since the last
//! look for heartbeats to write, it is known how long it had been silent at that look. A heartbeat followed, so this
//! silence is the beginning of an interval that ended: never longer than the interval itself, and shorter by no more
//! than a flush interval, for the launcher or a flush looks that often. Shorter intervals are seen at a random moment,
//! which the median makes up for.

use std::time::Duration;

/// The first bucket holds what is shorter than this.
const SHORTEST: f64 = 0.031_25;

/// Buckets, and how many of them double a silence; the last one begins at almost two hours.
const BUCKETS: usize = 72;
const AN_OCTAVE: f64 = 4.0;

/// Silences weigh half as much after this many microseconds.
const HALF_LIFE: i64 = 3_600_000_000;

/// Fewer silences than this are not enough to go by.
const ENOUGH: u32 = 10;

/// Silences that ended in a heartbeat, counted by length; in shared memory, under its owner's lock.
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    counts: [u32; BUCKETS],
    /// When the counts were last halved, in microseconds of any clock.
    halved_at: i64,
}

/// What the histogram says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeartbeatIntervals {
    /// Half of the intervals are shorter.
    pub median: Duration,
    /// One in a hundred is longer.
    pub p99: Duration,
}

impl Histogram {
    /// No silence counted yet.
    pub const EMPTY: Self = Self { counts: [0; BUCKETS], halved_at: 0 };

    /// Counts silences, in microseconds, at a time in microseconds.
    pub fn add(&mut self, silences: &[i64], now: i64) {
        self.decay(now);
        for silence in silences {
            let count = &mut self.counts[bucket(*silence)];
            *count = count.saturating_add(1);
        }
    }

    /// Forgets slowly, so that a change of the workers shows within hours.
    fn decay(&mut self, now: i64) {
        let halvings = (now - self.halved_at) / HALF_LIFE;
        if self.halved_at == 0 || halvings < 0 {
            self.halved_at = now;
        } else if halvings > 0 {
            let shift = u32::try_from(halvings).unwrap_or(u32::MAX);
            self.counts.iter_mut().for_each(|count| *count = count.checked_shr(shift).unwrap_or(0));
            self.halved_at = now;
        }
    }

    /// The intervals behind the silences, when heartbeats are flushed every `flush_interval`; `None` before enough of
    /// them were seen.
    pub fn intervals(&self, flush_interval: Duration) -> Option<HeartbeatIntervals> {
        let total: u32 = self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count));
        if total < ENOUGH {
            return None;
        }
        let median = self.quantile(total.div_ceil(2));
        // On average we see half of an interval shorter than the flush interval, and all but half a flush interval of a
        // longer one.
        let median = (median * 2).min(median + flush_interval / 2);
        Some(HeartbeatIntervals { median, p99: self.quantile(total - total / 100) })
    }

    /// What the silence of this rank is no shorter than.
    fn quantile(&self, rank: u32) -> Duration {
        let mut seen: u32 = 0;
        let bucket = self.counts.iter().position(|count| {
            seen = seen.saturating_add(*count);
            seen >= rank
        });
        shortest(bucket.unwrap_or(BUCKETS - 1))
    }
}

impl HeartbeatIntervals {
    /// The shortest threshold that such workers stay well below: three times the median, and twice what nearly all
    /// intervals stay below.
    pub fn safe_threshold(&self) -> Duration {
        (self.median * 3).max(self.p99 * 2)
    }
}

/// The bucket of a silence in microseconds.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounded below and above"
)]
fn bucket(silence: i64) -> usize {
    let octaves = (silence as f64 / 1e6 / SHORTEST).max(1.0).log2();
    ((octaves * AN_OCTAVE) as usize).min(BUCKETS - 1)
}

/// The shortest silence of a bucket.
#[allow(clippy::cast_precision_loss, reason = "a small number")]
fn shortest(bucket: usize) -> Duration {
    Duration::from_secs_f64(SHORTEST * (bucket as f64 / AN_OCTAVE).exp2())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const FLUSH: Duration = Duration::from_secs(10);

    /// The silences that flushes see of workers that send one every `interval` seconds.
    fn silences(interval: i64, flush: i64) -> Vec<i64> {
        let shortest = (interval - flush).max(0);
        (1..=1_000).map(|n| (shortest * 1_000 + (interval - shortest) * n) * SECOND / 1_000).collect()
    }

    fn intervals(silences: &[i64]) -> (f64, f64) {
        let mut histogram = Histogram::EMPTY;
        histogram.add(silences, SECOND);
        let intervals = histogram.intervals(FLUSH).unwrap();
        (intervals.median.as_secs_f64(), intervals.p99.as_secs_f64())
    }

    /// Never above, and below by no more than a bucket is wide.
    fn is_about(found: f64, expected: f64) -> bool {
        found > expected / 1.25 && found <= expected
    }

    #[test]
    fn intervals_longer_and_shorter_than_the_flush_interval_are_told() {
        for interval in [2, 30, 300] {
            let (median, p99) = intervals(&silences(interval, 10));
            assert!(is_about(median, interval as f64), "{interval} s: median {median}");
            assert!(is_about(p99, interval as f64), "{interval} s: 99th percentile {p99}");
        }
    }

    #[test]
    fn a_few_long_intervals_show_at_the_long_end_alone() {
        let mut silences = silences(30, 10);
        silences.extend([100 * SECOND; 20]);
        let (median, p99) = intervals(&silences);
        assert!(is_about(median, 30.0) && is_about(p99, 100.0), "{median} {p99}");
    }

    #[test]
    fn a_threshold_of_three_regular_intervals_is_safe_and_one_of_two_long_ones() {
        let intervals = |median, p99| HeartbeatIntervals {
            median: Duration::from_secs(median),
            p99: Duration::from_secs(p99),
        };
        assert_eq!(intervals(30, 35).safe_threshold().as_secs(), 90);
        assert_eq!(intervals(30, 70).safe_threshold().as_secs(), 140);
    }

    #[test]
    fn too_few_silences_tell_nothing() {
        let mut histogram = Histogram::EMPTY;
        histogram.add(&[SECOND; 9], SECOND);
        assert_eq!(histogram.intervals(FLUSH), None);
        histogram.add(&[SECOND], SECOND);
        assert!(histogram.intervals(FLUSH).is_some());
    }

    #[test]
    fn what_was_seen_decays_in_hours() {
        let mut histogram = Histogram::EMPTY;
        histogram.add(&[100 * SECOND; 1_000], SECOND);
        histogram.add(&[SECOND; 1_000], SECOND + 10 * HALF_LIFE);
        assert!(is_about(histogram.intervals(FLUSH).unwrap().p99.as_secs_f64(), 1.0));
        histogram.add(&[], SECOND + 30 * HALF_LIFE);
        assert_eq!(histogram.intervals(FLUSH), None);
    }

    #[test]
    fn a_clock_that_was_set_back_loses_nothing() {
        let mut histogram = Histogram::EMPTY;
        histogram.add(&[SECOND; 100], 100 * HALF_LIFE);
        histogram.add(&[SECOND; 100], SECOND);
        assert!(histogram.intervals(FLUSH).is_some());
    }

    #[test]
    fn the_shortest_and_the_longest_have_a_bucket() {
        for silence in [i64::MIN, 0, 1, i64::MAX] {
            assert!(bucket(silence) < BUCKETS);
        }
        assert_eq!((bucket(0), bucket(i64::MAX)), (0, BUCKETS - 1));
    }
}
