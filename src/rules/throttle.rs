//! Work in parts with delays between them, so that most of a processor is left to other work.

use std::fmt;
use std::time::{Duration, Instant};

/// After each part, a delay of so many times what the part took: a quarter of a processor is used at most.
const DELAY: u32 = 3;

/// The time spent on work and on delays. All delays together have a limit; once it is reached, the work goes on
/// without.
pub struct Throttle {
    since: Instant,
    worked: Duration,
    delayed: Duration,
    limit: Duration,
}

impl Throttle {
    /// Before the first part of the work. All delays together take no longer than `limit`.
    pub fn new(limit: Duration, now: Instant) -> Self {
        Self { since: now, worked: Duration::ZERO, delayed: Duration::ZERO, limit }
    }

    /// A part of the work is done. Returns how long to wait before the next one.
    pub fn work_ends(&mut self, now: Instant) -> Duration {
        let part = now - self.since;
        self.worked += part;
        self.since = now;
        (part * DELAY).min(self.limit.saturating_sub(self.delayed))
    }

    /// The time spent on work.
    pub fn worked(&self) -> Duration {
        self.worked
    }

    /// The delay is over, and the next part of the work begins.
    pub fn delay_ends(&mut self, now: Instant) {
        self.delayed += now - self.since;
        self.since = now;
    }
}

impl fmt::Display for Throttle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [worked, delayed] = [self.worked, self.delayed].map(|time| time.as_secs_f64() * 1_000.0);
        write!(formatter, "{worked:.1} ms, delayed for {delayed:.1} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works in parts of so many milliseconds and waits as it is told to. Returns the delays, and the whole in words.
    fn throttled(limit: u64, parts: &[u64]) -> (Vec<u64>, String) {
        let mut now = Instant::now();
        let mut throttle = Throttle::new(Duration::from_millis(limit), now);
        let mut delays = Vec::new();
        for part in parts {
            now += Duration::from_millis(*part);
            let delay = throttle.work_ends(now);
            now += delay;
            throttle.delay_ends(now);
            delays.push(delay.as_millis().try_into().unwrap());
        }
        (delays, throttle.to_string())
    }

    #[test]
    fn a_delay_is_three_times_as_long_as_the_work_before_it() {
        let (delays, whole) = throttled(1_000, &[10, 20]);
        assert_eq!(delays, [30, 60]);
        assert_eq!(whole, "30.0 ms, delayed for 90.0 ms");
    }

    #[test]
    fn the_delays_together_are_no_longer_than_they_may_be() {
        let (delays, whole) = throttled(50, &[10, 10, 10]);
        assert_eq!(delays, [30, 20, 0]);
        assert_eq!(whole, "30.0 ms, delayed for 50.0 ms");
    }
}
