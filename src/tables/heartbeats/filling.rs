//! Reading rows of the table part by part, to fill memory after a start.

use std::ops::Range;

use super::{HeartbeatTable, Worker, worker};
use crate::error::Result;
use crate::pg::row_locks::{HeapTable, Place};
use crate::pg::{catalog, sql};
use crate::tables::inheritance;

/// The tables that the rows are in: the table itself, or its partitions. Locked for reading.
pub struct Stored(Vec<HeapTable>);

impl Stored {
    /// How many pages the largest of them has.
    pub fn pages(&self) -> u32 {
        self.0.iter().map(HeapTable::pages).max().unwrap_or(0)
    }

    /// How many tables there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The places of rows on these pages that other transactions may be changing or have locked.
    pub fn locked(&self, pages: &Range<u32>) -> Vec<Place> {
        self.0.iter().flat_map(|table| table.locked(pages.clone())).collect()
    }
}

/// Where the rows of a table are.
pub enum Storage {
    /// In pages that can be read.
    Here(Stored),
    /// At least in part on another server, or stored in another way.
    Elsewhere,
    /// Another session alters the table.
    Locked,
}

impl HeartbeatTable {
    /// The tables that the rows are in, locked for reading without waiting.
    pub fn storage(&self) -> Result<Storage> {
        let Some(relation) = catalog::relation(self.oid) else { return Ok(Storage::Elsewhere) };
        let mut tables = Vec::new();
        for part in inheritance::tree(&relation)? {
            if !catalog::try_lock_for_reading(part.oid) {
                return Ok(Storage::Locked);
            }
            if part.is_partitioned() {
                continue;
            }
            match HeapTable::open(part.oid) {
                Some(table) => tables.push(table),
                None => return Ok(Storage::Elsewhere),
            }
        }
        Ok(Storage::Here(Stored(tables)))
    }

    /// The rows on these pages, but for those at these places, as they are at this moment, in the order of their ids.
    pub fn rows_on(&self, pages: &Range<u32>, except: &[Place]) -> Result<Vec<Worker>> {
        let places: Vec<String> =
            except.iter().map(|place| format!("\"({},{})\"", place.page, place.line)).collect();
        let statement = self.sql(&format!(
            "SELECT @columns@ FROM @table@ h \
             WHERE h.ctid >= '({},0)'::tid AND h.ctid < '({},0)'::tid AND h.ctid <> ALL ('{{{}}}'::tid[]) \
               AND h.worker_id IS NOT NULL AND h.last_heartbeat_at IS NOT NULL",
            pages.start,
            pages.end,
            places.join(",")
        ));
        let read = || sql::read_latest(&statement, &[], worker);
        let mut rows = self.scope().lock_timeout(c"1s").run(read)?;
        rows.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        Ok(rows)
    }
}
