//! Fences: a row trigger on a table of jobs that refuses a late result of a job that a sweep has given up.
//!
//! Runs in the sessions of operators, who put a fence up and take it down, and of workers, whose statements meet it.
//! The trigger's WHEN clause does the test, so a job that nobody gave up costs a comparison; only a violation calls
//! the function. Putting it up waits for the table's writers, as each CREATE TRIGGER does.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::{JobTable, OnDeath, registry};
use crate::pg::{self, catalog, scope, sql};
use crate::watch;

/// The trigger's name; one a table.
const TRIGGER: &str = "rgrid_fence";

/// Puts a fence up at a watched table of jobs, or renews the one that is there.
///
/// From then on a job that a sweep has given up can only be claimed afresh or given back to the queue.
///
/// # Errors
///
/// `insufficient_privilege` for a caller who does not own the table, `undefined_object` for a table that is not watched.
#[pg_extern(sql = false)]
fn rgrid_fence(job_table: Option<pg_sys::Oid>) -> Result<(), ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_fence()");
    Ok(put_up(&Installation::of_caller()?, job_table)?)
}

/// Takes the fence of a table down. Answers whether there was one.
///
/// # Errors
///
/// `insufficient_privilege` for a caller who does not own the table.
#[pg_extern(sql = false)]
fn rgrid_unfence(job_table: Option<pg_sys::Oid>) -> Result<bool, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_unfence()");
    Ok(take_down(watch::own_table(job_table)?)?)
}

/// Called for a job that its table's fence keeps as it is.
#[pg_trigger]
fn rgrid_fence_violated<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, PgTriggerError> {
    let table = trigger.table_name()?;
    ErrorReport::from(Error::GivenUp { table }).report(PgLogLevel::ERROR);
    Ok(trigger.old())
}

/// Makes a fence anew when its table's watch has changed; does nothing when there is none. Takes it down when the
/// table is not watched any more. The caller has checked who may do so.
pub fn renew(installation: &Installation, job_table: pg_sys::Oid) -> Result<()> {
    if !take_down(job_table)? {
        return Ok(());
    }
    match registry::find(installation, job_table) {
        Ok(jobs) => create(installation, &jobs),
        Err(Error::NotWatched { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn put_up(installation: &Installation, job_table: Option<pg_sys::Oid>) -> Result<()> {
    let oid = watch::own_table(job_table)?;
    let jobs = registry::find(installation, oid)?;
    take_down(oid)?;
    create(installation, &jobs)
}

/// The function that the table's fence calls.
fn function_of(job_table: pg_sys::Oid) -> Result<Option<pg_sys::Oid>> {
    let statement = "SELECT t.tgfoid FROM pg_catalog.pg_trigger t \
                     WHERE t.tgrelid OPERATOR(pg_catalog.=) $1 AND t.tgname OPERATOR(pg_catalog.=) $2::pg_catalog.name";
    let found =
        sql::select(statement, &[job_table.into(), TRIGGER.into()], |row| row.required(1, "function"))?;
    Ok(found.into_iter().next())
}

/// The extension's own trigger function, by the schema's OID: a name may mean another one by now.
fn violated(installation: &Installation) -> Result<Option<pg_sys::Oid>> {
    let statement = "SELECT p.oid FROM pg_catalog.pg_proc p \
                     WHERE p.pronamespace OPERATOR(pg_catalog.=) $1 \
                       AND p.proname OPERATOR(pg_catalog.=) 'rgrid_fence_violated' AND p.pronargs OPERATOR(pg_catalog.=) 0";
    let found = sql::select(statement, &[installation.schema.into()], |row| row.required(1, "function"))?;
    Ok(found.into_iter().next())
}

/// Whether rows of the table can move to another one: it has partitions, or is one.
fn is_partition(job_table: pg_sys::Oid) -> Result<bool> {
    let statement = "SELECT c.relispartition OR c.relkind OPERATOR(pg_catalog.=) 'p' \
                     FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) $1";
    let found = sql::select(statement, &[job_table.into()], |row| row.required(1, "kind"))?;
    Ok(found.into_iter().next().unwrap_or(false))
}

/// Takes the fence of a table down; whether there was one.
fn take_down(job_table: pg_sys::Oid) -> Result<bool> {
    let found = catalog::relation(job_table).zip(catalog::qualified_name(job_table));
    let Some((relation, name)) = found else { return Ok(false) };
    if function_of(job_table)?.is_none() {
        return Ok(false);
    }
    let statement = format!("DROP TRIGGER {TRIGGER} ON {name}");
    scope::as_role(relation.owner, &[relation.oid], || sql::execute(&statement, &[]))?;
    Ok(true)
}

/// An AFTER trigger, since any BEFORE trigger has each row locked before it is updated, which costs a quarter of the
/// UPDATE. But a row that moves to another partition sets off no AFTER UPDATE trigger.
fn create(installation: &Installation, jobs: &JobTable) -> Result<()> {
    let timing = if is_partition(jobs.relation.oid)? { "BEFORE" } else { "AFTER" };
    let function = installation.sql("@extschema@.rgrid_fence_violated()");
    let statement = format!(
        "CREATE TRIGGER {TRIGGER} {timing} UPDATE OF {} ON {} FOR EACH ROW WHEN ({}) EXECUTE FUNCTION {function}",
        quote_identifier(&jobs.watch.status_column),
        jobs.name,
        condition(jobs)?,
    );
    scope::as_role(jobs.relation.owner, &[jobs.relation.oid], || sql::execute(&statement, &[]))?;
    // Whoever owns the schema may have put another table or function in the place of ours.
    let (made, ours) = (function_of(jobs.relation.oid)?, violated(installation)?);
    if made.is_none() || made != ours {
        return Err(Error::Replaced { table: jobs.name.clone() });
    }
    Ok(())
}

/// When an update is refused: the job is as a sweep has left it, and is to become neither queued nor claimed, nor to
/// stay as it is. What a sweep leaves is told by the status and, where there is a column for it, the error message, or
/// as much of it as the column takes.
fn condition(jobs: &JobTable) -> Result<String> {
    let watch = &jobs.watch;
    let status = quote_identifier(&watch.status_column);
    let afresh = [&watch.running_status, &watch.queued_status].map(quote_literal).join(", ");
    let given_up = match watch.on_death {
        OnDeath::Fail => quote_literal(&watch.dead_status),
        OnDeath::Requeue => [&watch.dead_status, &watch.queued_status].map(quote_literal).join(", "),
    };
    let mut condition = format!("OLD.{status}::pg_catalog.text IN ({given_up})");
    let mut stays = format!("NEW.{status}::pg_catalog.text = OLD.{status}::pg_catalog.text");
    if let Some(error) = jobs.columns()?.error {
        let message = quote_literal(&watch.error_message);
        let message = format!("CAST({message} AS {})::pg_catalog.text", error.column.type_name());
        let error = error.name;
        condition += &format!(" AND pg_catalog.starts_with(OLD.{error}::pg_catalog.text, {message})");
        stays += &format!(" AND pg_catalog.starts_with(NEW.{error}::pg_catalog.text, {message})");
    }
    condition +=
        &format!(" AND (NEW.{status}::pg_catalog.text IN ({afresh})) IS NOT TRUE AND ({stays}) IS NOT TRUE");
    Ok(condition)
}
