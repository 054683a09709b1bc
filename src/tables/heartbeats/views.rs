//! What the views and health checks read from the rows. With the caller's snapshot, and nothing is locked.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::{HeartbeatTable, Worker, worker};
use crate::error::Result;
use crate::pg::{self, arrays, sql};

impl HeartbeatTable {
    /// All workers, in the order of their ids.
    pub fn all(&self) -> Result<Vec<Worker>> {
        let statement = self.sql(
            "SELECT @columns@ FROM @table@ h \
             WHERE h.worker_id IS NOT NULL AND h.last_heartbeat_at IS NOT NULL ORDER BY h.worker_id",
        );
        self.as_owner(|| sql::read(&statement, &[], worker))
    }

    /// Of these workers, the ones that have a row, in the order of their ids.
    pub fn rows_of(&self, ids: &[String]) -> Result<Vec<Worker>> {
        let statement =
            self.sql("SELECT @columns@ FROM @table@ h WHERE h.worker_id = ANY ($1) ORDER BY h.worker_id");
        self.as_owner(|| sql::read(&statement, &[arrays::of(ids)], worker))
    }

    /// Of these workers, the ones that have a row, by the caller's snapshot.
    pub fn existing(&self, ids: &[String]) -> Result<HashSet<String>> {
        let statement = self.sql("SELECT h.worker_id::text FROM @table@ h WHERE h.worker_id = ANY ($1)");
        let arguments = [ids.to_vec().into()];
        let found =
            self.as_owner(|| sql::read(&statement, &arguments, |row| row.required(1, "worker id")))?;
        Ok(found.into_iter().collect())
    }

    /// How many workers have a heartbeat later than this time in their row, and one of them.
    pub fn heard_after(&self, time: DateTime<Utc>) -> Result<(i64, Option<String>)> {
        let statement = self.sql(&format!(
            "SELECT pg_catalog.count(*), pg_catalog.min(h.worker_id)::text FROM @table@ h \
             WHERE h.last_heartbeat_at > {}",
            self.stored("$1::timestamptz")
        ));
        let time = [pg::timestamptz(time).into()];
        let found = self.as_owner(|| {
            sql::read(&statement, &time, |row| Ok((row.required(1, "count")?, row.optional(2)?)))
        })?;
        Ok(found.into_iter().next().unwrap_or((0, None)))
    }

    /// The transactions that locked or changed the rows of these workers last; many are over.
    pub fn lockers(&self, ids: &[String]) -> Result<Vec<String>> {
        let statement =
            self.sql("SELECT h.xmax::text FROM @table@ h WHERE h.worker_id = ANY ($1) AND h.xmax <> 0");
        let arguments = [ids.to_vec().into()];
        self.as_owner(|| sql::read(&statement, &arguments, |row| row.required(1, "transaction")))
    }

    /// The default of the time of heartbeats, if it is the local time of whoever uses it.
    pub fn local_default(&self) -> Result<Option<String>> {
        let statement = "SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d \
             JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) d.adrelid \
              AND a.attnum OPERATOR(pg_catalog.=) d.adnum \
             WHERE d.adrelid OPERATOR(pg_catalog.=) $1 AND a.attname OPERATOR(pg_catalog.=) 'last_heartbeat_at'";
        let defaults: Vec<String> =
            sql::read(statement, &[self.oid.into()], |row| row.required(1, "default"))?;
        Ok(defaults.into_iter().next().filter(|default| !self.has_time_zone && is_local_time(default)))
    }

    /// The expression for this moment as the table stores it.
    pub fn current_time(&self) -> String {
        self.stored("now()")
    }
}

/// Whether an expression is a time of now that is not converted from one zone to another.
fn is_local_time(expression: &str) -> bool {
    let expression = expression.to_ascii_lowercase();
    let clocks = ["now()", "current_timestamp", "localtimestamp", "_timestamp()"];
    let is_converted = ["at time zone", "timezone("].iter().any(|word| expression.contains(word));
    clocks.iter().any(|clock| expression.contains(clock)) && !is_converted
}
