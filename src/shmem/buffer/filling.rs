//! Filling memory from rows, after a start.

use chrono::{DateTime, Utc};
use pgrx::pg_sys;

use super::table::{ANY_HOST, ANY_ROLE, Entry, Filled, Generations};
use super::{key, table};
use crate::pg;

/// What a row says of the host.
#[derive(Clone, Copy)]
pub enum Hostname<'a> {
    /// The worker is there, or has never named one.
    Known(Option<&'a str>),
    /// The table has no such column.
    NotKept,
}

/// A living worker, as its row, the ledger and the owners of ids have it.
pub struct Living<'a> {
    /// Its id.
    pub id: &'a str,
    /// The hostname in its row.
    pub hostname: Hostname<'a>,
    /// The heartbeat in its row.
    pub beat_at: DateTime<Utc>,
    /// What a heartbeat returns.
    pub incarnation: i64,
    /// The role that its id belongs to; without one it is every role's.
    pub owner: Option<pg_sys::Oid>,
}

/// Workers of the current database that get entries; begun before their rows are looked at.
pub struct Filling(Generations);

impl Filling {
    /// `None` where there is no shared memory.
    pub fn begin() -> Option<Self> {
        table().map(|table| Self(table.generations()))
    }

    /// Makes an entry for a worker that has none, unless it may have been given up since this was begun.
    pub fn add(&self, worker: &Living<'_>) -> Filled {
        // A worker with too long an id has no entry after a heartbeat, either.
        let Some((table, key)) = table().zip(key(worker.id)) else { return Filled::Left };
        let entry = Entry {
            beat_at: pg::to_postgres(worker.beat_at),
            incarnation: worker.incarnation,
            hostname: match worker.hostname {
                Hostname::Known(hostname) => hostname.map_or(0, |hostname| table.hash_hostname(hostname)),
                Hostname::NotKept => ANY_HOST,
            },
            owner: worker.owner.map_or(ANY_ROLE, pg_sys::Oid::to_u32),
        };
        table.fill(&key, &entry, &self.0)
    }
}

/// Counts a worker for which there was no room, so that the log and the check of the buffer tell of it.
pub fn refuse() {
    if let Some(table) = table() {
        table.refuse();
    }
}
