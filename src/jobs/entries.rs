//! What each entry of the registry means at this moment.
//!
//! An entry has a name. Beside it lies the OID that the name meant when a sweeper last looked. The name wins: a table
//! that was put in the place of another one is settled as that one was, if it has the same owner and the columns. A
//! name that means nothing any more is followed to where its table was renamed to.

use std::collections::HashSet;

use pgrx::pg_sys;

use super::table::{JobTable, TableName};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::catalog::{self, Relation};
use crate::pg::{roles, scope};
use crate::rules::text::printable;
use crate::shmem::quarantine::{self, Record};
use crate::tables::job_table_oids::{self, Known};
use crate::tables::job_tables::{self, Entry, JobMapping};

/// An entry and its table, or the table that is watched without an entry.
pub struct Meant {
    /// The name in the entry.
    pub name: String,
    /// Whether the table is settled.
    pub is_watched: bool,
    /// The role that made the entry; `None` when it counts as the owner's.
    pub watched_by: Option<String>,
    /// What the name meant when a sweeper last looked; `None` when it never did.
    pub known: Option<Known>,
    /// The table; `None` when there is none.
    pub table: Option<JobTable>,
    /// The table that has the name, and is not meant.
    pub refused: Option<LeftOut>,
    /// Whether the table has the name that is in the entry.
    pub has_name: bool,
}

/// A table for which an entry does not count.
pub struct LeftOut {
    /// The table.
    pub table: TableName,
    /// Why.
    pub error: Error,
}

impl Meant {
    /// Whether a table is the one that is meant.
    pub fn is(&self, relation: pg_sys::Oid) -> bool {
        self.table.as_ref().is_some_and(|table| table.relation.oid == relation)
    }

    /// Whether a table has the name, and is not meant.
    pub fn refuses(&self, relation: pg_sys::Oid) -> bool {
        self.refused.as_ref().is_some_and(|refused| refused.table.oid == relation)
    }

    fn of(installation: &Installation, entry: Entry, known: Option<Known>) -> Self {
        let named = catalog::relation_by_text(installation.schema, &entry.name);
        let old = known.and_then(|known| catalog::relation(known.relation));
        let refused = named.zip(known).filter(|(named, known)| named.oid != known.relation);
        let refused = refused.and_then(|(named, known)| {
            let owner = old.map_or(known.owner, |old| old.owner);
            let error = not_in_its_place(&named, &known, owner, &entry.mapping).err()?;
            Some(LeftOut { table: TableName { name: printable(&entry.name), oid: named.oid }, error })
        });
        let named = named.filter(|_| refused.is_none());
        let open = |relation: Relation| JobTable::open(relation.oid, entry.mapping, entry.search_path);
        Self {
            name: entry.name,
            is_watched: entry.is_watched,
            watched_by: entry.watched_by,
            known,
            has_name: named.is_some(),
            table: named.or(old).and_then(open),
            refused,
        }
    }
}

/// Checks that the table that has a name now may be settled as the one that had it before.
///
/// # Errors
///
/// When it has another owner or lacks a column, or while the one before is left out because of its owner's code: a new
/// one would be let in.
fn not_in_its_place(named: &Relation, known: &Known, owner: pg_sys::Oid, mapping: &JobMapping) -> Result<()> {
    let name = |role| roles::name(role).unwrap_or_else(|| "that is gone".into());
    if named.owner != owner {
        return Err(Error::OwnerDiffers { owner: name(named.owner), before: name(owner) });
    }
    if quarantine::record(known.relation) == Record::LeftOut {
        return Err(Error::InQuarantine);
    }
    let Some(table) = JobTable::open(named.oid, mapping.clone(), None) else { return Ok(()) };
    if named.persistence == pg_sys::RELPERSISTENCE_TEMP {
        return Err(Error::TemporaryTable { table: table.watched.name });
    }
    scope::subtransaction(|| table.columns()).map(drop)
}

/// All entries, in the order in which their tables are settled. Of two that mean the same table, the one with its name
/// counts.
pub fn all(installation: &Installation) -> Result<Vec<Meant>> {
    let known = job_table_oids::all(installation)?;
    let entries = job_tables::entries(installation)?.into_iter();
    let meant = |entry: Entry| (known.get(&entry.name).copied(), entry);
    let mut all: Vec<Meant> =
        entries.map(meant).map(|(known, entry)| Meant::of(installation, entry, known)).collect();
    all.sort_by_key(|one| !one.has_name);
    let mut found = HashSet::new();
    for one in &mut all {
        let again = one.table.take_if(|table| !found.insert(table.relation.oid));
        // Not its OID: nothing is wrong with the table itself.
        let table = TableName { name: printable(&one.name), oid: pg_sys::InvalidOid };
        let twice = again.map(|_| LeftOut { table, error: Error::WatchedTwice });
        one.refused = one.refused.take().or(twice);
    }
    all.sort_by_key(|one| one.table.as_ref().map(|table| table.relation.oid.to_u32()));
    Ok(all)
}

/// RGrid's own table of jobs, if there is one: it is watched without an entry.
pub fn default_table(installation: &Installation) -> Option<JobTable> {
    let relation = catalog::relation_named(installation.schema, "executions")?;
    JobTable::open(relation.oid, JobMapping::default(), None)
}

/// The same as an entry would mean it.
pub fn default_entry(installation: &Installation) -> Result<Option<Meant>> {
    let Some(table) = default_table(installation) else { return Ok(None) };
    let name = table.watched.name.clone();
    let known = job_table_oids::all(installation)?.remove(&name);
    let (table, refused) = (Some(table), None);
    Ok(Some(Meant { name, is_watched: true, watched_by: None, known, table, refused, has_name: true }))
}

/// Whether a watched table, or the one in whose place it was put, has had a fence that nobody has taken down.
pub fn had_fence(installation: &Installation, table: &JobTable) -> Result<bool> {
    let oid = table.relation.oid;
    let entry = all(installation)?.into_iter().chain(default_entry(installation)?).find(|one| one.is(oid));
    Ok(entry.and_then(|one| one.known).is_some_and(|known| known.is_fenced))
}
