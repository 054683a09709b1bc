//! Heartbeats that clients write in the time of their own zone where UTC is meant. They are whole quarters of an hour
//! off, as all zones are. Those of zones east of Greenwich are ahead of the clock. The others seem silent for hours.
//!
//! Whether a row is renewed all the same, the transaction says that wrote it: transactions are numbered in the order in
//! which they begin.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::liveness::delta;

/// All zones differ from UTC by a multiple of this.
pub const STEP: TimeDelta = TimeDelta::minutes(15);

/// No zone is further behind UTC.
const FURTHEST: TimeDelta = TimeDelta::hours(12);

/// What two clocks may differ by besides.
const TOLERANCE: TimeDelta = TimeDelta::seconds(1);

/// How far behind UTC a zone is in which a heartbeat was written, of a row that was written between two moments; `None`
/// when there is no such zone.
pub fn zone_behind(
    heartbeat: DateTime<Utc>,
    not_before: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Option<TimeDelta> {
    let least = (not_before - TOLERANCE - heartbeat).max(STEP);
    let steps = (least.num_milliseconds() + STEP.num_milliseconds() - 1) / STEP.num_milliseconds();
    let behind = STEP * i32::try_from(steps).ok()?;
    (behind <= FURTHEST && heartbeat + behind <= now + TOLERANCE).then_some(behind)
}

/// A moment, and the number of the first transaction that began after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The moment.
    pub at: DateTime<Utc>,
    /// The transaction, with its epoch.
    pub transaction: u64,
}

/// Two marks, a threshold or more apart: rows that were written since the older one were written not long ago.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    older: Option<Mark>,
    newer: Option<Mark>,
}

impl Marks {
    /// No marks.
    pub const NONE: Self = Self { older: None, newer: None };

    /// Sets a mark at this moment, if the newer one is a threshold old. Returns the one since which a renewed row is
    /// that of a living worker.
    pub fn advance(&mut self, now: Mark, threshold: Duration) -> Mark {
        match self.newer {
            Some(newer) if newer.at > now.at => *self = Self { older: None, newer: Some(now) },
            Some(newer) if now.at - newer.at < delta(threshold) => {}
            newer => *self = Self { older: newer, newer: Some(now) },
        }
        self.oldest().unwrap_or(now)
    }

    /// The older mark, or the only one.
    pub fn oldest(&self) -> Option<Mark> {
        self.older.or(self.newer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap_or_default()
    }

    #[test]
    fn a_row_that_was_written_lately_tells_the_zone_of_its_time() {
        let hour = 3_600;
        for (behind, expected) in
            [(5 * hour, Some(300)), (hour / 4, Some(15)), (9 * hour + hour / 2, Some(570))]
        {
            for written in [-120, -60, 0] {
                let zone = zone_behind(at(written - behind), at(-120), at(0));
                assert_eq!(zone.map(|zone| zone.num_minutes()), expected, "{behind} {written}");
            }
        }
    }

    #[test]
    fn no_zone_explains_other_times() {
        for behind in [0, 60, 300, 600, 3_600 + 420, 13 * 3_600, 86_400 * 365 * 300] {
            assert_eq!(zone_behind(at(-behind), at(-120), at(0)), None, "{behind}");
        }
    }

    #[test]
    fn the_older_mark_is_between_one_and_two_thresholds_old() {
        let threshold = Duration::from_secs(10);
        let mut marks = Marks::NONE;
        for second in 0..100 {
            let mark = marks.advance(Mark { at: at(second), transaction: second.unsigned_abs() }, threshold);
            let age = (at(second) - mark.at).num_seconds();
            assert!(age < 20 && (age >= 10 || second < 10), "{second} {age}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_begins_anew() {
        let mut marks = Marks::NONE;
        marks.advance(Mark { at: at(100), transaction: 5 }, Duration::from_secs(10));
        let mark = Mark { at: at(0), transaction: 9 };
        assert_eq!(marks.advance(mark, Duration::from_secs(10)), mark);
    }
}
