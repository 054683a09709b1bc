//! Following the watched tables: noting what each entry means, so that the next rename or swap is seen.
//!
//! Sweepers and sweeps by hand do it, and the sessions that watch, unwatch and fence a table. Locks: rows of the
//! extension's own tables, awaited for 50 ms, and the new table while its fence is put up, awaited for a second.

use chrono::{DateTime, Utc};
use pgrx::pg_sys;

use super::entries::{self, Meant};
use super::fence;
use super::table::JobTable;
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{catalog, scope, timer};
use crate::rules::text::printable;
use crate::tables::job_table_oids::{self, Known};
use crate::tables::{job_tables, tried_tables};

/// How long the entry of a table that was dropped waits for another one of the name.
const KEPT: chrono::Duration = chrono::Duration::days(1);

/// Notes what all entries mean now. Returns lines for the log, and an error that stopped one of them. What another
/// session has locked is noted by the next sweep; what it means is known without that.
pub fn follow(installation: &Installation, now: DateTime<Utc>) -> Result<(Vec<String>, Option<Error>)> {
    let mut all = entries::all(installation)?;
    let default = entries::default_entry(installation)?;
    let oid = |one: &Meant| one.table.as_ref().map(|table| table.relation.oid);
    let is_new = |one: &Meant| {
        oid(one).is_some_and(|oid| !all.iter().any(|other| other.is(oid) || other.refuses(oid)))
    };
    all.extend(default.filter(is_new));
    let (mut lines, mut failed) = (Vec::new(), None);
    for one in &all {
        match unless_locked(|| note(installation, one, now)) {
            Ok(line) => lines.extend(line.flatten().map(|line| line + &with_fence(installation, one))),
            Err(error) => failed = Some(error),
        }
    }
    for name in job_table_oids::all(installation)?.keys() {
        if !all.iter().any(|one| one.name == *name) && !is_entry(installation, name)? {
            unless_locked(|| job_table_oids::remove(installation, name))?;
        }
    }
    tried_tables::forget_dropped(installation)?;
    Ok((lines, failed))
}

/// Does what can be done in a subtransaction without waiting for another session; `None` when it is in the way.
fn unless_locked<T>(work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    match scope::subtransaction(|| timer::waiting_at_most(c"50ms", work)) {
        Err(error) if error.is_lock_not_available() || error.is_rollback() => Ok(None),
        result => result.map(Some),
    }
}

/// Whether the registry has an entry of this name by now.
fn is_entry(installation: &Installation, name: &str) -> Result<bool> {
    Ok(job_tables::entries(installation)?.iter().any(|entry| entry.name == name))
}

/// Notes what an entry means. Returns what has changed, as a line for the log.
fn note(installation: &Installation, one: &Meant, now: DateTime<Utc>) -> Result<Option<String>> {
    let Some(table) = &one.table else {
        return note_missing(installation, one, now).map(|()| None);
    };
    let is_fenced = one.known.is_some_and(|known| known.is_fenced) || fence::is_up(&table.relation)?;
    let known = Known { is_fenced, ..known(table) };
    let new = &table.watched.name;
    let is_renamed =
        !one.has_name && one.refused.is_none() && job_tables::rename(installation, &one.name, new)?;
    if is_renamed {
        job_table_oids::remove(installation, &one.name)?;
    }
    if is_renamed || one.known != Some(known) {
        job_table_oids::put(installation, if is_renamed { new } else { &one.name }, &known)?;
    }
    let is_another = one.known.is_some_and(|before| before.relation != known.relation);
    Ok(match (is_renamed, is_another) {
        (true, _) => Some(format!("watched table {} is now called {}", printable(&one.name), printable(new))),
        (_, true) => {
            Some(format!("table {} is another one now, and is watched as the one before", printable(new)))
        }
        _ => None,
    })
}

fn known(table: &JobTable) -> Known {
    let (relation, owner) = (table.relation.oid, table.relation.owner);
    Known { relation, owner, is_fenced: false, missing_since: None }
}

/// Notes that neither the name nor the OID means a table, and forgets the entry after a while.
fn note_missing(installation: &Installation, one: &Meant, now: DateTime<Utc>) -> Result<()> {
    let Some(known) = one.known.filter(|_| one.refused.is_none()) else { return Ok(()) };
    match known.missing_since {
        None => {
            let known = Known { missing_since: Some(now), ..known };
            job_table_oids::put(installation, &one.name, &known)
        }
        Some(since) if now - since < KEPT => Ok(()),
        Some(_) => {
            job_tables::remove(installation, &one.name)?;
            job_table_oids::remove(installation, &one.name)
        }
    }
}

/// Puts a fence up at a table whose predecessor had one. Returns what became of that, to be added to a line.
fn with_fence(installation: &Installation, one: &Meant) -> String {
    let Some((table, known)) = one.table.as_ref().zip(one.known) else { return String::new() };
    if known.relation == table.relation.oid || !known.is_fenced || !one.is_watched {
        return String::new();
    }
    let put_up = || fence::put_up(installation, table.relation.oid);
    match scope::subtransaction(|| timer::waiting_at_most(c"1s", put_up)) {
        Ok(()) => ", and so is its fence".into(),
        Err(error) => format!(", but its fence could not be put up: {}", error.message()),
    }
}

/// Notes what the entry of a table means that its owner has just changed, and whether it has a fence.
pub fn note_own(installation: &Installation, relation: pg_sys::Oid) -> Result<()> {
    let all = entries::all(installation)?.into_iter().chain(entries::default_entry(installation)?);
    let Some(one) = all.into_iter().find(|one| one.is(relation)) else { return Ok(()) };
    let Some(table) = &one.table else { return Ok(()) };
    let is_fenced = fence::is_up(&table.relation)?;
    job_table_oids::put(installation, &one.name, &Known { is_fenced, ..known(table) })
}

/// Makes the name of a table free for its entry, and gives it to the entry that the table has. Returns it.
///
/// An entry that has the name and means another table gets the name of that one.
pub fn claim_name(installation: &Installation, relation: pg_sys::Oid) -> Result<String> {
    let name = catalog::qualified_name(relation)
        .ok_or_else(|| Error::NoTable { table: relation.to_u32().to_string() })?;
    for one in entries::all(installation)?.into_iter().filter(|one| one.refuses(relation)) {
        let new = one.table.map(|table| table.watched.name);
        match new {
            Some(new) if job_tables::rename(installation, &one.name, &new)? => {
                job_table_oids::remove(installation, &one.name)?;
                if let Some(known) = one.known {
                    job_table_oids::put(installation, &new, &known)?;
                }
            }
            _ => remove(installation, &one.name)?,
        }
    }
    if let Some(own) = entries::all(installation)?.into_iter().find(|one| one.is(relation)) {
        job_tables::rename(installation, &own.name, &name)?;
        job_table_oids::remove(installation, &own.name)?;
    }
    job_table_oids::remove(installation, &name)?;
    Ok(name)
}

/// Removes an entry.
pub fn remove(installation: &Installation, name: &str) -> Result<()> {
    job_tables::remove(installation, name)?;
    job_table_oids::remove(installation, name)
}
