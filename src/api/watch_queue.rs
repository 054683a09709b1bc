//! The functions with which owners have their queues settled by a call: by a function of theirs, or by the statements
//! for a queue that is known by name.
//!
//! They run in the owner's session. What is watched is called once for no worker, and that is undone: what can never
//! work is refused while its owner is there. All is checked again at each use.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::queues;
use crate::jobs::settler::Settler;
use crate::pg::functions::{self, Function};
use crate::pg::{self, catalog, roles};
use crate::tables::job_queues::{self, QueueName, Watch};
use crate::tables::unsettled_calls;

/// Has a function settle the jobs of dead workers, or changes how. Its SQL is in `sql/job_queues.sql`.
///
/// `settle(worker_ids text[], message text, declared_dead_at timestamptz)` is called at least once for each death of a
/// worker whose id begins with `worker_prefix`, by sweepers, with its owner's rights. It gets the rest of the ids. It
/// returns a row for each job, or nothing. `running(worker_ids text[])` says what is running: so jobs that dead workers
/// claim later are settled, too.
///
/// # Errors
///
/// `insufficient_privilege` for a caller that does not own the function, or when both have different owners;
/// `undefined_function`; `invalid_function_definition` for one with other arguments or another result; what a call for
/// no worker meets; `null_value_not_allowed`; `read_only_sql_transaction` on a standby or in a read-only transaction.
#[pg_extern(sql = false)]
fn rgrid_watch_function(
    settle: Option<pg_sys::Oid>,
    running: Option<pg_sys::Oid>,
    worker_prefix: Option<&str>,
) -> Result<(), ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_watch_function()");
    Ok(watch_function(settle, running, worker_prefix)?)
}

fn watch_function(
    settle: Option<pg_sys::Oid>,
    running: Option<pg_sys::Oid>,
    worker_prefix: Option<&str>,
) -> Result<()> {
    let installation = Installation::of_caller()?;
    let settle = own_function(settle)?;
    let running = running.map(function).transpose()?;
    let prefix = worker_prefix.ok_or(Error::NullArgument("worker prefix"))?;
    let name = QueueName::of_function(settle.signature);
    watch(&installation, name, running.map(|running| running.signature), prefix)
}

/// The row counts for the role that is made its watcher: the owner of what is watched, or a role with its rights.
fn watch(installation: &Installation, name: QueueName, running: Option<String>, prefix: &str) -> Result<()> {
    let watched_by = roles::name(roles::current()).unwrap_or_default();
    let watch = Watch { name, running, prefix: prefix.to_owned(), watched_by };
    let settler = match installation.as_owner(|| Settler::open(&watch)) {
        Err(Error::EntryOfAnother { .. }) => {
            return Err(Error::NotOwner { table: format!("{}.{}", watch.name.schema, watch.name.queue) });
        }
        result => result?,
    };
    // Code of a role that is no superuser can end a superuser's session, or never end.
    if !settler.is_strange_to_me() {
        settler.rehearse()?;
    }
    job_queues::put(installation, &watch)
}

/// A function settles no jobs any more. Returns whether it did. What it has not settled yet is forgotten. Its SQL is in
/// `sql/job_queues.sql`.
///
/// # Errors
///
/// `insufficient_privilege` for a caller that does not own the function; `undefined_function`;
/// `null_value_not_allowed`; `read_only_sql_transaction` on a standby or in a read-only transaction.
#[pg_extern(sql = false)]
fn rgrid_unwatch_function(settle: Option<pg_sys::Oid>) -> Result<bool, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_unwatch_function()");
    Ok(unwatch_function(settle)?)
}

fn unwatch_function(settle: Option<pg_sys::Oid>) -> Result<bool> {
    let installation = Installation::of_caller()?;
    unwatch(&installation, &QueueName::of_function(own_function(settle)?.signature))
}

fn unwatch(installation: &Installation, name: &QueueName) -> Result<bool> {
    unsettled_calls::forget_queue(installation, name)?;
    job_queues::remove(installation, name)
}

/// A function that the caller owns.
fn own_function(oid: Option<pg_sys::Oid>) -> Result<Function> {
    let function = function(oid.ok_or(Error::NullArgument("function"))?)?;
    match catalog::is_mine(function.owner) {
        true => Ok(function),
        false => Err(Error::NotFunctionOwner { function: function.signature }),
    }
}

fn function(oid: pg_sys::Oid) -> Result<Function> {
    functions::by_oid(oid)?.ok_or_else(|| Error::NoFunction { function: oid.to_u32().to_string() })
}

/// Has the jobs of dead workers settled in a queue that is known by name, or changes its prefix. Its SQL is in
/// `sql/job_queues.sql`. Without a schema it is the one where the queue's library puts it; without a prefix the queue's
/// name and a colon.
///
/// # Errors
///
/// `insufficient_privilege` for a caller that does not own the queue's tables; `undefined_object` for a queue that is
/// not known; `object_not_in_prerequisite_state` when its tables differ from those that are known; what a call for no
/// worker meets; `null_value_not_allowed`; `read_only_sql_transaction` on a standby or in a read-only transaction.
#[pg_extern(sql = false)]
fn rgrid_watch_queue(
    queue: Option<&str>,
    queue_schema: Option<&str>,
    worker_prefix: Option<&str>,
) -> Result<(), ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_watch_queue()");
    Ok(watch_queue(queue, queue_schema, worker_prefix)?)
}

fn watch_queue(queue: Option<&str>, schema: Option<&str>, worker_prefix: Option<&str>) -> Result<()> {
    let installation = Installation::of_caller()?;
    let name = queue_name(queue, schema)?;
    let default = format!("{}:", name.queue);
    watch(&installation, name, None, worker_prefix.unwrap_or(&default))
}

/// Stops watching a queue. Returns whether it was watched. Jobs that it has not settled yet are forgotten. Its SQL is
/// in `sql/job_queues.sql`.
///
/// # Errors
///
/// `insufficient_privilege` for a caller that has not the rights of the role that watched it; `undefined_object` for a
/// queue that is not known; `null_value_not_allowed`; `read_only_sql_transaction` on a standby or in a read-only
/// transaction.
#[pg_extern(sql = false)]
fn rgrid_unwatch_queue(queue: Option<&str>, queue_schema: Option<&str>) -> Result<bool, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_unwatch_queue()");
    Ok(unwatch_queue(queue, queue_schema)?)
}

fn unwatch_queue(queue: Option<&str>, schema: Option<&str>) -> Result<bool> {
    let installation = Installation::of_caller()?;
    let name = queue_name(queue, schema)?;
    let watches = job_queues::all(&installation)?;
    let Some(watch) = watches.iter().find(|watch| watch.name == name) else { return Ok(false) };
    // Its tables may be gone by now.
    if roles::named(&watch.watched_by).is_some_and(|role| !catalog::is_mine(role)) {
        return Err(Error::EntryOfAnother { role: watch.watched_by.clone() });
    }
    unwatch(&installation, &name)
}

fn queue_name(queue: Option<&str>, schema: Option<&str>) -> Result<QueueName> {
    let queue = queue.ok_or(Error::NullArgument("queue"))?;
    let known = queues::find(queue)
        .ok_or_else(|| Error::UnknownQueue { queue: queue.to_owned(), known: queues::names() })?;
    let schema = schema.unwrap_or(known.default_schema).to_owned();
    Ok(QueueName { queue: queue.to_owned(), schema })
}
