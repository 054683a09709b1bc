//! Which tables are watched: the registry, and the table that needs no entry.
//!
//! `executions` in the extension's schema is watched without an entry, with RGrid's column names and values. An entry
//! for it overrides them, or says that it is not watched.

use std::collections::HashSet;

use pgrx::pg_sys;

use super::table::{JobTable, TableName};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{catalog, roles};
use crate::tables::job_tables::{self, JobMapping};
use crate::tables::tried_tables;

/// The registry at one moment.
struct Registry {
    /// The tables to settle.
    watched: Vec<JobTable>,
    /// The tables that are not settled, although they would be without an entry.
    unwatched: HashSet<pg_sys::Oid>,
    /// What does not count.
    idle: Idle,
}

/// A table whose entry does not count: the role that made it is gone, or has not the rights of the table's owner.
pub struct LeftOut {
    /// The table.
    pub table: TableName,
    /// The role, by its name.
    pub role: String,
}

/// The tables to settle.
pub fn watched(installation: &Installation) -> Result<Vec<JobTable>> {
    read(installation).map(|registry| registry.watched)
}

/// The watched table with this OID.
///
/// # Errors
///
/// `undefined_object` when it is not watched.
pub fn find(installation: &Installation, relation: pg_sys::Oid) -> Result<JobTable> {
    let found = watched(installation)?.into_iter().find(|table| table.relation.oid == relation);
    found.ok_or_else(|| Error::NotWatched { table: catalog::qualified_name(relation).unwrap_or_default() })
}

/// Entries that do not count.
pub struct Idle {
    /// Entries of tables that were dropped.
    pub dropped: Vec<pg_sys::Oid>,
    /// Tables whose entries were made by a role without the rights of their owner.
    pub left_out: Vec<LeftOut>,
}

/// The entries that do not count.
pub fn idle(installation: &Installation) -> Result<Idle> {
    read(installation).map(|registry| registry.idle)
}

/// Removes the entries of tables that were dropped.
pub fn forget(installation: &Installation, dropped: &[pg_sys::Oid]) -> Result<()> {
    dropped.iter().try_for_each(|table| job_tables::remove(installation, *table))?;
    tried_tables::forget_dropped(installation)
}

fn read(installation: &Installation) -> Result<Registry> {
    let idle = Idle { dropped: Vec::new(), left_out: Vec::new() };
    let mut registry = Registry { watched: Vec::new(), unwatched: HashSet::new(), idle };
    for entry in job_tables::entries(installation)? {
        match JobTable::open(entry.table, entry.mapping, entry.search_path) {
            None => registry.idle.dropped.push(entry.table),
            // Whoever said so: what is not settled does no harm.
            Some(_) if !entry.is_watched => drop(registry.unwatched.insert(entry.table)),
            Some(table) if entry.watched_by.as_ref().is_some_and(|role| !may_watch(role, &table)) => {
                let role = entry.watched_by.unwrap_or_default();
                registry.idle.left_out.push(LeftOut { table: table.watched, role });
            }
            Some(table) => registry.watched.push(table),
        }
    }
    let default = default_table(installation).filter(|default| {
        let oid = default.relation.oid;
        !registry.unwatched.contains(&oid) && registry.watched.iter().all(|table| table.relation.oid != oid)
    });
    registry.watched.extend(default);
    Ok(registry)
}

/// Whether a role has the rights of a table's owner.
fn may_watch(role: &str, table: &JobTable) -> bool {
    roles::named(role).is_some_and(|role| catalog::has_rights_of(role, table.relation.owner))
}

/// RGrid's own table of jobs, if there is one.
fn default_table(installation: &Installation) -> Option<JobTable> {
    let relation = catalog::relation_named(installation.schema, "executions")?;
    JobTable::open(relation.oid, JobMapping::default(), None)
}

/// Stops watching a table. Returns whether it was watched.
pub fn stop(installation: &Installation, relation: pg_sys::Oid) -> Result<bool> {
    let table = match find(installation, relation) {
        Ok(table) => table,
        Err(Error::NotWatched { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    if default_table(installation).is_some_and(|default| default.relation.oid == relation) {
        job_tables::put(installation, relation, &table.mapping, false)?;
    } else {
        job_tables::remove(installation, relation)?;
    }
    Ok(true)
}

/// A table that the caller owns.
///
/// # Errors
///
/// `null_value_not_allowed`; `undefined_table` when it does not exist; `insufficient_privilege` when another role owns
/// it.
pub fn own_table(job_table: Option<pg_sys::Oid>) -> Result<pg_sys::Oid> {
    let oid = job_table.ok_or(Error::NullArgument("job table"))?;
    let name = || catalog::qualified_name(oid).unwrap_or_else(|| oid.to_u32().to_string());
    match catalog::relation(oid) {
        None => Err(Error::NoTable { table: name() }),
        Some(relation) if !catalog::is_mine(relation.owner) => Err(Error::NotOwner { table: name() }),
        Some(_) => Ok(oid),
    }
}
