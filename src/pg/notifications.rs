//! Notifications that this transaction sends when it commits.

use super::{arrays, sql};
use crate::error::Result;

/// Above this share of PostgreSQL's queue no notification should be sent. A full queue would fail the commit, and with
/// it the death; any role can fill it by listening in a transaction that does not end.
pub const FULL: f64 = 0.9;

/// Bytes that a payload may have; PostgreSQL takes fewer than 8,000.
pub const PAYLOAD_LIMIT: usize = 7_999;

/// Bytes that a channel's name may have.
pub const CHANNEL_LIMIT: usize = 63;

/// How full the queue of notifications is, of the whole server: from 0 to 1.
pub fn queue_usage() -> Result<f64> {
    let usage =
        sql::read("SELECT pg_catalog.pg_notification_queue_usage()", &[], |row| row.required(1, "usage"))?;
    Ok(usage.first().copied().unwrap_or(0.0))
}

/// Whether PostgreSQL's queue has room for notifications.
pub fn has_room() -> Result<bool> {
    Ok(queue_usage()? <= FULL)
}

/// Sends notifications in this order. Of two that are the same, PostgreSQL delivers one.
pub fn send(channel: &str, payloads: &[String]) -> Result<()> {
    let statement = sql::SavedPlan::new("SELECT pg_catalog.count(pg_catalog.pg_notify($1, p.payload)) FROM pg_catalog.unnest($2) AS p (payload)"
            .into());
    statement.read(&[channel.into(), arrays::of(payloads)], |_| Ok(()))?;
    Ok(())
}
