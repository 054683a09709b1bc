//! Whose worker id is whose.
//!
//! In the extension's own table of heartbeats an id belongs to the role that first used it. Other roles without the
//! rights of that one are refused: before they lock or wait for anything, and again when they have the worker's row
//! locked, for until then the id may have got its first user. A role that was dropped owns nothing. One that was
//! renamed is known by its OID for as long as the worker's heartbeats are in memory.

use std::ffi::CStr;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::worker::{Call, Caller, client_address};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{self, catalog, roles, version};
use crate::settings;
use crate::shmem::{buffer, buffer::ties, databases};
use crate::tables::deaths::WorkerRecord;
use crate::tables::heartbeats::HeartbeatTable;
use crate::tables::worker_owners;

impl Caller<'_> {
    /// Refuses a caller without the rights of the role that the id belongs to.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwnId`], which is counted.
    pub(super) fn check_owner(&self) -> Result<()> {
        check(self.id, self.owner()?)
    }

    /// The same for a caller that has the worker's row locked, and has read its record since. An id without an owner is
    /// the caller's from now on. Returns the owner; `None` in an adopted table.
    ///
    /// # Errors
    ///
    /// Also [`Error::TooManyWorkers`], when the owner gets one more living worker: a new one, or one that was dead.
    pub(super) fn confirm_owner(&self, record: &WorkerRecord) -> Result<Option<pg_sys::Oid>> {
        if !self.heartbeats.is_own {
            return Ok(None);
        }
        let noted = record.owner.as_deref().and_then(roles::named);
        let known = remembered(self.id).or(noted);
        check(self.id, known)?;
        let owner = known.unwrap_or_else(roles::current);
        if noted != Some(owner) {
            worker_owners::put(&self.installation, self.id, owner)?;
        }
        if known.is_none() || record.dead {
            check_number_of(&self.installation, &self.heartbeats, owner, self.id)?;
        }
        Ok(Some(owner))
    }

    /// The role that the id belongs to.
    fn owner(&self) -> Result<Option<pg_sys::Oid>> {
        if !self.heartbeats.is_own {
            return Ok(None);
        }
        match remembered(self.id) {
            None => self.noted_owner(),
            owner => Ok(owner),
        }
    }

    /// The same by the table alone.
    fn noted_owner(&self) -> Result<Option<pg_sys::Oid>> {
        let name = worker_owners::owner(&self.installation, self.id)?;
        Ok(name.and_then(|name| roles::named(&name)))
    }
}

/// Refuses one more living worker of a role than it may have: this one, which the tables have already.
pub(super) fn check_number_of(
    installation: &Installation,
    heartbeats: &HeartbeatTable,
    role: pg_sys::Oid,
    id: &str,
) -> Result<()> {
    let Some(limit) = settings::max_workers_per_role() else { return Ok(()) };
    if worker_owners::reach(installation, heartbeats, role, limit, id)? {
        let role = roles::name(role).unwrap_or_default();
        return Err(Error::TooManyWorkers { role, limit });
    }
    Ok(())
}

/// The role that an id belongs to, by memory alone.
pub(super) fn remembered(id: &str) -> Option<pg_sys::Oid> {
    buffer::owner(id).filter(|owner| roles::name(*owner).is_some())
}

/// Refuses a caller without the rights of the role that the id belongs to.
///
/// # Errors
///
/// [`Error::NotOwnId`], which is counted.
pub(super) fn check(id: &str, owner: Option<pg_sys::Oid>) -> Result<()> {
    match owner {
        Some(owner) if settings::isolate_roles() => check_rights_of(id, owner),
        _ => Ok(()),
    }
}

fn check_rights_of(id: &str, owner: pg_sys::Oid) -> Result<()> {
    if catalog::is_mine(owner) {
        return Ok(());
    }
    databases::note_refusal(id, roles::current());
    let owner = roles::name(owner).unwrap_or_default();
    Err(Error::NotOwnId { worker: id.to_owned(), owner })
}

/// Hands a worker's id over to another role. For superusers, and for roles that have the rights of the present owner
/// and may SET ROLE to the new one.
///
/// # Errors
///
/// `insufficient_privilege`; `undefined_object` for an unknown worker or role; `object_not_in_prerequisite_state` where
/// the table of heartbeats is an adopted one; those of [`super::worker`] for a bad id or a locked row.
#[pg_extern(sql = false)]
fn rgrid_reassign_worker(worker_id: Option<&str>, new_owner: Option<&CStr>) -> Result<(), ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_reassign_worker()");
    let new_owner = new_owner.ok_or(Error::NullArgument("new owner"))?;
    Ok(Call::begin().run(|_| reassign(worker_id, &new_owner.to_string_lossy()))?)
}

fn reassign(worker_id: Option<&str>, role: &str) -> Result<()> {
    let caller = Caller::new(worker_id, None)?;
    let Caller { installation, heartbeats, id, .. } = &caller;
    if !heartbeats.is_own {
        return Err(Error::IdsWithoutOwner { table: heartbeats.name.clone() });
    }
    let new_owner = roles::named(role).ok_or_else(|| Error::NoRole { role: role.to_owned() })?;
    let check = || caller.owner()?.map_or(Ok(()), |owner| check_rights_of(id, owner));
    check()?;
    if !version::may_set_role(roles::current(), new_owner) {
        return Err(Error::NotMember { role: role.to_owned() });
    }
    // An id may have an owner and no row, as after the restore of a dump. All who use it wait for its row.
    let had_row = !heartbeats.insert(id, None, client_address)?;
    let is_known = if had_row { heartbeats.lock(id)?.is_some() } else { caller.noted_owner()?.is_some() };
    if !is_known {
        return Err(Error::UnknownWorker { worker: (*id).to_owned() });
    }
    check()?;
    worker_owners::put(installation, id, new_owner)?;
    // Memory knows the former owner, and perhaps a session of its.
    buffer::close(id);
    ties::untie(id);
    check_number_of(installation, heartbeats, new_owner, id)?;
    if !had_row { heartbeats.delete(id) } else { Ok(()) }
}
