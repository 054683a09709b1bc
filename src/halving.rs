//! Work on a batch that fails as a whole because of one of its parts: it is done in halves, so that the part keeps
//! nothing else back. Plain Rust.

use std::time::{Duration, Instant};

/// How often, and until when, a batch that has failed is tried in halves. What hangs, or fails as a whole, would
/// otherwise be tried twice as often as it has parts.
pub struct Patience {
    failures: u32,
    until: Option<Instant>,
    limit: Duration,
}

impl Patience {
    /// Failures that are borne: enough to find seven bad parts among thousands.
    const FAILURES: u32 = 100;

    /// Halves are tried for so long after the first failure.
    pub fn new(limit: Duration) -> Self {
        Self { failures: 0, until: None, limit }
    }

    /// Whether nothing that may fail is tried any more.
    pub fn is_over(&self) -> bool {
        self.failures >= Self::FAILURES || self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn lose_some(&mut self) {
        self.failures += 1;
        self.until = self.until.or_else(|| Instant::now().checked_add(self.limit));
    }
}

/// Does the work on a batch, and when that fails, on each half by itself, as long as there is patience. What is not tried
/// any more, or fails by itself, is left undone.
///
/// # Errors
///
/// The first that a part failed with by itself, or the one with which patience ended.
pub fn in_halves<T, E>(
    batch: &[T],
    patience: &mut Patience,
    work: &mut impl FnMut(&[T]) -> Result<(), E>,
) -> Result<(), E> {
    // Not the first attempt, which is the only one that could find no patience and no error to tell.
    if batch.is_empty() || (patience.failures > 0 && patience.is_over()) {
        return Ok(());
    }
    let Err(error) = work(batch) else { return Ok(()) };
    patience.lose_some();
    if batch.len() == 1 || patience.is_over() {
        return Err(error);
    }
    let (first, second) = batch.split_at(batch.len() / 2);
    let first = in_halves(first, patience, work);
    first.and(in_halves(second, patience, work))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    /// Works on the numbers below `count`, of which some are bad. What was done, how often that took, and the error.
    fn work(count: u32, is_bad: impl Fn(u32) -> bool, limit: Duration) -> (Vec<u32>, u32, Result<(), u32>) {
        let (mut done, mut attempts) = (Vec::new(), 0);
        let batch: Vec<u32> = (0..count).collect();
        let result = in_halves(&batch, &mut Patience::new(limit), &mut |part: &[u32]| {
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
        assert_eq!(attempts, Patience::FAILURES);
    }

    #[test]
    fn what_takes_too_long_is_tried_once() {
        let (done, attempts, result) = work(10, |number| number == 3, Duration::ZERO);
        assert_eq!((done.len(), attempts, result), (0, 1, Err(3)));
    }

    #[test]
    fn later_batches_are_done_while_there_is_patience() {
        let mut patience = Patience::new(LONG);
        let mut done = 0;
        for batch in [[1, 2], [3, 4]] {
            let _ = in_halves(&batch, &mut patience, &mut |part: &[i32]| match part.contains(&1) {
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
