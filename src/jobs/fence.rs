//! Fences: a row trigger on a table of jobs that refuses a late result of a job that a sweep has given up.
//!
//! Runs in the sessions of operators, which put a fence up and take it down, and of workers, whose statements meet it.
//! The trigger's WHEN clause does the test, so a job that was not given up costs one comparison. Only a violation calls
//! the function. Putting a fence up waits for the table's writers, as each CREATE TRIGGER does.

use pgrx::pg_sys;
use pgrx::spi::{quote_identifier, quote_literal};

use super::new_values::converted;
use super::{JobTable, watched};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::scope::{self, Scope};
use crate::pg::{catalog, sql};
use crate::tables::job_tables::OnDeath;

/// The trigger's name; one a table.
pub const TRIGGER: &str = "rgrid_fence";

/// Creates a fence again when its table's mapping has changed; does nothing when there is none. Takes it down when the
/// table is not watched any more. The caller has checked the rights.
pub fn renew(installation: &Installation, job_table: pg_sys::Oid) -> Result<()> {
    if !take_down(job_table)? {
        return Ok(());
    }
    match watched::find(installation, job_table) {
        Ok(jobs) => create(installation, &jobs),
        Err(Error::NotWatched { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts a fence up at a watched table, or renews the one that is there. The caller has checked the rights.
///
/// # Errors
///
/// `undefined_object` for a table that is not watched, `feature_not_supported` for one whose rows are elsewhere and
/// that takes no triggers.
pub fn put_up(installation: &Installation, job_table: pg_sys::Oid) -> Result<()> {
    let jobs = watched::find(installation, job_table)?;
    take_down(job_table)?;
    // Partitions get theirs from the table, also those that had one of their own.
    places(job_table)?.into_iter().try_for_each(|(place, _)| take_down(place).map(drop))?;
    create(installation, &jobs)
}

/// Whether a table has a fence of its own.
pub fn is_up(relation: &catalog::Relation) -> Result<bool> {
    Ok(relation.has_triggers_or_rules && function_of(relation.oid)?.is_some())
}

/// The function that the table's fence calls.
fn function_of(job_table: pg_sys::Oid) -> Result<Option<pg_sys::Oid>> {
    let statement = "SELECT t.tgfoid FROM pg_catalog.pg_trigger t \
                     WHERE t.tgrelid OPERATOR(pg_catalog.=) $1 AND t.tgname OPERATOR(pg_catalog.=) $2::pg_catalog.name";
    let found = sql::read(statement, &[job_table.into(), TRIGGER.into()], |row| row.required(1, "function"))?;
    Ok(found.into_iter().next())
}

/// The tables in which a fence of the table stands, itself and its partitions, and whether it is enabled there for
/// those who write.
pub fn places(job_table: pg_sys::Oid) -> Result<Vec<(pg_sys::Oid, bool)>> {
    let statement = "SELECT t.tgrelid, t.tgenabled::pg_catalog.text OPERATOR(pg_catalog.=) ANY ('{O,A}') \
                     FROM pg_catalog.pg_trigger t \
                     WHERE (t.tgrelid OPERATOR(pg_catalog.=) $1 OR t.tgrelid OPERATOR(pg_catalog.=) ANY \
                               (SELECT p.relid FROM pg_catalog.pg_partition_tree($1) p)) \
                       AND t.tgname OPERATOR(pg_catalog.=) $2::pg_catalog.name \
                     ORDER BY t.tgrelid";
    sql::read(statement, &[job_table.into(), TRIGGER.into()], |row| {
        Ok((row.required(1, "table")?, row.required(2, "state")?))
    })
}

/// The extension's own trigger function, found by the schema's OID: its name may mean another schema by now.
fn violated(installation: &Installation) -> Result<Option<pg_sys::Oid>> {
    let statement = "SELECT p.oid FROM pg_catalog.pg_proc p \
                     WHERE p.pronamespace OPERATOR(pg_catalog.=) $1 \
                       AND p.proname OPERATOR(pg_catalog.=) 'rgrid_fence_violated' AND p.pronargs OPERATOR(pg_catalog.=) 0";
    let found = sql::read(statement, &[installation.schema.into()], |row| row.required(1, "function"))?;
    Ok(found.into_iter().next())
}

/// Whether rows of the table can move to another one: it has partitions, or is one.
fn is_partition(job_table: pg_sys::Oid) -> Result<bool> {
    let statement = "SELECT c.relispartition OR c.relkind OPERATOR(pg_catalog.=) 'p' \
                     FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) $1";
    let found = sql::read(statement, &[job_table.into()], |row| row.required(1, "kind"))?;
    Ok(found.into_iter().next().unwrap_or(false))
}

/// Takes the fence of a table down. Returns whether there was one.
pub fn take_down(job_table: pg_sys::Oid) -> Result<bool> {
    let found = catalog::relation(job_table).zip(catalog::qualified_name(job_table));
    let Some((relation, name)) = found else { return Ok(false) };
    if function_of(job_table)?.is_none() {
        return Ok(false);
    }
    let statement = format!("DROP TRIGGER {TRIGGER} ON {name}");
    Scope::of(relation.owner, &[relation.oid]).run(|| sql::write(&statement, &[]))?;
    Ok(true)
}

/// Creates an AFTER trigger: with a BEFORE trigger PostgreSQL locks each row before it updates it, which costs a
/// quarter of the UPDATE. But a row that moves to another partition fires no AFTER UPDATE trigger, so partitions get a
/// BEFORE trigger.
fn create(installation: &Installation, jobs: &JobTable) -> Result<()> {
    let timing = if is_partition(jobs.relation.oid)? { "BEFORE" } else { "AFTER" };
    let function = installation.sql("@extschema@.rgrid_fence_violated()");
    let statement = format!(
        "CREATE TRIGGER {TRIGGER} {timing} UPDATE OF {} ON {} FOR EACH ROW WHEN ({}) EXECUTE FUNCTION {function}",
        quote_identifier(&jobs.mapping.status_column),
        jobs.watched.name,
        condition(jobs)?,
    );
    let write = || Scope::of(jobs.relation.owner, &[jobs.relation.oid]).run(|| sql::write(&statement, &[]));
    scope::subtransaction(write).map_err(|error| match jobs.is_elsewhere() {
        true => Error::FenceRefused { table: jobs.watched.name.clone(), reason: error.message() },
        false => error,
    })?;
    // The owner of the schema may have put another table or function in the place of ours.
    let (made, ours) = (function_of(jobs.relation.oid)?, violated(installation)?);
    if made.is_none() || made != ours {
        return Err(Error::Replaced { table: jobs.watched.name.clone() });
    }
    Ok(())
}

/// The condition under which an update is refused: the job is as a sweep left it, and the update neither queues it, nor
/// claims it, nor leaves it as it is. A sweep's result is recognised by the status and, where there is a column for it,
/// by the error message, or as much of it as fits in the column.
fn condition(jobs: &JobTable) -> Result<String> {
    let mapping = &jobs.mapping;
    let status = quote_identifier(&mapping.status_column);
    let afresh = mapping.running_statuses().chain([&mapping.queued_status]).map(quote_literal);
    let afresh = afresh.collect::<Vec<_>>().join(", ");
    let given_up = match mapping.on_death {
        OnDeath::Fail => quote_literal(&mapping.dead_status),
        OnDeath::Requeue => [&mapping.dead_status, &mapping.queued_status].map(quote_literal).join(", "),
    };
    let mut condition = format!("OLD.{status}::pg_catalog.text IN ({given_up})");
    let mut stays = format!("NEW.{status}::pg_catalog.text = OLD.{status}::pg_catalog.text");
    if let Some(error) = jobs.columns()?.error {
        let (message, is_json) = (quote_literal(&mapping.error_message), error.column.is_json());
        let message = if is_json { message } else { converted(&message, &error.column) };
        // By bytes: a nondeterministic collation of the column has no beginnings.
        let begins = |row: &str| {
            let error = match is_json {
                true => format!("({row}.{}::pg_catalog.jsonb OPERATOR(pg_catalog.#>>) '{{}}')", error.name),
                false => format!("{row}.{}::pg_catalog.text", error.name),
            };
            format!(
                " AND pg_catalog.starts_with({error} COLLATE pg_catalog.\"C\", {message}::pg_catalog.text)"
            )
        };
        condition += &begins("OLD");
        stays += &begins("NEW");
    }
    condition +=
        &format!(" AND (NEW.{status}::pg_catalog.text IN ({afresh})) IS NOT TRUE AND ({stays}) IS NOT TRUE");
    Ok(condition)
}
