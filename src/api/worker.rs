//! The functions that a worker calls: it starts, it is alive, it stops.
//!
//! They run in the worker's backend. The worker's role needs EXECUTE on them and nothing else: what they do to
//! tables they do with the rights of the tables' owners.

use std::time::Duration;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use uuid::Uuid;

use super::{fleet, memory};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::{Outcome, settlers};
use crate::pg::timer::{self, Deadline};
use crate::pg::{self, report, scope, sql};
use crate::rules::text::printable;
use crate::settings;
use crate::shmem::{buffer, buffer::ties, databases};
use crate::sweep::{death, requests};
use crate::tables::deaths::{self, Reason};
use crate::tables::heartbeats::{HeartbeatTable, Worker};
use crate::tables::worker_owners;

/// "I am alive." Returns the worker's incarnation.
///
/// The number grows by one whenever the worker is given up. A worker that gets another number than before was declared
/// dead meanwhile and must drop its jobs: they have been settled, and other workers may be running them. `hostname` is
/// for people. With NULL the stored one stays; a new worker gets the client's address, and none on a Unix socket.
///
/// Liveness, not data: the heartbeat of a known, living worker is one store in shared memory, and counts even if the
/// caller's transaction is rolled back. Its row is written a little later.
///
/// # Errors
///
/// `null_value_not_allowed` or `invalid_parameter_value` for a worker id that is NULL, empty, too long or has
/// control characters; `insufficient_privilege` for the id of another role; `configuration_limit_exceeded` for one more
/// living worker than the role may have; `read_only_sql_transaction` on a standby or in a read-only transaction;
/// `lock_not_available` when the worker's row stays locked for `rgrid_heartbeat.call_timeout`, or when its old jobs can
/// neither be settled nor noted.
#[pg_extern]
fn rgrid_heartbeat(
    worker_id: Option<&str>,
    hostname: default!(Option<&str>, "NULL"),
) -> Result<i64, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_heartbeat()");
    let known = worker_id.and_then(|id| memory::beat(id, hostname));
    let slowly = || Call::begin().run(|call| beat_in_row(worker_id, hostname, call));
    Ok(known.map_or_else(slowly, Ok)?)
}

/// A heartbeat that shared memory does not take: writes the worker's row, and reads in the ledger whether it is dead.
pub(super) fn beat_in_row(worker_id: Option<&str>, hostname: Option<&str>, call: Call) -> Result<i64> {
    let caller = Caller::new(worker_id, hostname)?;
    caller.check_owner()?;
    let had_row = caller.heartbeats.beat(caller.id, caller.hostname(), client_address)?;
    databases::count(|counters| counters.heartbeats_in_row += 1);
    // The row is locked now, so what the ledger says stays true until this commits.
    let record = deaths::worker_record(&caller.installation, caller.id, had_row)?;
    let owner = caller.confirm_owner(&record)?;
    if record.dead {
        death::close_on_return(&caller.installation, caller.id, call.deadline)?;
    } else if !had_row {
        // Its jobs would be taken for those of an earlier one, which left.
        requests::settle_noted_by_sweeper(&caller.installation, caller.id, call.deadline)?;
    }
    buffer::add_at_commit(caller.id, hostname, owner, record.incarnation);
    Ok(record.incarnation)
}

/// "We are alive", from one agent for the many workers of a host. Returns their incarnations in the same order.
///
/// # Errors
///
/// Those of [`rgrid_heartbeat`]. A NULL array or a bad element refuses the whole call before any heartbeat of it
/// counts. An id of another role refuses it, too, but then the heartbeats in memory of the other workers count.
#[pg_extern(name = "rgrid_heartbeat")]
fn rgrid_heartbeats(
    worker_ids: Option<Array<'_, &str>>,
    hostname: default!(Option<&str>, "NULL"),
) -> Result<SetOfIterator<'static, i64>, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_heartbeat()");
    let incarnations = match worker_ids {
        Some(worker_ids) => fleet::heartbeats::beat_all(&worker_ids.iter().collect::<Vec<_>>(), hostname)?,
        None => return Err(Error::NullArgument("array of worker ids").into()),
    };
    Ok(SetOfIterator::new(incarnations))
}

/// A worker starts. Returns its id, generated when none is given, and its incarnation.
///
/// Jobs still running under that id are settled first: a worker that registers is a new process, and an earlier one
/// with that id, alive or not, is given up (reason 'restarted').
///
/// # Errors
///
/// Those of [`rgrid_heartbeat`], but a NULL worker id generates a new one.
#[pg_extern]
fn rgrid_register(
    worker_id: default!(Option<&str>, "NULL"),
    hostname: default!(Option<&str>, "NULL"),
) -> Result<TableIterator<'static, (name!(id, String), name!(incarnation, i64))>, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_register()");
    let registered = Call::begin().run(|call| match worker_id {
        Some(_) => register(worker_id, hostname, call),
        None => register_anew(hostname),
    })?;
    databases::request_visit();
    Ok(TableIterator::once(registered))
}

/// "We start", from one agent for the many workers of a host. Returns each id and its incarnation, in the same order.
///
/// New workers are written in a few statements for all. The others are registered one by one.
///
/// # Errors
///
/// Those of [`rgrid_register`], for a NULL element, too. An error of one worker refuses the whole call.
#[pg_extern(name = "rgrid_register")]
fn rgrid_register_all(
    worker_ids: Option<Array<'_, &str>>,
    hostname: default!(Option<&str>, "NULL"),
) -> Result<TableIterator<'static, (name!(id, String), name!(incarnation, i64))>, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_register()");
    let worker_ids = worker_ids.ok_or(Error::NullArgument("array of worker ids"))?;
    let registered = fleet::registrations::register_all(&worker_ids.iter().collect::<Vec<_>>(), hostname)?;
    databases::request_visit();
    Ok(TableIterator::new(registered))
}

fn register(worker_id: Option<&str>, hostname: Option<&str>, call: Call) -> Result<(String, i64)> {
    let caller = Caller::new(worker_id, hostname)?;
    let (incarnation, owner) = register_row(&caller, call)?;
    buffer::add_at_commit(caller.id, hostname, owner, incarnation);
    Ok((caller.id.to_owned(), incarnation))
}

/// Registers a worker, of whom memory is told nothing yet. Returns its incarnation and the role that its id belongs to.
pub(super) fn register_row(caller: &Caller<'_>, call: Call) -> Result<(i64, Option<pg_sys::Oid>)> {
    caller.check_owner()?;
    let is_new = caller.heartbeats.insert(caller.id, caller.hostname(), client_address)?;
    register_in_row(caller, is_new, call)
}

/// The same for a worker whose row is there; `is_new` says whether it is since this call.
pub(super) fn register_in_row(
    caller: &Caller<'_>,
    is_new: bool,
    call: Call,
) -> Result<(i64, Option<pg_sys::Oid>)> {
    let Caller { installation, heartbeats, id, .. } = caller;
    let earlier = if is_new { None } else { heartbeats.lock(id)? };
    let record = deaths::worker_record(installation, id, earlier.is_some())?;
    let owner = caller.confirm_owner(&record)?;
    // From here on heartbeats of the earlier process wait for the row, and the end of its session is nothing.
    buffer::close(id);
    ties::untie(id);
    let mut incarnation = record.incarnation;
    if record.dead {
        death::close_on_return(installation, id, call.deadline)?;
    } else {
        let always = earlier.is_some();
        let worker = earlier.unwrap_or_else(|| caller.worker());
        if death::end_for_restart(installation, &worker, always, call.deadline)? {
            incarnation = deaths::worker_record(installation, id, true)?.incarnation;
        }
    }
    if !is_new {
        heartbeats.beat(id, caller.hostname(), client_address)?;
    }
    Ok((incarnation, owner))
}

/// How many ids are generated before the table is blamed: with a million workers, one id in 4,000 is taken.
const IDS_TRIED: usize = 20;

/// Registers under a generated id that no worker has used, as far as the tables know.
fn register_anew(hostname: Option<&str>) -> Result<(String, i64)> {
    let mut refused = None;
    for _ in 0..IDS_TRIED {
        let id = format!("worker-{}", &Uuid::new_v4().simple().to_string()[..8]);
        let caller = Caller::new(Some(&id), hostname)?;
        let is_unused = !deaths::has_died(&caller.installation, &id)?
            && worker_owners::owner(&caller.installation, &id)?.is_none();
        if is_unused && caller.heartbeats.insert(&id, caller.hostname(), client_address)? {
            let record = deaths::worker_record(&caller.installation, &id, false)?;
            let owner = caller.confirm_owner(&record)?;
            buffer::add_at_commit(&id, hostname, owner, record.incarnation);
            return Ok((id, record.incarnation));
        }
        refused = Some(caller.heartbeats.name.clone());
        pg::check_for_interrupts();
    }
    Err(Error::NotWritten { table: refused.unwrap_or_default() })
}

/// A worker stops on purpose. Returns whether it had a row.
///
/// Its row is deleted and no death is declared. Jobs that it still runs are settled at once; only then there is a row
/// in the ledger (reason 'deregistered'). A row that other tables refer to stays, and then the ledger says that the
/// worker is gone.
///
/// # Errors
///
/// Those of [`rgrid_heartbeat`].
#[pg_extern]
fn rgrid_deregister(worker_id: Option<&str>) -> Result<bool, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_deregister()");
    Ok(Call::begin().run(|call| deregister(worker_id, call))?)
}

fn deregister(worker_id: Option<&str>, call: Call) -> Result<bool> {
    let caller = Caller::new(worker_id, None)?;
    caller.check_owner()?;
    let Caller { installation, heartbeats, id, .. } = &caller;
    let Some(worker) = heartbeats.lock(id)? else { return Ok(false) };
    caller.check_owner()?;
    buffer::close(id);
    if deaths::worker_record(installation, id, true)?.dead {
        // What cannot be settled now stays with the death.
        death::settle_dead(installation, id, pg::now(), call.deadline)?;
    } else {
        death::end_for_leaving(installation, &worker, call.deadline)?;
    }
    settlers::note_left(installation, id, pg::now())?;
    // Keys of other tables may have it wait for their locks, or run their triggers.
    match scope::subtransaction_of_call(call.deadline, || heartbeats.delete(id)) {
        Err(error) if error.keeps_row() && !(error.is_rollback() && scope::has_one_snapshot()) => {
            if !deaths::worker_record(installation, id, true)?.dead {
                death::declare(
                    installation,
                    &[worker],
                    |_| Reason::Deregistered,
                    pg::now(),
                    &Outcome::default(),
                )?;
            }
            report::warn(Error::RowKept { worker: printable(id), reason: error.message() });
        }
        deleted => deleted?,
    }
    if heartbeats.is_own {
        worker_owners::remove(installation, &[(*id).to_owned()])?;
    }
    buffer::remove_at_commit(id);
    Ok(true)
}

/// A call that does not find all that it needs in memory. It lasts no longer than `rgrid_heartbeat.call_timeout`,
/// whatever the watched tables do.
#[derive(Clone, Copy)]
pub(super) struct Call {
    deadline: Deadline,
}

impl Call {
    pub(super) fn begin() -> Self {
        Self::within(settings::call_timeout())
    }

    pub(super) fn within(limit: Duration) -> Self {
        Self { deadline: Deadline::after(limit) }
    }

    pub(super) fn deadline(self) -> Deadline {
        self.deadline
    }

    /// Runs `work`, in which no lock is waited for longer than there is time left now.
    pub(super) fn run<T>(self, work: impl FnOnce(Self) -> Result<T>) -> Result<T> {
        timer::waiting_until(self.deadline, || work(self))
            .ok_or_else(|| Error::WorkerLocked { limit: settings::call_timeout() })?
    }
}

/// The calling worker, with checked arguments, and the tables that serve it.
pub(super) struct Caller<'a> {
    pub(super) installation: Installation,
    pub(super) heartbeats: HeartbeatTable,
    pub(super) id: &'a str,
    hostname: Option<String>,
}

impl<'a> Caller<'a> {
    pub(super) fn new(worker_id: Option<&'a str>, hostname: Option<&str>) -> Result<Self> {
        let id = worker_id.ok_or(Error::NullArgument("worker id"))?;
        let installation = Installation::of_caller()?;
        let heartbeats = HeartbeatTable::open(&installation)?;
        check_worker_id(id, heartbeats.id_limit)?;
        check_hostname(hostname)?;
        let hostname = hostname.map(str::to_owned);
        Ok(Self { installation, heartbeats, id, hostname })
    }

    fn hostname(&self) -> Option<&str> {
        self.hostname.as_deref()
    }

    /// The caller as a worker with a heartbeat just now.
    fn worker(&self) -> Worker {
        Worker { id: self.id.to_owned(), hostname: self.hostname.clone(), last_heartbeat_at: pg::now() }
    }
}

/// The hostname of a new worker that gives none: the address of this session's client. `None` on a Unix socket, and in
/// a process without a client. A pooler on this machine may use that socket for workers of other machines, so the
/// server's own name would be a guess.
pub(super) fn client_address() -> Result<Option<String>> {
    let addresses =
        sql::read("SELECT pg_catalog.host(pg_catalog.inet_client_addr())", &[], |row| row.optional(1))?;
    Ok(addresses.into_iter().flatten().next())
}

pub(super) fn check_hostname(hostname: Option<&str>) -> Result<()> {
    match hostname {
        Some(name) if name.chars().any(char::is_control) => Err(Error::ControlCharacter("hostname")),
        _ => Ok(()),
    }
}

/// Checks a worker id against the table that stores it. SQL in it is harmless: it is never part of a statement.
pub(super) fn check_worker_id(id: &str, limit: usize) -> Result<()> {
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
