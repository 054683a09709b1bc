//! Rows of many workers in one statement.

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
        let stored = self.stored_hostname(hostname, default_hostname)?;
        let (column, value) = if stored.is_some() { (", hostname", ", $2") } else { ("", "") };
        let renewed = match (&stored, hostname) {
            (Some(_), Some(_)) => ", hostname = EXCLUDED.hostname",
            _ => "",
        };
        // An adopted table may be partitioned, and has no such column then.
        let is_new = if self.is_own { "h.xmax OPERATOR(pg_catalog.=) 0" } else { "NULL::boolean" };
        let now = self.stored("pg_catalog.clock_timestamp()");
        let statement = self.sql(&format!(
            "WITH written AS ( \
                 INSERT INTO @table@ AS h (worker_id, last_heartbeat_at{column}) \
                 SELECT u.id, {now}{value} FROM unnest($1::text[]) AS u (id) \
                 ON CONFLICT (worker_id) DO UPDATE SET last_heartbeat_at = {now}{renewed} \
                 RETURNING h.worker_id::text AS id, {is_new} AS is_new) \
             SELECT pg_catalog.count(*), pg_catalog.array_agg(w.id) FILTER (WHERE w.is_new) FROM written w"
        ));
        let (written, new) = self.write_all_of(&statement, ids, stored)?;
        if written < ids.len() {
            return Err(Error::NotWritten { table: self.name.clone() });
        }
        match self.is_own {
            true => Ok(new),
            false => Ok(owned(ids).into_iter().filter(|id| !with_rows.contains(id)).collect()),
        }
    }

    /// Makes the rows of those of these workers who have none, and locks those of the others, in this order, in which
    /// no id is twice. Returns those of which there was no row.
    pub fn insert_all(
        &self,
        ids: &[&str],
        hostname: Option<&str>,
        default_hostname: impl FnOnce() -> Result<Option<String>>,
    ) -> Result<HashSet<String>> {
        let stored = self.stored_hostname(hostname, default_hostname)?;
        let (column, value) = if stored.is_some() { (", hostname", ", $2") } else { ("", "") };
        // A row that is there is locked, and not changed.
        let statement = self.sql(&format!(
            "WITH new AS ( \
                 INSERT INTO @table@ AS h (worker_id, last_heartbeat_at{column}) \
                 SELECT u.id, {}{value} FROM unnest($1::text[]) AS u (id) \
                 ON CONFLICT (worker_id) DO UPDATE SET last_heartbeat_at = h.last_heartbeat_at WHERE false \
                 RETURNING h.worker_id::text AS id) \
             SELECT pg_catalog.count(*), pg_catalog.array_agg(n.id) FROM new n",
            self.stored("pg_catalog.clock_timestamp()")
        ));
        Ok(self.write_all_of(&statement, ids, stored)?.1)
    }

    /// Runs a statement that returns how many rows it has written, and an array of ids: one row for all is read sooner
    /// than one for each.
    fn write_all_of(
        &self,
        statement: &str,
        ids: &[&str],
        hostname: Option<String>,
    ) -> Result<(usize, HashSet<String>)> {
        let arguments = [arrays::texts(ids.iter().copied()), hostname.into()];
        let read = |row: sql::Row<'_>| {
            let (count, ids): (i64, Option<Vec<String>>) = (row.required(1, "count")?, row.optional(2)?);
            Ok((usize::try_from(count).unwrap_or(0), ids.into_iter().flatten().collect()))
        };
        let written = self.as_owner(|| sql::write_returning(statement, &arguments, read))?;
        written.into_iter().next().ok_or(Error::MissingValue("count"))
    }
}

fn owned(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}
