//! Work in parts with rests between them, so that it leaves a processor to others. Plain Rust; "now" is an argument.

use std::fmt;
use std::time::{Duration, Instant};

/// After each part, a rest of so many times what the part took: a quarter of a processor is used at most.
const REST: u32 = 3;

/// How long was worked, and how long rested. The rests together are no longer than they may be: then the work goes on
/// without.
pub struct Pace {
    since: Instant,
    worked: Duration,
    rested: Duration,
    limit: Duration,
}

impl Pace {
    /// Nothing is done yet. All rests together are to take no longer than `limit`.
    pub fn new(limit: Duration, now: Instant) -> Self {
        Self { since: now, worked: Duration::ZERO, rested: Duration::ZERO, limit }
    }

    /// A part of the work is done. How long to rest before the next one.
    pub fn work_ends(&mut self, now: Instant) -> Duration {
        let part = now - self.since;
        self.worked += part;
        self.since = now;
        (part * REST).min(self.limit.saturating_sub(self.rested))
    }

    /// How long was worked.
    pub fn worked(&self) -> Duration {
        self.worked
    }

    /// The rest is over, and the next part of the work begins.
    pub fn rest_ends(&mut self, now: Instant) {
        self.rested += now - self.since;
        self.since = now;
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [worked, rested] = [self.worked, self.rested].map(|time| time.as_secs_f64() * 1_000.0);
        write!(formatter, "{worked:.1} ms, and rested for {rested:.1} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works in parts of so many milliseconds and rests as it is told to: the rests, and the whole in words.
    fn paced(limit: u64, parts: &[u64]) -> (Vec<u64>, String) {
        let mut now = Instant::now();
        let mut pace = Pace::new(Duration::from_millis(limit), now);
        let mut rests = Vec::new();
        for part in parts {
            now += Duration::from_millis(*part);
            let rest = pace.work_ends(now);
            now += rest;
            pace.rest_ends(now);
            rests.push(rest.as_millis().try_into().unwrap());
        }
        (rests, pace.to_string())
    }

    #[test]
    fn a_rest_is_three_times_as_long_as_the_work_before_it() {
        let (rests, whole) = paced(1_000, &[10, 20]);
        assert_eq!(rests, [30, 60]);
        assert_eq!(whole, "30.0 ms, and rested for 90.0 ms");
    }

    #[test]
    fn the_rests_together_are_no_longer_than_they_may_be() {
        let (rests, whole) = paced(50, &[10, 10, 10]);
        assert_eq!(rests, [30, 20, 0]);
        assert_eq!(whole, "30.0 ms, and rested for 50.0 ms");
    }
}
