//! Heartbeats of many workers in one statement.

use std::collections::HashSet;

use super::{HeartbeatTable, Result};
use crate::error::Error;
use crate::pg::{arrays, sql};

impl HeartbeatTable {
    /// As [`beat`](Self::beat) for many workers, whose rows are locked in this order, in which no id is twice. Returns
    /// those of which there was no row.
    pub fn beat_all(
        &self,
        ids: &[&str],
        hostname: Option<&str>,
        default_hostname: impl FnOnce() -> Result<Option<String>>,
    ) -> Result<HashSet<String>> {
        let with_rows = if self.is_own { HashSet::new() } else { self.existing(&owned(ids))? };
        let stored = match hostname {
            _ if !self.has_hostname => None,
            None => default_hostname()?.map(|name| self.shortened(&name)),
            Some(name) => Some(self.shortened(name)),
        };
        let (column, value) = if stored.is_some() { (", hostname", ", $2") } else { ("", "") };
        let renewed = match (&stored, hostname) {
            (Some(_), Some(_)) => ", hostname = EXCLUDED.hostname",
            _ => "",
        };
        // An adopted table may be partitioned, and has no such column then.
        let is_new = if self.is_own { "h.xmax OPERATOR(pg_catalog.=) 0" } else { "NULL::boolean" };
        let now = self.stored("pg_catalog.clock_timestamp()");
        let statement = self.sql(&format!(
            "INSERT INTO @table@ AS h (worker_id, last_heartbeat_at{column}) \
             SELECT u.id, {now}{value} FROM unnest($1::text[]) AS u (id) \
             ON CONFLICT (worker_id) DO UPDATE SET last_heartbeat_at = {now}{renewed} \
             RETURNING h.worker_id::text, {is_new}"
        ));
        let arguments = [arrays::texts(ids.iter().copied()), stored.into()];
        let read = |row: sql::Row<'_>| {
            let id: String = row.required(1, "worker id")?;
            let is_new = row.optional(2)?.unwrap_or_else(|| !with_rows.contains(&id));
            Ok((id, is_new))
        };
        let written: Vec<(String, bool)> =
            self.as_owner(|| sql::write_returning(&statement, &arguments, read))?;
        if written.len() < ids.len() {
            return Err(Error::NotWritten { table: self.name.clone() });
        }
        Ok(written.into_iter().filter_map(|(id, is_new)| is_new.then_some(id)).collect())
    }
}

fn owned(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}
