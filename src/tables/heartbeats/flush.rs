//! Writing heartbeats from memory to their rows, for the sweeper.

use std::collections::HashSet;
use std::ffi::CStr;

use pgrx::datum::DatumWithOid;

use super::HeartbeatTable;
use crate::error::Result;
use crate::pg::{arrays, sql};
use crate::shmem::buffer::table::PendingHeartbeat;

impl HeartbeatTable {
    /// Writes heartbeats that were kept in memory, and gives up when another session has locked one of the rows. Newer
    /// rows stay. Rows ahead of the clock do not: only a clock that was set can explain them. Returns the number of
    /// rows written.
    pub fn write_all(&self, beats: &Beats) -> Result<usize> {
        let statement = self.sql(&format!(
            "UPDATE @table@ h SET last_heartbeat_at = {at} \
             FROM unnest($1::text[], $2::timestamptz[]) AS b (id, at) \
             WHERE h.worker_id = b.id AND (h.last_heartbeat_at < {at} OR h.last_heartbeat_at > {now})",
            at = self.stored("b.at"),
            now = self.stored("pg_catalog.clock_timestamp()"),
        ));
        self.by_keys(c"50ms", || sql::write(&statement, &beats.arrays()))
    }

    /// Writes heartbeats to the rows that no other session has locked.
    pub fn write_unlocked(&self, beats: &Beats) -> Result<usize> {
        let statement = self.sql(&format!(
            "WITH unlocked AS MATERIALIZED ( \
                 SELECT h.tableoid AS t, h.ctid AS c, b.at \
                 FROM unnest($1::text[], $2::timestamptz[]) AS b (id, at) JOIN @table@ h ON h.worker_id = b.id \
                 WHERE h.last_heartbeat_at < {at} FOR NO KEY UPDATE OF h SKIP LOCKED) \
             UPDATE @table@ h SET last_heartbeat_at = {written} FROM unlocked u \
             WHERE h.ctid = u.c AND h.tableoid = u.t",
            at = self.stored("b.at"),
            written = self.stored("u.at"),
        ));
        self.by_keys(c"1s", || sql::write(&statement, &beats.arrays()))
    }

    /// The workers of these heartbeats whose rows are still older, and those that have no row.
    pub fn unwritten(&self, beats: &Beats) -> Result<(HashSet<String>, HashSet<String>)> {
        let statement = self.sql(&format!(
            "SELECT b.id, h.worker_id IS NULL \
             FROM unnest($1::text[], $2::timestamptz[]) AS b (id, at) LEFT JOIN @table@ h ON h.worker_id = b.id \
             WHERE h.worker_id IS NULL OR h.last_heartbeat_at < {}",
            self.stored("b.at"),
        ));
        let rows: Vec<(String, bool)> = self.by_keys(c"1s", || {
            sql::read_latest(&statement, &beats.arrays(), |row| {
                Ok((row.required(1, "worker id")?, row.required(2, "absence")?))
            })
        })?;
        let (gone, left): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, gone)| *gone);
        let ids = |rows: Vec<(String, bool)>| rows.into_iter().map(|(id, _)| id).collect();
        Ok((ids(left), ids(gone)))
    }

    fn by_keys<T>(&self, lock_timeout: &'static CStr, work: impl FnOnce() -> T) -> T {
        self.scope().by_keys().lock_timeout(lock_timeout).run(work)
    }
}

/// Heartbeats that were kept in memory: ids and times, as `unnest` takes them.
pub struct Beats {
    ids: Vec<String>,
    /// In Postgres' microseconds.
    times: Vec<i64>,
}

impl Beats {
    /// Reads the ids.
    pub fn new(heartbeats: &[PendingHeartbeat]) -> Self {
        Self {
            ids: heartbeats.iter().map(|heartbeat| heartbeat.key.id()).collect(),
            times: heartbeats.iter().map(|heartbeat| heartbeat.beat_at).collect(),
        }
    }

    fn arrays(&self) -> [DatumWithOid<'static>; 2] {
        [arrays::of(&self.ids), arrays::timestamps(self.times.iter().copied())]
    }
}
