//! When the server could take no connection, and how much silence that excuses.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::liveness::{delta, silence};

/// Spells that are remembered. With ten looks in a threshold there are no more within three of them.
const SPELLS: usize = 32;

/// Times at which no connection slot was free, as far as they were seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hearing {
    /// Beginning and end of each, the latest first.
    spells: [Option<(DateTime<Utc>, DateTime<Utc>)>; SPELLS],
    /// When it was last looked, and whether no slot was free then.
    last_look: Option<(DateTime<Utc>, bool)>,
}

/// What a look has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// From now on no slot is free.
    Began,
    /// A slot is free again, after so long.
    Ended(Duration),
}

impl Hearing {
    /// Looks. A spell begins at the look before the first that finds no free slot: it may have begun just after that.
    pub fn look(&mut self, now: DateTime<Utc>, is_full: bool) -> Option<Change> {
        let last = self.last_look.replace((now, is_full));
        let was_full = last.is_some_and(|(_, was_full)| was_full);
        if is_full && !was_full {
            self.spells.rotate_right(1);
            self.spells[0] = Some((last.map_or(now, |(at, _)| at.min(now)), now));
            return Some(Change::Began);
        }
        let (begin, end) = self.spells[0].as_mut().filter(|_| was_full)?;
        *end = now.max(*end);
        (!is_full).then(|| Change::Ended(silence(*end, *begin)))
    }

    /// Since when no slot has been free, if none is now.
    pub fn full_since(&self) -> Option<DateTime<Utc>> {
        let (begin, _) = self.spells[0]?;
        self.last_look.filter(|(_, is_full)| *is_full).map(|_| begin)
    }

    /// The end of the last spell, and how long it was.
    pub fn last_spell(&self) -> Option<(DateTime<Utc>, Duration)> {
        self.spells[0].map(|(begin, end)| (end, silence(end, begin)))
    }

    /// How much longer than the threshold a worker may have been silent because it could not connect: by the time
    /// without a free slot since then, but by two more thresholds at most. So nobody stops the deaths by taking all
    /// slots.
    pub fn excuse(&self, now: DateTime<Utc>, threshold: Duration) -> Duration {
        // Backwards: a spell that the threshold reaches into has it reach back by the whole spell further.
        let mut excuse = Duration::ZERO;
        for (index, (begin, end)) in self.spells.iter().flatten().enumerate() {
            let lasts = index == 0 && self.full_since().is_some();
            let end = if lasts { now } else { (*end).min(now) };
            if end <= now - delta(threshold) - delta(excuse) {
                break;
            }
            excuse += silence(end, *begin);
        }
        excuse.min(threshold * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLD: Duration = Duration::from_secs(100);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    /// Looks at these moments, without a free slot at those.
    fn looked(looks: impl IntoIterator<Item = i64>, full: impl Fn(i64) -> bool) -> Hearing {
        let mut hearing = Hearing::default();
        for second in looks {
            hearing.look(at(second), full(second));
        }
        hearing
    }

    fn excuse(hearing: &Hearing, now: i64) -> u64 {
        hearing.excuse(at(now), THRESHOLD).as_secs()
    }

    #[test]
    fn time_without_a_free_slot_excuses_as_much_silence() {
        let hearing = looked((0..=200).step_by(10), |second| (50..90).contains(&second));
        assert_eq!(excuse(&hearing, 45), 5, "it may have begun at the look before");
        assert_eq!(excuse(&hearing, 1_000), 0);
        assert_eq!(excuse(&hearing, 150), 50);
        assert_eq!(excuse(&hearing, 189), 50, "as far back as the excuse reaches");
        assert_eq!(excuse(&hearing, 191), 0);
        assert_eq!(excuse(&hearing, 300), 0);
        assert_eq!(excuse(&Hearing::default(), 300), 0);
    }

    #[test]
    fn no_more_than_two_thresholds_are_excused() {
        assert_eq!(excuse(&looked((0..=1_000).step_by(10), |_| true), 1_000), 200);
        let with_gaps = looked((0..=1_000).step_by(10), |second| second % 100 != 0);
        assert_eq!(excuse(&with_gaps, 1_000), 200);
    }

    #[test]
    fn many_short_spells_are_not_forgotten_too_soon() {
        let every_other = looked((0..=500).step_by(10), |second| second % 20 == 0);
        assert_eq!(excuse(&every_other, 500), 200);
    }

    #[test]
    fn beginning_and_end_are_told_once() {
        let mut hearing = Hearing::default();
        let looks = [(0, false), (10, true), (20, true), (30, false), (40, false)];
        let told: Vec<_> = looks.iter().map(|(second, full)| hearing.look(at(*second), *full)).collect();
        assert_eq!(
            told,
            [None, Some(Change::Began), None, Some(Change::Ended(Duration::from_secs(30))), None]
        );
        assert_eq!(hearing.full_since(), None);
        assert_eq!(hearing.last_spell(), Some((at(30), Duration::from_secs(30))));
    }

    #[test]
    fn a_first_look_may_find_no_free_slot() {
        let mut hearing = Hearing::default();
        assert_eq!(hearing.look(at(0), true), Some(Change::Began));
        assert_eq!(hearing.look(at(10), true), None);
        assert_eq!(hearing.full_since(), Some(at(0)));
        assert_eq!(excuse(&hearing, 15), 15, "until it is known to be over");
    }

    #[test]
    fn a_clock_that_was_set_back_excuses_nothing_wrong() {
        let mut hearing = looked([1_000, 1_010], |_| true);
        hearing.look(at(0), true);
        assert_eq!(excuse(&hearing, 0), 0);
    }
}
