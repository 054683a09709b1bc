//! Tying a worker to a session: when the client of that session vanishes, the worker is dead much sooner than by its
//! silence.
//!
//! These functions run in the worker's backend. An attach is a heartbeat, with the same rights; the tie is made in
//! shared memory when the transaction commits.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::memory;
use super::worker::{Call, Caller, beat_in_row, client_address};
use crate::error::{Error, Result};
use crate::pg;
use crate::shmem::buffer::ties;
use crate::shmem::is_preloaded;

/// "I am alive, and this session is mine." Returns the worker's incarnation, like a heartbeat.
///
/// When the session ends because its client vanished, the worker is declared dead after
/// `rgrid_heartbeat.disconnect_grace`, unless it is heard again before. A session that says goodbye, or is terminated,
/// proves nothing. Heartbeats are needed all the same: of a process that hangs, the connection stays. Many workers may
/// be attached to one session, and each to one: the newest. Repeated calls cost as much as a heartbeat. A worker that
/// does not fit in memory is not attached.
///
/// # Errors
///
/// `object_not_in_prerequisite_state` when the library was not preloaded, and those of a heartbeat. A transaction with
/// this call cannot be prepared.
#[pg_extern]
fn rgrid_attach(
    worker_id: Option<&str>,
    hostname: default!(Option<&str>, "NULL"),
) -> Result<i64, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_attach()");
    Ok(attach(worker_id, hostname)?)
}

fn attach(worker_id: Option<&str>, hostname: Option<&str>) -> Result<i64> {
    if !is_preloaded() {
        return Err(Error::NotPreloaded);
    }
    let known = worker_id.and_then(|id| memory::beat(id, hostname));
    let slowly = || Call::begin().run(|call| beat_in_row(worker_id, hostname, call));
    let incarnation = known.map_or_else(slowly, Ok)?;
    if let Some(id) = worker_id.filter(|id| !ties::is_mine(id)) {
        ties::attach_at_commit(id, incarnation, client_address)?;
    }
    Ok(incarnation)
}

/// Unties a worker from the session that it is attached to, whichever that is. Returns whether there was one, or
/// whether the worker had lost it and is not declared dead yet: then it is left to its silence.
///
/// # Errors
///
/// Those of [`rgrid_attach`].
#[pg_extern]
fn rgrid_detach(worker_id: Option<&str>) -> Result<bool, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_detach()");
    Ok(detach(worker_id)?)
}

fn detach(worker_id: Option<&str>) -> Result<bool> {
    if !is_preloaded() {
        return Err(Error::NotPreloaded);
    }
    Call::begin().run(|_| {
        let caller = Caller::new(worker_id, None)?;
        caller.check_owner()?;
        Ok(ties::detach_at_commit(caller.id))
    })
}
