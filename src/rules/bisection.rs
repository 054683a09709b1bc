//! Bisection: work on a batch that fails as a whole because of one of its parts is done in halves, so that this part
//! keeps nothing else back.

use std::time::{Duration, Instant};

/// How often, and until when, a batch that has failed is tried in halves. What hangs, or fails as a whole, would
/// otherwise be tried twice as often as it has parts.
pub struct RetryBudget {
    /// Failures that are left.
    failures: u32,
    has_failed: bool,
    /// No retry begins after it; `None` before the first failure, and without a limit.
    until: Option<Instant>,
    limit: Option<Duration>,
}

impl RetryBudget {
    /// Failures that are allowed by default: enough to find seven bad parts among thousands.
    const FAILURES: u32 = 100;

    /// Halves are tried for so long after the first failure.
    pub fn new(limit: Duration) -> Self {
        Self { limit: Some(limit), ..Self::of_failures(Self::FAILURES) }
    }

    /// The same, until there were so many failures.
    #[must_use]
    pub fn with_failures(self, failures: u32) -> Self {
        Self { failures, ..self }
    }

    /// Halves are tried until there were so many failures.
    pub fn of_failures(failures: u32) -> Self {
        Self { failures, has_failed: false, until: None, limit: None }
    }

    /// Whether no more attempts are allowed.
    pub fn is_spent(&self) -> bool {
        self.failures == 0 || self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn spend(&mut self) {
        self.has_failed = true;
        self.failures = self.failures.saturating_sub(1);
        self.until = self.until.or_else(|| Instant::now().checked_add(self.limit?));
    }
}

/// Does the work on a batch, and when that fails with an error that is `worth_bisecting`, on each half by itself, as
/// long as the budget lasts. What is not tried any more, or fails by itself, is left undone.
///
/// # Errors
///
/// The first that a part failed with by itself, or the one that spent the budget.
pub fn bisect<T, E>(
    batch: &[T],
    budget: &mut RetryBudget,
    worth_bisecting: impl Fn(&E) -> bool + Copy,
    work: &mut impl FnMut(&[T]) -> Result<(), E>,
) -> Result<(), E> {
    // Never the first attempt: without a failure, there would be no error to return for what is left undone.
    if batch.is_empty() || (budget.has_failed && budget.is_spent()) {
        return Ok(());
    }
    let Err(error) = work(batch) else { return Ok(()) };
    budget.spend();
    if batch.len() == 1 || budget.is_spent() || !worth_bisecting(&error) {
        return Err(error);
    }
    let (first, second) = batch.split_at(batch.len() / 2);
    let first = bisect(first, budget, worth_bisecting, work);
    first.and(bisect(second, budget, worth_bisecting, work))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    /// Works on the numbers below `count`, of which some are bad. What was done, how often that took, and the error.
    fn work(count: u32, is_bad: impl Fn(u32) -> bool, limit: Duration) -> (Vec<u32>, u32, Result<(), u32>) {
        let (mut done, mut attempts) = (Vec::new(), 0);
        let batch: Vec<u32> = (0..count).collect();
        let result = bisect(&batch, &mut RetryBudget::new(limit), |_| true, &mut |part: &[u32]| {
            attempts += 1;
            match part.iter().find(|number| is_bad(**number)) {
                Some(bad) => Err(*bad),
                None => {
                    done.extend_from_slice(part);
                    Ok(())
                }
            }
        });
        (done, attempts, result)
    }

    #[test]
    fn a_bad_part_keeps_nothing_else_back_and_is_told() {
        let (done, attempts, result) = work(250_000, |number| number == 123_456, LONG);
        assert_eq!((done.len(), result), (249_999, Err(123_456)));
        assert!(attempts < 40, "{attempts}");
    }

    #[test]
    fn a_few_bad_parts_keep_nothing_else_back() {
        let (done, _, result) = work(250_000, |number| number % 50_000 == 7, LONG);
        assert_eq!((done.len(), result), (249_995, Err(7)));
    }

    #[test]
    fn what_fails_as_a_whole_is_not_tried_part_by_part() {
        let (done, attempts, result) = work(250_000, |_| true, LONG);
        assert!(done.is_empty() && result.is_err());
        assert_eq!(attempts, RetryBudget::FAILURES);
    }

    #[test]
    fn what_takes_too_long_is_tried_once() {
        let (done, attempts, result) = work(10, |number| number == 3, Duration::ZERO);
        assert_eq!((done.len(), attempts, result), (0, 1, Err(3)));
    }

    #[test]
    fn an_error_that_is_not_worth_it_is_not_bisected() {
        let mut attempts = 0;
        let mut fail = |_: &[u32]| {
            attempts += 1;
            Err("the server is away")
        };
        let result = bisect(&[1, 2, 3], &mut RetryBudget::of_failures(9), |_| false, &mut fail);
        assert_eq!((attempts, result), (1, Err("the server is away")));
    }

    #[test]
    fn later_batches_are_done_while_the_budget_lasts() {
        let mut budget = RetryBudget::new(LONG);
        let mut done = 0;
        for batch in [[1, 2], [3, 4]] {
            let _ = bisect(&batch, &mut budget, |_| true, &mut |part: &[i32]| match part.contains(&1) {
                true => Err(()),
                false => {
                    done += part.len();
                    Ok(())
                }
            });
        }
        assert_eq!(done, 3);
    }
}
