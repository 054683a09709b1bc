//! Which tables are watched: the registry, and the table that needs no entry.
//!
//! `executions` in the extension's schema is watched without an entry, with RGrid's column names and values. An entry
//! for it overrides them, or says that it is not watched.

use std::collections::HashSet;

use pgrx::pg_sys;

use super::entries::{self, LeftOut, Meant};
use super::following;
use super::table::JobTable;
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{catalog, roles};
use crate::rules::text::printable;
use crate::shmem::subscriptions;
use crate::tables::job_tables;

/// The registry at one moment.
pub struct Registry {
    /// The tables to settle.
    pub watched: Vec<JobTable>,
    /// Tables that are not settled, although they would be without an entry.
    unwatched: HashSet<pg_sys::Oid>,
    /// What does not count.
    pub idle: Idle,
}

/// The tables to settle.
pub fn watched(installation: &Installation) -> Result<Vec<JobTable>> {
    registry(installation).map(|registry| registry.watched)
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
    /// The names in entries of tables that were dropped.
    pub dropped: Vec<String>,
    /// The names in entries whose table was never here.
    pub absent: Vec<String>,
    /// Tables for which an entry does not count.
    pub left_out: Vec<LeftOut>,
}

/// The entries that do not count.
pub fn idle(installation: &Installation) -> Result<Idle> {
    registry(installation).map(|registry| registry.idle)
}

/// The whole registry. To read it takes as long as to look at a few tables.
pub fn registry(installation: &Installation) -> Result<Registry> {
    let idle = Idle { dropped: Vec::new(), absent: Vec::new(), left_out: Vec::new() };
    let mut registry = Registry { watched: Vec::new(), unwatched: HashSet::new(), idle };
    entries::all(installation)?.into_iter().for_each(|one| registry.add(one));
    let default = entries::default_table(installation).filter(|default| {
        let oid = default.relation.oid;
        !registry.unwatched.contains(&oid) && registry.watched.iter().all(|table| table.relation.oid != oid)
    });
    registry.watched.extend(default);
    let targets = subscriptions::targets()?;
    for table in &mut registry.watched {
        table.subscription = targets.writer(table.relation.oid).map(printable);
    }
    Ok(registry)
}

impl Registry {
    fn add(&mut self, one: Meant) {
        let Meant { name, table, refused, watched_by, is_watched, known, .. } = one;
        // It is neither watched like the one that had its name before, nor as if there were no entry.
        self.unwatched.extend(refused.as_ref().map(|refused| refused.table.oid));
        match (table, &refused) {
            (None, None) if known.is_some() => self.idle.dropped.push(name),
            (None, None) => self.idle.absent.push(name),
            (None, Some(_)) => {}
            // Whoever said so: what is not settled does no harm.
            (Some(table), _) if !is_watched => drop(self.unwatched.insert(table.relation.oid)),
            (Some(table), _) => match watched_by.filter(|role| !may_watch(role, &table)) {
                Some(role) => {
                    let error = Error::EntryOfAnother { role: printable(&role) };
                    self.idle.left_out.push(LeftOut { table: table.watched, error });
                }
                None => self.watched.push(table),
            },
        }
        self.idle.left_out.extend(refused);
    }
}

/// Whether a role has the rights of a table's owner.
fn may_watch(role: &str, table: &JobTable) -> bool {
    roles::named(role).is_some_and(|role| catalog::has_rights_of(role, table.relation.owner))
}

/// Stops watching a table. Returns whether it was watched.
pub fn stop(installation: &Installation, relation: pg_sys::Oid) -> Result<bool> {
    let table = match find(installation, relation) {
        Ok(table) => table,
        Err(Error::NotWatched { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    let name = following::claim_name(installation, relation)?;
    if entries::default_table(installation).is_some_and(|default| default.relation.oid == relation) {
        job_tables::put(installation, &name, &table.mapping, false)?;
    } else {
        following::remove(installation, &name)?;
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
