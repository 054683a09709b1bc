//! Heartbeats of many workers in one call: those in memory one by one, the others in a few statements for all.

use std::collections::HashMap;

use pgrx::pg_sys;

use super::worker::{Call, beat, check_hostname, check_worker_id, client_address};
use super::{memory, owner};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{self, roles};
use crate::settings;
use crate::shmem::{buffer, counters, databases};
use crate::sweep::requests;
use crate::tables::heartbeats::HeartbeatTable;
use crate::tables::known::{Known, known};
use crate::tables::{incarnations, unsettled_calls, worker_owners};

/// Workers whose rows are written in one statement.
const BATCH: usize = 10_000;

/// So few are dealt with one by one, by plans that are kept.
const FEW: usize = 10;

/// The heartbeats of these workers. Returns their incarnations.
pub(super) fn beat_all(worker_ids: &[Option<&str>], hostname: Option<&str>) -> Result<Vec<i64>> {
    let heartbeats = HeartbeatTable::open(&Installation::of_caller()?)?;
    let mut ids = Vec::with_capacity(worker_ids.len());
    for worker_id in worker_ids {
        let id = worker_id.ok_or(Error::NullArgument("worker id"))?;
        check_worker_id(id, heartbeats.id_limit)?;
        ids.push(id);
    }
    check_hostname(hostname)?;
    let mut incarnations = vec![None; ids.len()];
    memory::beat_all(&ids, &mut incarnations, hostname);
    let told = beat_unknown(&ids, &incarnations, hostname)?;
    let told = |id: &str| told.get(id).copied().ok_or(Error::MissingValue("incarnation"));
    ids.into_iter().zip(incarnations).map(|(id, known)| known.map_or_else(|| told(id), Ok)).collect()
}

/// The heartbeats of those that memory has not taken.
fn beat_unknown<'a>(
    ids: &[&'a str],
    known: &[Option<i64>],
    hostname: Option<&str>,
) -> Result<HashMap<&'a str, i64>> {
    let unknown = ids.iter().zip(known).filter(|(_, known)| known.is_none());
    let mut unknown: Vec<&str> = unknown.map(|(id, _)| *id).collect();
    // Rows are locked in the order of their ids, so that two agents do not wait for each other.
    unknown.sort_unstable();
    unknown.dedup();
    let call = Call::begin();
    let mut told = HashMap::with_capacity(unknown.len());
    let mut alone = if unknown.len() <= FEW { std::mem::take(&mut unknown) } else { Vec::new() };
    for batch in unknown.chunks(BATCH) {
        let written = call.run(|call| beat_in_rows(batch, hostname, call))?;
        for (id, incarnation) in batch.iter().zip(written) {
            match incarnation {
                Some(incarnation) => _ = told.insert(*id, incarnation),
                None => alone.push(*id),
            }
        }
        pg::check_for_interrupts();
    }
    for id in alone {
        told.insert(id, beat(Some(id), hostname, Some(call))?);
        pg::check_for_interrupts();
    }
    Ok(told)
}

/// Writes the rows of many workers, and reads what is known of them. Returns their incarnations; `None` of those that have to
/// be dealt with one by one: the dead, who return, and new ones where their number is limited.
fn beat_in_rows(ids: &[&str], hostname: Option<&str>, call: Call) -> Result<Vec<Option<i64>>> {
    let installation = Installation::of_caller()?;
    let heartbeats = HeartbeatTable::open(&installation)?;
    if heartbeats.is_own {
        // Refused before they wait for a row of another role.
        for (id, known) in ids.iter().zip(known(&installation, ids)?) {
            owner::check(id, owner_of(id, &known))?;
        }
    }
    let new = heartbeats.beat_all(ids, hostname, client_address)?;
    databases::count(|state| state.heartbeats_in_row += counters::number(ids.len()));
    // The rows are locked now, so what the tables say stays true until this commits.
    let numbers = incarnations::base_and_floor(&installation)?;
    let mut unowned = Vec::new();
    let mut told = Vec::with_capacity(ids.len());
    for (id, known) in ids.iter().zip(known(&installation, ids)?) {
        let owner = if heartbeats.is_own { owner_of(id, &known) } else { None };
        owner::check(id, owner)?;
        let is_counted = heartbeats.is_own && owner.is_none() && settings::max_workers_per_role().is_some();
        if known.dead || is_counted {
            told.push(None);
            continue;
        }
        let is_living = known.is_owned || !new.contains(*id);
        let incarnation = incarnations::told(known.number, is_living, numbers, id)?;
        if incarnation != known.number.unwrap_or(1) {
            incarnations::note(&installation, id, incarnation)?;
        }
        let owner = heartbeats.is_own.then(|| owner.unwrap_or_else(roles::current));
        if owner != known.owner {
            unowned.push((owner, *id));
        }
        buffer::add_at_commit(id, hostname, owner, incarnation);
        told.push(Some(incarnation));
    }
    put_owners(&installation, &unowned)?;
    // Their jobs would be taken for those of earlier ones, which left.
    for id in unsettled_calls::among(&installation, &new)? {
        requests::settle_by_sweeper(&installation, &id, call.deadline())?;
    }
    Ok(told)
}

/// The role that an id belongs to: memory knows one that was renamed.
fn owner_of(id: &str, known: &Known) -> Option<pg_sys::Oid> {
    owner::remembered(id).or(known.owner)
}

/// Notes the owners of ids that had none, or another one by the table.
fn put_owners(installation: &Installation, owned: &[(Option<pg_sys::Oid>, &str)]) -> Result<()> {
    let mut by_role: HashMap<pg_sys::Oid, Vec<&str>> = HashMap::new();
    for (owner, id) in owned {
        owner.iter().for_each(|owner| by_role.entry(*owner).or_default().push(id));
    }
    by_role.iter().try_for_each(|(role, ids)| worker_owners::put_all(installation, ids, *role))
}
