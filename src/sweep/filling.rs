//! Memory is filled from the rows of the living before anybody is judged: after a start, a promotion, `CREATE
//! EXTENSION` and an update, by the first sweeper. Otherwise the next heartbeat of each worker would write its row, and
//! with many workers the server could not hear all of them within the threshold.
//!
//! An open entry must never wrongly say that a worker is alive with a number. Whoever ends a worker's life locks its
//! row, then closes its entry, which increments the generation of its partition, and then commits. No row is locked
//! here, so a part of the table is read in this order:
//!
//! 1. the generations are noted;
//! 2. places of rows are found that a transaction which has not ended has locked or replaced;
//! 3. the other rows are read;
//! 4. the ledger, the numbers and the owners are read, with a later snapshot;
//! 5. entries are added where there is none and the generation is still the same.
//!
//! The end of a life that closed the entry after 1 has changed the generation, or finds the entry and closes it. One
//! that closed it before 1 had locked the row before that. Either it was still open at 2, and the row is left out; or
//! it has committed before 3 or before 4, and the row is gone, or the ledger has the death or the next number. Rows and
//! numbers of the dead are pruned under the exclusive lock on the numbers, and this holds their share lock from before
//! 1 on.
//!
//! Each part is a transaction, which waits for no lock and holds those of a reader for some milliseconds. Heartbeats
//! that come meanwhile wait a little for their entries: they would take the processors away that fill memory for all of
//! them. Then they go to their rows and make entries of their own.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::locks::TableLock;
use crate::pg::{self, process, report, scope, version};
use crate::settings;
use crate::shmem::buffer::filling::{Filling, Hostname, Living, refuse};
use crate::shmem::buffer::table::Filled;
use crate::shmem::observation;
use crate::tables::heartbeats::{HeartbeatTable, Storage, Worker};
use crate::tables::incarnations;
use crate::tables::known::{Known, known};

/// Pages that are read in one transaction: some thousands of rows.
const PAGES: u32 = 128;

/// How often a part is tried again whose table, or whose numbers, another session has locked: 20 ms apart.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// How filling a part ended.
enum Part {
    /// There are more. Where the next one begins, and how many workers have got an entry.
    Next(u32, u64),
    /// It was the last.
    Last(u64),
    /// There is no room for more.
    Full(u64),
    /// Another session has a lock.
    Locked,
    /// The rows cannot be read in this way.
    Elsewhere(String),
    /// The extension is gone, or of another version.
    Gone,
}

/// Fills memory from the rows of the current database, if that is to be done.
pub fn fill() -> Result<()> {
    if !observation::is_cold() {
        return Ok(());
    }
    process::report_activity("filling memory");
    observation::being_filled(fill_all)
}

fn fill_all() -> Result<()> {
    let began = Instant::now();
    let (mut begin, mut workers) = (0, 0);
    let end = loop {
        match part(begin)? {
            Part::Next(next, count) => (begin, workers) = (next, workers + count),
            Part::Last(count) | Part::Full(count) => break workers + count,
            Part::Elsewhere(table) => {
                report::log(&format!(
                    "memory is not filled from table {table}: not all of it is stored in this database"
                ));
                break workers;
            }
            Part::Locked => return scope::transaction(locked),
            Part::Gone => return Ok(()),
        }
    };
    observation::warmed(pg::now(), end > 0);
    if end > 0 {
        let took = began.elapsed().as_millis();
        report::log(&format!("filled memory with {end} workers in {took} ms; silence counts from now on"));
    }
    Ok(())
}

/// Fills memory from a part of the rows.
fn part(begin: u32) -> Result<Part> {
    for _ in 0..ATTEMPTS {
        match scope::transaction(|| try_part(begin))? {
            Part::Locked => process::delay(PAUSE, version::wait_event(c"RgridHeartbeatFillDelay")),
            part => return Ok(part),
        }
    }
    Ok(Part::Locked)
}

/// Names the table that another session has locked; if none is by now, the next round tries again.
fn locked() -> Result<()> {
    let Some(installation) = Installation::find()? else { return Ok(()) };
    match installation.locked_table()? {
        Some(TableLock { table, pid, mode }) => Err(Error::OwnTableLocked { table, pid, mode }),
        None => Ok(()),
    }
}

fn try_part(begin: u32) -> Result<Part> {
    let installation = Installation::find()?.filter(|installation| !installation.is_foreign());
    let Some((installation, filling)) = installation.zip(Filling::begin()) else { return Ok(Part::Gone) };
    if settings::max_workers() == 0 {
        return Ok(Part::Last(0));
    }
    let heartbeats = HeartbeatTable::open(&installation)?;
    let stored = match heartbeats.storage()? {
        Storage::Here(stored) if incarnations::try_lock_for_reading(&installation) => stored,
        Storage::Here(_) | Storage::Locked => return Ok(Part::Locked),
        Storage::Elsewhere => return Ok(Part::Elsewhere(heartbeats.name)),
    };
    let tables = u32::try_from(stored.count()).unwrap_or(u32::MAX);
    let end = begin.saturating_add((PAGES / tables.max(1)).max(1));
    let locked = stored.locked(&(begin..end));
    let rows = heartbeats.rows_on(&(begin..end), &locked)?;
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    if !ids.is_empty() {
        // Nobody may need a number for long, and the moment from which the database went on is to be known.
        incarnations::raise_base(&installation)?;
    }
    let known = if ids.is_empty() { Vec::new() } else { known(&installation, &ids, None)? };
    let mut count = 0;
    for worker in rows.iter().zip(&known).filter_map(|(row, known)| living(row, known, &heartbeats)) {
        match filling.add(&worker) {
            Filled::Added => count += 1,
            Filled::Left => {}
            Filled::NoRoom => {
                refuse();
                return Ok(Part::Full(count));
            }
        }
    }
    Ok(if end < stored.pages() { Part::Next(end, count) } else { Part::Last(count) })
}

/// What memory is to have of a worker; `None` of one that is dead, has no valid number, or has no owner although it
/// needs one: the first role that uses its id will be.
fn living<'a>(row: &'a Worker, known: &Known, heartbeats: &HeartbeatTable) -> Option<Living<'a>> {
    let incarnation = known.number.unwrap_or(1);
    let is_valid = !known.dead && (1..=incarnations::HIGHEST).contains(&incarnation);
    if !is_valid || heartbeats.is_own && known.owner.is_none() {
        return None;
    }
    Some(Living {
        id: &row.id,
        hostname: match heartbeats.has_hostname {
            true => Hostname::Known(row.hostname.as_deref()),
            false => Hostname::NotKept,
        },
        beat_at: row.last_heartbeat_at,
        incarnation,
        owner: known.owner.filter(|_| heartbeats.is_own),
    })
}
