//! The rows of `worker_heartbeats`, one a worker: the extension's own table or an adopted one.
//!
//! An adopted table belongs to another role, which may alter it at any time. So it is looked up again in each
//! transaction, and every statement on it runs with its owner's rights.

use std::cmp::min;
use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::remembered::Remembered;
use crate::pg::scope::Scope;
use crate::pg::{self, arrays, catalog, row_versions, sql};
use crate::shmem::buffer;
use crate::tables::inheritance;

mod filling;
mod flush;
mod many;
mod one;
mod prune;
mod views;

pub use filling::Storage;
pub use flush::Beats;

/// Characters that a worker id may have in the extension's own table.
const ID_LIMIT: usize = 255;

/// Characters of a hostname that are stored; a DNS name has at most 253.
const HOSTNAME_LIMIT: usize = 255;

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Worker {
    /// The worker's id.
    pub id: String,
    /// The host that it named or that it was seen on; always `None` in a table without that column.
    pub hostname: Option<String>,
    /// When it sent its last heartbeat, by the server's clock.
    pub last_heartbeat_at: DateTime<Utc>,
}

impl Worker {
    /// Takes over the heartbeat in memory if it is newer than that of the row.
    pub fn renew(&mut self) {
        if let Some(beat_at) = buffer::beat_at(&self.id) {
            self.last_heartbeat_at = self.last_heartbeat_at.max(beat_at);
        }
    }
}

/// The table, with what differs between the extension's own and an adopted one.
#[derive(Clone, Debug)]
pub struct HeartbeatTable {
    /// The qualified, quoted name.
    pub name: String,
    /// Statements name this relation.
    pub oid: pg_sys::Oid,
    /// Statements run as this role.
    pub owner: pg_sys::Oid,
    /// Whether it is the extension's own, and not adopted.
    pub is_own: bool,
    /// Whether times are stored with a time zone; without one they are UTC.
    pub has_time_zone: bool,
    /// Whether there is a column for the hostname.
    pub has_hostname: bool,
    /// Characters that fit in it.
    hostname_limit: usize,
    /// Characters that fit in the column of the worker's id.
    pub id_limit: usize,
}

thread_local! {
    static OPENED: Remembered<HeartbeatTable> = const { Remembered::nothing() };
}

impl HeartbeatTable {
    /// Looks the table up and checks that it can be used.
    ///
    /// # Errors
    ///
    /// When it was dropped, replaced by something that is no table, or lost a column.
    pub fn open(installation: &Installation) -> Result<Self> {
        let found =
            OPENED.with(|opened| opened.or_find(installation.schema, || Self::look_up(installation)))?;
        Ok(Self { is_own: installation.has(found.oid), ..found })
    }

    /// What changes only with relations, and whether that is all: parts of the table may get other owners with other
    /// rights.
    fn look_up(installation: &Installation) -> Result<(Self, bool)> {
        let name = installation.sql("@extschema@.worker_heartbeats");
        let Some(relation) = catalog::relation_named(installation.schema, "worker_heartbeats") else {
            return Err(Error::NoHeartbeatTable { table: name });
        };
        if ![pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE].contains(&relation.kind) {
            return Err(Error::NotATable { table: name });
        }
        inheritance::check_owners(&relation, &name)?;
        let column = |column: &str| {
            catalog::column(relation.oid, column)
                .ok_or_else(|| Error::UndefinedColumn { table: name.clone(), column: column.to_owned() })
        };
        let id = column("worker_id")?;
        let has_time_zone = match column("last_heartbeat_at")?.type_oid {
            pg_sys::TIMESTAMPTZOID => true,
            pg_sys::TIMESTAMPOID => false,
            _ => {
                return Err(Error::ColumnType {
                    table: name,
                    column: "last_heartbeat_at".into(),
                    wanted: "timestamp with or without time zone",
                });
            }
        };
        let table = Self {
            oid: relation.oid,
            owner: relation.owner,
            is_own: false,
            has_time_zone,
            has_hostname: column("hostname").is_ok(),
            hostname_limit: column("hostname")
                .ok()
                .and_then(|column| column.character_limit())
                .map_or(HOSTNAME_LIMIT, |limit| min(limit, HOSTNAME_LIMIT)),
            id_limit: id.character_limit().map_or(ID_LIMIT, |limit| min(limit, ID_LIMIT)),
            name,
        };
        Ok((table, !relation.has_children))
    }

    /// Locks a worker's row, waiting for the session that has it locked, and reads row and memory; `None` without a
    /// row.
    pub fn lock(&self, id: &str) -> Result<Option<Worker>> {
        let statement = self.sql("SELECT @columns@ FROM @table@ h WHERE h.worker_id = $1 FOR NO KEY UPDATE");
        let mut rows = self.as_owner(|| sql::write_returning(&statement, &[id.into()], worker))?;
        rows.iter_mut().for_each(Worker::renew);
        Ok(rows.into_iter().next())
    }

    /// Removes a worker's row.
    pub fn delete(&self, id: &str) -> Result<()> {
        let statement = self.sql("DELETE FROM @table@ h WHERE h.worker_id = $1");
        match self.as_owner(|| sql::write(&statement, &[id.into()]))? {
            0 => Err(Error::NotWritten { table: self.name.clone() }),
            _ => Ok(()),
        }
    }

    /// The workers whose last heartbeat is before `cutoff`, without those in `except`, in the order of their ids.
    pub fn silent_since(&self, cutoff: DateTime<Utc>, except: &[String]) -> Result<Vec<Worker>> {
        let statement = self.sql(&format!(
            "SELECT @columns@ FROM @table@ h \
             WHERE h.last_heartbeat_at < {} AND h.worker_id <> ALL ($2) AND h.worker_id IS NOT NULL \
             ORDER BY h.worker_id",
            self.stored("$1::timestamptz")
        ));
        let arguments = [pg::timestamptz(cutoff).into(), arrays::of(except)];
        self.as_owner(|| sql::read(&statement, &arguments, worker))
    }

    /// The workers whose last heartbeat is before `cutoff`, without those in `except`, and all whose last heartbeat is
    /// later than `limit`, in the order of their ids. Without a cutoff only the latter.
    pub fn silent_or_ahead(
        &self,
        cutoff: Option<DateTime<Utc>>,
        except: &[String],
        limit: DateTime<Utc>,
    ) -> Result<Vec<Worker>> {
        let statement = self.sql(&format!(
            "SELECT @columns@ FROM @table@ h \
             WHERE (h.last_heartbeat_at < {} AND h.worker_id <> ALL ($2) OR h.last_heartbeat_at > {}) \
               AND h.worker_id IS NOT NULL \
             ORDER BY h.worker_id",
            self.stored("$1::timestamptz"),
            self.stored("$3::timestamptz"),
        ));
        let arguments =
            [cutoff.and_then(pg::timestamptz).into(), arrays::of(except), pg::timestamptz(limit).into()];
        self.as_owner(|| sql::read(&statement, &arguments, worker))
    }

    /// How many workers have a row, without those in `except`.
    pub fn count(&self, except: &[String]) -> Result<usize> {
        let statement = self.sql("SELECT pg_catalog.count(*) FROM @table@ h WHERE h.worker_id <> ALL ($1)");
        let counts: Vec<i64> =
            self.as_owner(|| sql::read(&statement, &[arrays::of(except)], |row| row.required(1, "count")))?;
        Ok(counts.first().and_then(|count| usize::try_from(*count).ok()).unwrap_or(0))
    }

    /// Sets the rows of these workers that are later than `limit` to `now`. Rows that another session has locked stay.
    pub fn clamp_to_now(&self, ids: &[String], limit: DateTime<Utc>, now: DateTime<Utc>) -> Result<()> {
        let statement = self.sql(&format!(
            "WITH unlocked AS MATERIALIZED ( \
                 SELECT h.tableoid AS t, h.ctid AS c FROM @table@ h \
                 WHERE h.worker_id = ANY ($1) AND h.last_heartbeat_at > {} \
                 ORDER BY h.worker_id FOR NO KEY UPDATE SKIP LOCKED) \
             UPDATE @table@ h SET last_heartbeat_at = {} FROM unlocked u WHERE h.ctid = u.c AND h.tableoid = u.t",
            self.stored("$2::timestamptz"),
            self.stored("$3::timestamptz"),
        ));
        let arguments = [ids.to_vec().into(), pg::timestamptz(limit).into(), pg::timestamptz(now).into()];
        self.as_owner(|| sql::write(&statement, &arguments))?;
        Ok(())
    }

    /// Locks and reads those of these workers' rows that are older than `cutoff` and that no other session has locked.
    pub fn lock_silent(&self, ids: &[String], cutoff: DateTime<Utc>) -> Result<Vec<Worker>> {
        let statement = self.sql(&format!(
            "SELECT @columns@ FROM @table@ h \
             WHERE h.worker_id = ANY ($1) AND h.last_heartbeat_at < {} \
             ORDER BY h.worker_id FOR NO KEY UPDATE SKIP LOCKED",
            self.stored("$2::timestamptz")
        ));
        let arguments = [arrays::of(ids), pg::timestamptz(cutoff).into()];
        self.scope().in_memory().run(|| sql::write_returning(&statement, &arguments, worker))
    }

    /// Of these dead workers, as they were when they were given up, the ones with a later heartbeat that is not older
    /// than `cutoff`.
    pub fn heard_since(&self, cutoff: DateTime<Utc>, dead: &[Worker]) -> Result<Vec<Worker>> {
        let statement = self.sql(&format!(
            "SELECT @columns@ FROM unnest($1::text[]) AS d (id) JOIN @table@ h ON h.worker_id = d.id \
             WHERE h.last_heartbeat_at >= {}",
            self.stored("$2::timestamptz"),
        ));
        let ids = arrays::texts(dead.iter().map(|worker| worker.id.as_str()));
        let arguments = [ids, pg::timestamptz(cutoff).into()];
        let mut heard = self.scope().in_memory().run(|| sql::read(&statement, &arguments, worker))?;
        let died: HashMap<&str, DateTime<Utc>> =
            dead.iter().map(|worker| (worker.id.as_str(), worker.last_heartbeat_at)).collect();
        heard.retain(|worker| died.get(worker.id.as_str()).is_some_and(|at| worker.last_heartbeat_at > *at));
        Ok(heard)
    }

    /// Of these workers, the ones whose rows were written by this transaction or a later one.
    pub fn written_since(&self, ids: &[String], transaction: u64) -> Result<HashSet<String>> {
        let statement = self.sql(&format!(
            "SELECT h.worker_id::text FROM @table@ h WHERE h.worker_id = ANY ($1) AND {}",
            row_versions::is_since("h", transaction)
        ));
        let read = || sql::read(&statement, &[arrays::of(ids)], |row| row.required(1, "worker id"));
        Ok(self.scope().in_memory().run(read)?.into_iter().collect())
    }

    fn scope(&self) -> Scope<'_> {
        Scope::of(self.owner, std::slice::from_ref(&self.oid)).guarded(self.is_own)
    }

    fn as_owner<T>(&self, work: impl FnOnce() -> T) -> T {
        self.scope().run(work)
    }

    /// The expression for a time as the table stores it.
    fn stored(&self, timestamptz: &str) -> String {
        match self.has_time_zone {
            true => timestamptz.to_owned(),
            false => format!("({timestamptz} AT TIME ZONE 'UTC')"),
        }
    }

    /// A statement with the table in the place of `@table@`, and what [`worker`] reads in that of `@columns@`.
    fn sql(&self, statement: &str) -> String {
        let hostname = if self.has_hostname { "h.hostname::text" } else { "NULL::text" };
        let time = match self.has_time_zone {
            true => "h.last_heartbeat_at",
            false => "(h.last_heartbeat_at AT TIME ZONE 'UTC')",
        };
        let columns = format!("h.worker_id::text, {hostname}, {time}");
        statement.replace("@columns@", &columns).replace("@table@", &self.name)
    }
}

/// Reads the columns that `@columns@` stands for.
fn worker(row: sql::Row<'_>) -> Result<Worker> {
    Ok(Worker {
        id: row.required(1, "worker id")?,
        hostname: row.optional(2)?,
        last_heartbeat_at: pg::time_of(row.required(3, "last heartbeat")?),
    })
}
