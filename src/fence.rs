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
use crate::jobs::{self, JobTable};
use crate::pg::{self, catalog, scope, sql};

/// The trigger's name; one a table.
const TRIGGER: &str = "rgrid_fence";

/// Status of a job that waits to be claimed.
const QUEUED: &str = "queued";

/// Puts a fence up at a watched table of jobs, or renews the one that is there.
///
/// From then on a job that a sweep has given up can only be claimed afresh or given back to the queue.
///
/// # Errors
///
/// `insufficient_privilege` for a caller who does not own the table, `undefined_object` for a table that is not watched.
#[pg_extern(sql = false)]
fn rgrid_fence(job_table: pg_sys::Oid) -> Result<(), ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_fence()");
    Ok(put_up(&Installation::of_caller()?, job_table)?)
}

/// Takes the fence of a table down. Answers whether there was one.
///
/// # Errors
///
/// `insufficient_privilege` for a caller who does not own the table.
#[pg_extern(sql = false)]
fn rgrid_unfence(job_table: pg_sys::Oid) -> Result<bool, ErrorReport> {
    pg::prevent_unless_writable(c"rgrid_unfence()");
    let table = owned_by_caller(job_table)?;
    let is_fenced = is_fenced(job_table)?;
    if is_fenced {
        take_down(&table)?;
    }
    Ok(is_fenced)
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
    if !is_fenced(job_table)? {
        return Ok(());
    }
    take_down(&Table::find(job_table)?)?;
    match watched(installation, job_table)? {
        Some(jobs) => create(installation, &jobs),
        None => Ok(()),
    }
}

fn put_up(installation: &Installation, job_table: pg_sys::Oid) -> Result<()> {
    let table = owned_by_caller(job_table)?;
    let Some(jobs) = watched(installation, job_table)? else {
        return Err(Error::NotWatched { table: table.name });
    };
    if is_fenced(job_table)? {
        take_down(&table)?;
    }
    create(installation, &jobs)
}

/// A table by its name and owner.
struct Table {
    name: String,
    relation: catalog::Relation,
}

impl Table {
    fn find(oid: pg_sys::Oid) -> Result<Self> {
        let found = catalog::relation(oid).zip(catalog::qualified_name(oid));
        let (relation, name) = found.ok_or_else(|| Error::NotWatched { table: oid.to_string() })?;
        Ok(Self { name, relation })
    }
}

/// The table, if the caller has its owner's rights.
fn owned_by_caller(oid: pg_sys::Oid) -> Result<Table> {
    let table = Table::find(oid)?;
    let statement = "SELECT pg_catalog.pg_has_role($1, 'USAGE')";
    let owns = sql::select(statement, &[table.relation.owner.into()], |row| row.required(1, "membership"))?;
    match owns.first() {
        Some(true) => Ok(table),
        _ => Err(Error::NotOwner { table: table.name }),
    }
}

fn watched(installation: &Installation, job_table: pg_sys::Oid) -> Result<Option<JobTable>> {
    let watched = jobs::watched(installation)?;
    Ok(watched.into_iter().find(|table| table.relation.oid == job_table))
}

fn is_fenced(job_table: pg_sys::Oid) -> Result<bool> {
    Ok(function_of(job_table)?.is_some())
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

fn take_down(table: &Table) -> Result<()> {
    let statement = format!("DROP TRIGGER {TRIGGER} ON {}", table.name);
    scope::as_role(table.relation.owner, &[table.relation.oid], || sql::execute(&statement, &[]))?;
    Ok(())
}

/// An AFTER trigger, since any BEFORE trigger has each row locked before it is updated, which costs a quarter of the
/// UPDATE. But a row that moves to another partition sets off no AFTER UPDATE trigger.
fn create(installation: &Installation, jobs: &JobTable) -> Result<()> {
    let timing = if is_partition(jobs.relation.oid)? { "BEFORE" } else { "AFTER" };
    let function = installation.sql("@extschema@.rgrid_fence_violated()");
    let statement = format!(
        "CREATE TRIGGER {TRIGGER} {timing} UPDATE OF {} ON {} FOR EACH ROW WHEN ({}) EXECUTE FUNCTION {function}",
        quote_identifier(&jobs.status_column),
        jobs.name,
        condition(jobs),
    );
    scope::as_role(jobs.relation.owner, &[jobs.relation.oid], || sql::execute(&statement, &[]))?;
    // Whoever owns the schema may have put another table or function in the place of ours.
    let (made, ours) = (function_of(jobs.relation.oid)?, violated(installation)?);
    if made.is_none() || made != ours {
        return Err(Error::Replaced { table: jobs.name.clone() });
    }
    Ok(())
}

/// When an update is refused: the job is as a sweep has left it, and is to become something else than queued or
/// claimed. What a sweep leaves is told by the status and, where there is a column for it, the error message.
fn condition(jobs: &JobTable) -> String {
    let status = quote_identifier(&jobs.status_column);
    let allowed = [&jobs.dead_status, &jobs.running_status, QUEUED].map(quote_literal).join(", ");
    let given_up = quote_literal(&jobs.dead_status);
    let mut condition = format!("OLD.{status}::pg_catalog.text IN ({given_up})");
    if let Some(column) = &jobs.error_column {
        let (error, message) = (quote_identifier(column), quote_literal(&jobs.error_message));
        condition += &format!(" AND pg_catalog.starts_with(OLD.{error}::pg_catalog.text, {message})");
    }
    condition + &format!(" AND (NEW.{status} IS NULL OR NEW.{status}::pg_catalog.text NOT IN ({allowed}))")
}
