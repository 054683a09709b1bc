//! Removing rows of workers that are long dead, for the sweeper. Reads with the latest snapshot, and skips rows that
//! another session has locked.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::HeartbeatTable;
use crate::error::Result;
use crate::pg::{self, sql};

impl HeartbeatTable {
    /// The ids of all workers.
    pub fn ids(&self) -> Result<Vec<String>> {
        let statement = self.sql("SELECT h.worker_id::text FROM @table@ h WHERE h.worker_id IS NOT NULL");
        self.as_owner(|| sql::read_latest(&statement, &[], |row| row.required(1, "worker id")))
    }

    /// Of these workers, the ones that have a row. With a horizon, only those with a heartbeat since then.
    pub fn kept(&self, ids: &[String], horizon: Option<DateTime<Utc>>) -> Result<HashSet<String>> {
        let statement = self.sql(&format!(
            "SELECT h.worker_id::text FROM @table@ h WHERE h.worker_id = ANY ($1) AND h.last_heartbeat_at >= {}",
            self.stored("coalesce($2::timestamptz, '-infinity')")
        ));
        let horizon = horizon.and_then(pg::timestamptz);
        let arguments = [ids.to_vec().into(), horizon.into()];
        let kept =
            self.as_owner(|| sql::read_latest(&statement, &arguments, |row| row.required(1, "worker id")))?;
        Ok(kept.into_iter().collect())
    }

    /// Removes the rows of these workers that are older than the horizon and that no session has locked. Returns how
    /// many.
    pub fn prune(&self, ids: &[String], horizon: DateTime<Utc>) -> Result<usize> {
        let statement = self.sql(&format!(
            "WITH old AS MATERIALIZED ( \
                 SELECT h.tableoid AS t, h.ctid AS c FROM @table@ h \
                 WHERE h.worker_id = ANY ($1) AND h.last_heartbeat_at < {} FOR UPDATE SKIP LOCKED) \
             DELETE FROM @table@ h WHERE (h.tableoid, h.ctid) IN (SELECT o.t, o.c FROM old o)",
            self.stored("$2::timestamptz")
        ));
        let arguments = [ids.to_vec().into(), pg::timestamptz(horizon).into()];
        self.as_owner(|| sql::write(&statement, &arguments))
    }
}
