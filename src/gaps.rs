//! How long workers really pause between heartbeats, as far as that can be told without slowing a heartbeat down.
//!
//! Plain Rust, no Postgres. A heartbeat only stores its time, so gaps are seen by the flush: of each worker that has
//! beaten since somebody last looked for heartbeats to write, it is known how long it had been silent at that look.
//! The worker then beat, so this silence is the beginning of a gap that ended: never longer than the gap itself, and
//! shorter by no more than a flush interval, for the launcher or a flush looks that often. Workers that beat faster
//! than that are caught at a random moment of a gap, which the typical gap makes up for.

use std::time::Duration;

/// The first bucket holds what is shorter than this.
const SHORTEST: f64 = 0.031_25;

/// Buckets, and how many of them double a silence; the last one begins at almost two hours.
const BUCKETS: usize = 72;
const AN_OCTAVE: f64 = 4.0;

/// Silences weigh half as much after this many microseconds.
const HALF_LIFE: i64 = 3_600_000_000;

/// Fewer silences than this tell nothing.
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
pub struct Gaps {
    /// A length that half of the gaps do not reach.
    pub typical: Duration,
    /// One in a hundred is longer than this.
    pub longest: Duration,
}

impl Histogram {
    /// Nothing seen yet.
    pub const EMPTY: Self = Self { counts: [0; BUCKETS], halved_at: 0 };

    /// Counts silences, in microseconds, at a time in microseconds.
    pub fn add(&mut self, silences: &[i64], now: i64) {
        self.fade(now);
        for silence in silences {
            let count = &mut self.counts[bucket(*silence)];
            *count = count.saturating_add(1);
        }
    }

    /// Forgets slowly, so that a change of the workers shows within hours.
    fn fade(&mut self, now: i64) {
        let halvings = (now - self.halved_at) / HALF_LIFE;
        if self.halved_at == 0 || halvings < 0 {
            self.halved_at = now;
        } else if halvings > 0 {
            let shift = u32::try_from(halvings).unwrap_or(u32::MAX);
            self.counts.iter_mut().for_each(|count| *count = count.checked_shr(shift).unwrap_or(0));
            self.halved_at = now;
        }
    }

    /// The gaps behind the silences, when heartbeats are flushed every `flush_interval`; `None` before enough of
    /// them were seen.
    pub fn gaps(&self, flush_interval: Duration) -> Option<Gaps> {
        let total: u32 = self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count));
        if total < ENOUGH {
            return None;
        }
        let median = self.quantile(total.div_ceil(2));
        // A gap shorter than the flush interval is caught in its middle, on average; a longer one, half a flush
        // interval before its end.
        let typical = (median * 2).min(median + flush_interval / 2);
        Some(Gaps { typical, longest: self.quantile(total - total / 100) })
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

impl Gaps {
    /// The shortest threshold that such workers do not come close to: three times the typical gap, and twice what
    /// nearly all gaps stay below.
    pub fn safe_threshold(&self) -> Duration {
        (self.typical * 3).max(self.longest * 2)
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

    /// The silences that flushes see of workers that beat every `gap` seconds.
    fn silences(gap: i64, flush: i64) -> Vec<i64> {
        let shortest = (gap - flush).max(0);
        (1..=1_000).map(|n| (shortest * 1_000 + (gap - shortest) * n) * SECOND / 1_000).collect()
    }

    fn gaps(silences: &[i64]) -> (f64, f64) {
        let mut histogram = Histogram::EMPTY;
        histogram.add(silences, SECOND);
        let gaps = histogram.gaps(FLUSH).unwrap();
        (gaps.typical.as_secs_f64(), gaps.longest.as_secs_f64())
    }

    /// Never above, and below by no more than a bucket is wide.
    fn is_about(found: f64, expected: f64) -> bool {
        found > expected / 1.25 && found <= expected
    }

    #[test]
    fn gaps_longer_and_shorter_than_the_flush_interval_are_told() {
        for gap in [2, 30, 300] {
            let (typical, longest) = gaps(&silences(gap, 10));
            assert!(is_about(typical, gap as f64), "{gap} s: typically {typical}");
            assert!(is_about(longest, gap as f64), "{gap} s: at the longest {longest}");
        }
    }

    #[test]
    fn a_few_long_gaps_show_at_the_long_end_alone() {
        let mut silences = silences(30, 10);
        silences.extend([100 * SECOND; 20]);
        let (typical, longest) = gaps(&silences);
        assert!(is_about(typical, 30.0) && is_about(longest, 100.0), "{typical} {longest}");
    }

    #[test]
    fn a_threshold_of_three_regular_gaps_is_safe_and_one_of_two_long_ones() {
        let gaps = |typical, longest| Gaps {
            typical: Duration::from_secs(typical),
            longest: Duration::from_secs(longest),
        };
        assert_eq!(gaps(30, 35).safe_threshold().as_secs(), 90);
        assert_eq!(gaps(30, 70).safe_threshold().as_secs(), 140);
    }

    #[test]
    fn too_few_silences_tell_nothing() {
        let mut histogram = Histogram::EMPTY;
        histogram.add(&[SECOND; 9], SECOND);
        assert_eq!(histogram.gaps(FLUSH), None);
        histogram.add(&[SECOND], SECOND);
        assert!(histogram.gaps(FLUSH).is_some());
    }

    #[test]
    fn what_was_seen_fades_in_hours() {
        let mut histogram = Histogram::EMPTY;
        histogram.add(&[100 * SECOND; 1_000], SECOND);
        histogram.add(&[SECOND; 1_000], SECOND + 10 * HALF_LIFE);
        assert!(is_about(histogram.gaps(FLUSH).unwrap().longest.as_secs_f64(), 1.0));
        histogram.add(&[], SECOND + 30 * HALF_LIFE);
        assert_eq!(histogram.gaps(FLUSH), None);
    }

    #[test]
    fn a_clock_that_was_set_back_loses_nothing() {
        let mut histogram = Histogram::EMPTY;
        histogram.add(&[SECOND; 100], 100 * HALF_LIFE);
        histogram.add(&[SECOND; 100], SECOND);
        assert!(histogram.gaps(FLUSH).is_some());
    }

    #[test]
    fn the_shortest_and_the_longest_have_a_bucket() {
        for silence in [i64::MIN, 0, 1, i64::MAX] {
            assert!(bucket(silence) < BUCKETS);
        }
        assert_eq!((bucket(0), bucket(i64::MAX)), (0, BUCKETS - 1));
    }
}
