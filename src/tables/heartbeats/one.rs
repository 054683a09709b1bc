//! The row of one worker is written, by its own call.

use super::{HeartbeatTable, Result};
use crate::error::Error;
use crate::pg::sql;

impl HeartbeatTable {
    /// Writes a heartbeat of a worker to its row. Waits for a sweep that has locked the row. Without a hostname the
    /// stored one stays, and a new row gets `default_hostname`. Without that, it gets the column's default. Returns
    /// whether there was a row.
    pub fn beat(
        &self,
        id: &str,
        hostname: Option<&str>,
        default_hostname: impl FnOnce() -> Result<Option<String>>,
    ) -> Result<bool> {
        let now = self.stored("pg_catalog.clock_timestamp()");
        let hostname = hostname.filter(|_| self.has_hostname).map(|name| self.shortened(name));
        let renewal = |hostname_is: &str| match &hostname {
            Some(_) => format!("UPDATE SET last_heartbeat_at = {now}, hostname = {hostname_is}"),
            None => format!("UPDATE SET last_heartbeat_at = {now}"),
        };
        let update = renewal("$2").replacen("UPDATE", "UPDATE @table@ h", 1);
        let update = sql::SavedPlan::new(self.sql(&format!("{update} WHERE h.worker_id = $1")));
        if self.as_owner(|| update.write(&[id.into(), hostname.as_deref().into()]))? > 0 {
            return Ok(true);
        }
        let on_conflict = renewal("EXCLUDED.hostname");
        match self.insert_or(&on_conflict, id, hostname.as_deref(), default_hostname)? {
            0 => {
                update.forget();
                Err(Error::NotWritten { table: self.name.clone() })
            }
            _ => Ok(false),
        }
    }

    /// Inserts the row of a new worker; false when there is one already. Waits for a transaction that is inserting it.
    pub fn insert(
        &self,
        id: &str,
        hostname: Option<&str>,
        default_hostname: impl FnOnce() -> Result<Option<String>>,
    ) -> Result<bool> {
        Ok(self.insert_or("NOTHING", id, hostname, default_hostname)? == 1)
    }

    fn insert_or(
        &self,
        on_conflict: &str,
        id: &str,
        hostname: Option<&str>,
        default_hostname: impl FnOnce() -> Result<Option<String>>,
    ) -> Result<usize> {
        let hostname = self.stored_hostname(hostname, default_hostname)?;
        let (column, value) = if hostname.is_some() { (", hostname", ", $2") } else { ("", "") };
        let now = self.stored("pg_catalog.clock_timestamp()");
        let statement = self.sql(&format!(
            "INSERT INTO @table@ AS h (worker_id, last_heartbeat_at{column}) VALUES ($1, {now}{value}) \
             ON CONFLICT (worker_id) DO {on_conflict}"
        ));
        // A parameter that the statement does not use is allowed.
        let statement = sql::SavedPlan::new(statement);
        let count = self.as_owner(|| statement.write(&[id.into(), hostname.into()]))?;
        if count == 0 {
            statement.forget();
        }
        Ok(count)
    }

    /// What a new row has as its hostname.
    pub(super) fn stored_hostname(
        &self,
        hostname: Option<&str>,
        default_hostname: impl FnOnce() -> Result<Option<String>>,
    ) -> Result<Option<String>> {
        Ok(match hostname {
            _ if !self.has_hostname => None,
            None => default_hostname()?.map(|name| self.shortened(&name)),
            Some(name) => Some(self.shortened(name)),
        })
    }

    /// As much of a hostname as its column holds.
    fn shortened(&self, hostname: &str) -> String {
        hostname.chars().take(self.hostname_limit).collect()
    }
}
