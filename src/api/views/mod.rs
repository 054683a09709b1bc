//! What operators read through the views: the workers, the numbers of each database, and what could not be done.
//! [`crate::api::health`] says what is wrong and how to fix it.

pub mod attached;
pub mod problems;
pub mod statistics;
pub mod workers;

use std::time::Duration;

use chrono::{DateTime, Utc};
use pgrx::datum::TimestampWithTimeZone;

use crate::pg;

/// Seconds, from whole microseconds: otherwise the last digits are noise.
#[allow(clippy::cast_precision_loss, reason = "exact for 285 years")]
fn seconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e6
}

fn time(time: Option<DateTime<Utc>>) -> Option<TimestampWithTimeZone> {
    time.and_then(pg::timestamptz)
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
