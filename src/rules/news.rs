//! When a problem that lasts is worth another line in the log.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// A problem of which only the words change is reported no more often than this: words can contain a time or a key.
const REPEAT: Duration = Duration::from_secs(60);

/// What was last reported of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastReport {
    /// The number of its SQLSTATE.
    pub code: i32,
    /// The hash of its whole text.
    pub words: u64,
    /// When, in microseconds of any clock.
    pub at: i64,
}

impl LastReport {
    /// A report made at this time.
    pub fn new(code: i32, text: &str, at: i64) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self { code, words: hasher.finish(), at }
    }

    /// Whether a problem that was reported like this is worth a line again, now that it reads like `now`.
    pub fn is_out_of_date(&self, now: &Self) -> bool {
        let since = u128::try_from(now.at.saturating_sub(self.at)).unwrap_or(0);
        self.code != now.code || (self.words != now.words && since >= REPEAT.as_micros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn report(code: i32, text: &str, second: i64) -> LastReport {
        LastReport::new(code, text, second * SECOND)
    }

    #[test]
    fn a_problem_that_stays_the_same_is_reported_once() {
        let first = report(1, "column is missing", 0);
        assert!(!first.is_out_of_date(&report(1, "column is missing", 1_000_000)));
    }

    #[test]
    fn another_sqlstate_is_news_at_once() {
        assert!(report(1, "column is missing", 0).is_out_of_date(&report(2, "column is missing", 0)));
    }

    #[test]
    fn other_words_are_news_once_a_minute() {
        let first = report(1, "closed at 12:00", 0);
        assert!(!first.is_out_of_date(&report(1, "closed at 12:01", 59)));
        assert!(first.is_out_of_date(&report(1, "closed at 12:02", 60)));
    }

    #[test]
    fn a_clock_that_was_set_back_floods_nothing() {
        assert!(!report(1, "a", 3_600).is_out_of_date(&report(1, "b", 0)));
    }

    #[test]
    fn texts_that_differ_at_their_end_differ() {
        let long = "x".repeat(10_000);
        assert_ne!(report(1, &format!("{long}a"), 0).words, report(1, &format!("{long}b"), 0).words);
    }
}
