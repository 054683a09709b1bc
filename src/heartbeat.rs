//! The functions that a worker calls: it starts, it is alive, it stops.
//!
//! They run in the worker's backend. The worker's role needs EXECUTE on them and nothing else: what they do to
//! tables they do with the rights of the tables' owners.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::ledger::{self, Reason};
use crate::pg::{self, sql};
use crate::workers::{HeartbeatTable, Worker};
use crate::{databases, sweep};

/// Characters of a hostname that are stored; a DNS name has at most 253.
const HOSTNAME_LIMIT: usize = 255;

/// "I am alive." Answers the worker's incarnation.
///
/// The number grows by one whenever the worker is given up. A worker that gets another number than before was
/// declared dead meanwhile and must drop its jobs: they have been settled, and others may be running them.
/// `hostname` is for people; NULL stands for the client's address, or the server's name on a Unix socket.
///
/// # Errors
///
/// `null_value_not_allowed` or `invalid_parameter_value` for a worker id that is NULL, empty, too long or has
/// control characters; `read_only_sql_transaction` on a standby or in a read-only transaction;
/// `lock_not_available` when a dead worker's jobs cannot be settled before it returns.
#[pg_extern]
fn rgrid_heartbeat(
    worker_id: Option<&str>,
    hostname: default!(Option<&str>, "NULL"),
) -> Result<i64, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_heartbeat()");
    Ok(beat(worker_id, hostname)?)
}

fn beat(worker_id: Option<&str>, hostname: Option<&str>) -> Result<i64> {
    let caller = Caller::new(worker_id, hostname)?;
    caller.heartbeats.beat(caller.id, &caller.hostname)?;
    // The row is locked now, after whoever had it: what the ledger says stays true until this commits.
    let standing = ledger::standing(&caller.installation, caller.id)?;
    if standing.dead {
        sweep::welcome_back(&caller.installation, caller.id)?;
    }
    Ok(standing.incarnation)
}

/// A worker starts. Answers its id, made up when none is given, and its incarnation.
///
/// Whatever still ran under that id is settled first: a worker that registers is a new process, and an earlier
/// one of that id, alive or not, is given up (reason 'restarted').
///
/// # Errors
///
/// Those of [`rgrid_heartbeat`], but NULL as the worker id asks for a new one.
#[pg_extern]
fn rgrid_register(
    worker_id: default!(Option<&str>, "NULL"),
    hostname: default!(Option<&str>, "NULL"),
) -> Result<TableIterator<'static, (name!(id, String), name!(incarnation, i64))>, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_register()");
    let registered = match worker_id {
        Some(_) => register(worker_id, hostname)?,
        None => register_anew(hostname)?,
    };
    databases::request_visit();
    Ok(TableIterator::once(registered))
}

fn register(worker_id: Option<&str>, hostname: Option<&str>) -> Result<(String, i64)> {
    let caller = Caller::new(worker_id, hostname)?;
    let Caller { installation, heartbeats, id, hostname } = &caller;
    let is_new = heartbeats.insert(id, hostname)?;
    let earlier = if is_new { None } else { heartbeats.lock(id)? };
    let standing = ledger::standing(installation, id)?;
    let mut incarnation = standing.incarnation;
    if standing.dead {
        sweep::welcome_back(installation, id)?;
    } else {
        let always = earlier.is_some();
        let worker = earlier.unwrap_or_else(|| caller.worker());
        incarnation += i64::from(sweep::give_up(installation, &worker, Reason::Restarted, always)?);
    }
    if !is_new {
        heartbeats.beat(id, hostname)?;
    }
    Ok(((*id).to_owned(), incarnation))
}

/// Registers under an id that nobody has used.
fn register_anew(hostname: Option<&str>) -> Result<(String, i64)> {
    loop {
        let id = format!("worker-{}", &Uuid::new_v4().simple().to_string()[..8]);
        let Caller { installation, heartbeats, hostname, .. } = &Caller::new(Some(&id), hostname)?;
        if ledger::standing(installation, &id)?.incarnation == 1 && heartbeats.insert(&id, hostname)? {
            return Ok((id, 1));
        }
        pg::check_for_interrupts();
    }
}

/// A worker stops on purpose. Answers whether it was known.
///
/// Its row goes and no death is declared. Jobs that it still ran are settled at once; only then is there a row
/// in the ledger (reason 'deregistered').
///
/// # Errors
///
/// Those of [`rgrid_heartbeat`].
#[pg_extern]
fn rgrid_deregister(worker_id: Option<&str>) -> Result<bool, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_deregister()");
    Ok(deregister(worker_id)?)
}

fn deregister(worker_id: Option<&str>) -> Result<bool> {
    let Caller { installation, heartbeats, id, .. } = &Caller::new(worker_id, None)?;
    let Some(worker) = heartbeats.lock(id)? else { return Ok(false) };
    if ledger::standing(installation, id)?.dead {
        sweep::settle_dead(installation, id)?;
    } else {
        sweep::give_up(installation, &worker, Reason::Deregistered, false)?;
    }
    heartbeats.delete(id)?;
    Ok(true)
}

/// Who calls, checked, and what it takes to serve it.
struct Caller<'a> {
    installation: Installation,
    heartbeats: HeartbeatTable,
    id: &'a str,
    hostname: String,
}

impl<'a> Caller<'a> {
    fn new(worker_id: Option<&'a str>, hostname: Option<&str>) -> Result<Self> {
        let id = worker_id.ok_or(Error::NullArgument("worker id"))?;
        let installation = Installation::of_caller()?;
        let heartbeats = HeartbeatTable::open(&installation)?;
        check_worker_id(id, heartbeats.id_limit)?;
        let hostname = match hostname {
            Some(name) if name.chars().any(char::is_control) => {
                return Err(Error::ControlCharacter("hostname"));
            }
            Some(name) => name.chars().take(HOSTNAME_LIMIT).collect(),
            None => client_address()?.unwrap_or_else(pg::server_hostname),
        };
        Ok(Self { installation, heartbeats, id, hostname })
    }

    /// The caller as a row that was written just now.
    fn worker(&self) -> Worker {
        Worker { id: self.id.to_owned(), hostname: Some(self.hostname.clone()), last_heartbeat_at: pg::now() }
    }
}

/// The address of this session's client; `None` on a Unix socket, and in a process without a client.
fn client_address() -> Result<Option<String>> {
    let addresses =
        sql::select("SELECT pg_catalog.host(pg_catalog.inet_client_addr())", &[], |row| row.optional(1))?;
    Ok(addresses.into_iter().flatten().next())
}

/// Checks a worker id against the table that takes it. SQL in it is no fault: it is never part of a statement.
fn check_worker_id(id: &str, limit: usize) -> Result<()> {
    if id.is_empty() {
        return Err(Error::EmptyWorkerId);
    }
    if id.chars().any(char::is_control) {
        return Err(Error::ControlCharacter("worker id"));
    }
    match id.chars().count() {
        length if length > limit => Err(Error::WorkerIdTooLong { length, limit }),
        _ => Ok(()),
    }
}
