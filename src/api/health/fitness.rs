//! Whether a watched table can be settled, and whether its fence does its work.

use pgrx::spi::quote_literal;

use super::Finding;
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::{JobTable, entries, fence};
use crate::pg::{catalog, sql};
use crate::shmem::problems::{self, KnownProblem};
use crate::shmem::quarantine::{self, Record};
use crate::tables::tried_tables;

/// What to do about a table whose owner's code has ended a process.
const LOOK_AT_TRIGGERS: &str =
    "Look at the triggers of the table. Sweepers try it again within an hour; rgrid_sweep() does not.";

/// Whether the table can be settled.
pub(super) fn fitness(check: String, installation: &Installation, table: &JobTable) -> Result<Finding> {
    if let Err(error) = table.columns() {
        return Ok(Finding::error(
            check,
            format!("Its jobs cannot be settled: {}.", error.message()),
            "Alter the table, or call rgrid_watch_jobs() with other columns.",
        ));
    }
    if let Some(subscription) = &table.subscription {
        let error = Error::JobsReplicated { subscription: subscription.clone() }.report();
        let detail = format!("Its jobs are not settled here: {}.", error.message);
        return Ok(Finding::warning(check, detail, error.hint.unwrap_or_default()));
    }
    match what_stands(&check, table) {
        Some(finding) => Ok(finding),
        None => triggers(check, installation, table),
    }
}

/// What sweeps could not do with the table, and why they leave it alone.
fn what_stands(check: &str, table: &JobTable) -> Option<Finding> {
    let record = quarantine::record(table.watched.oid);
    let is_of_table = |problem: &KnownProblem| problem.place.job_table() == Some(table.relation.oid);
    if let Some(problem) = problems::current().into_iter().find(|known| is_of_table(known) && !known.is_over)
    {
        let hint = match record {
            Record::Clean => {
                "Fix the cause; it is tried again within five minutes, or by SELECT rgrid_sweep() at once."
            }
            Record::Settled => "Fix the cause; a sweeper tries it again within five minutes.",
            Record::OnTrial | Record::LeftOut => LOOK_AT_TRIGGERS,
        };
        let since = super::database::time(problem.since());
        let found = format!("Since {since} sweeps could not settle its jobs: {}.", problem.reason());
        return Some(Finding::error(check, found, hint));
    }
    matches!(record, Record::OnTrial | Record::LeftOut).then(|| {
        Finding::warning(
            check,
            "Code of its owner has ended a process or held it up. None of its jobs was settled since then.",
            LOOK_AT_TRIGGERS,
        )
    })
}

/// Whether its triggers find what they name, and whether they were ever tried.
fn triggers(check: String, installation: &Installation, table: &JobTable) -> Result<Finding> {
    let path = table.owners_path()?;
    let (has_triggers, was_tried) =
        (has_triggers(table)?, tried_tables::contains(installation, table.watched.oid)?);
    let triggers = format!("Its triggers run with the search_path {}.", path.setting());
    Ok(match path.revoke() {
        Some(revoke) if has_triggers => Finding::warning(
            check,
            format!(
                "Its triggers run with the search_path {}: names that are only in such a schema are not found when jobs \
                 are settled.",
                path.describe()
            ),
            format!("{revoke} or write the names in the triggers with their schema."),
        ),
        _ if has_triggers && !was_tried => Finding::warning(
            check,
            format!("It was never tried: no death and no rehearsal has settled a job of it yet. {triggers}"),
            installation.sql(&format!(
                "SELECT * FROM @extschema@.rgrid_rehearse({});",
                quote_literal(&table.watched.name)
            )),
        ),
        _ if !was_tried => Finding::good(
            check,
            "It has the needed columns and no triggers. It was never tried: no death and no rehearsal has settled a \
             job of it yet.",
        ),
        _ => Finding::good(
            check,
            format!("It has the needed columns, and the last sweep had no problem with it. {triggers}"),
        ),
    })
}

/// Whether the table has triggers that are its owner's.
fn has_triggers(table: &JobTable) -> Result<bool> {
    let statement = "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid OPERATOR(pg_catalog.=) $1 \
                         AND NOT t.tgisinternal AND t.tgenabled OPERATOR(pg_catalog.<>) 'D' AND t.tgname OPERATOR(pg_catalog.<>) $2::pg_catalog.name)";
    let arguments = [table.watched.oid.into(), fence::TRIGGER.into()];
    let found = sql::read(statement, &arguments, |row| row.required::<bool>(1, "existence"))?;
    Ok(found == [true])
}

/// Whether a fence that was put up does its work.
pub(super) fn fence_state(check: String, installation: &Installation, table: &JobTable) -> Result<Finding> {
    if !fence::is_up(&table.relation)? && entries::had_fence(installation, table)? {
        let name = &table.watched.name;
        return Ok(Finding::warning(
            check,
            "Its fence is gone: late results of jobs that were given up are stored.",
            installation.sql(&format!(
                "SELECT @extschema@.rgrid_fence({0}); or, without one, rgrid_unfence({0}).",
                quote_literal(name)
            )),
        ));
    }
    let places = fence::places(table.relation.oid)?;
    let disabled = places.iter().find(|(_, is_enabled)| !is_enabled).map(|(place, _)| *place);
    Ok(match disabled.and_then(catalog::qualified_name) {
        Some(name) => Finding::warning(
            check,
            format!(
                "The trigger {} of {name} is disabled: late results of jobs that were given up are stored.",
                fence::TRIGGER
            ),
            format!("ALTER TABLE {name} ENABLE TRIGGER {};", fence::TRIGGER),
        ),
        None if places.is_empty() => {
            Finding::good(check, "There is no fence: late results of jobs that were given up are stored.")
        }
        None => Finding::good(check, "Late results of jobs that were given up are refused."),
    })
}
