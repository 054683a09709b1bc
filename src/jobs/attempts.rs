//! The attempts of a job: which of them count, whether one is left, and the extension's own counter for tables without
//! one.
//!
//! The attempt that a death has ended is one of those that a job has used up. A queue that counts at the claim has
//! counted it by then. A limit of retries leaves the first attempt out.

use std::collections::HashSet;
use std::time::Duration;

use pgrx::datum::DatumWithOid;
use pgrx::spi::quote_literal;

use super::columns::{Columns, Counter, Requeue};
use super::statement::Statements;
use super::table::JobTable;
use super::watched;
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{arrays, scope, sql};
use crate::shmem::quarantine;
use crate::tables::job_attempts;
use crate::tables::job_tables::LimitOf;

/// The attempts of a job `j` as SQL.
pub struct Attempts {
    /// The condition for one that is left.
    pub are_left: String,
    /// Those that are used up after it was settled, as the limit counts them.
    pub used: String,
    /// How many there are.
    pub maximum: String,
}

impl Attempts {
    /// Those of a table. `counts` is what the extension's own counter has, as a literal.
    pub fn of(table: &JobTable, requeue: &Requeue, counts: Option<&str>) -> Self {
        let otherwise = table.mapping.max_attempts;
        let maximum = requeue
            .max_attempts
            .as_ref()
            .map_or(otherwise.to_string(), |column| format!("coalesce(j.{}, {otherwise})", column.name));
        let counted = counted(&requeue.counter, counts);
        let one_more = format!("{counted} OPERATOR(pg_catalog.+) 1");
        let is_at_claim = matches!(requeue.counter, Counter::AtClaim(_));
        let limit_of = table.mapping.limit_of();
        let comparison = match (is_at_claim, limit_of) {
            (true, LimitOf::Retries) => format!("{counted} OPERATOR(pg_catalog.<=) {maximum}"),
            (true, LimitOf::Attempts) | (false, LimitOf::Retries) => {
                format!("{counted} OPERATOR(pg_catalog.<) {maximum}")
            }
            (false, LimitOf::Attempts) => {
                format!("{counted} OPERATOR(pg_catalog.<) ({maximum} OPERATOR(pg_catalog.-) 1)")
            }
        };
        let are_left = format!("({comparison})");
        let either = |left: &str, none: &str| format!("CASE WHEN {are_left} THEN {left} ELSE {none} END");
        let used = match (is_at_claim, limit_of) {
            (true, LimitOf::Retries) => either(&counted, &format!("{counted} OPERATOR(pg_catalog.-) 1")),
            (true, LimitOf::Attempts) => counted,
            (false, LimitOf::Retries) => either(&one_more, &counted),
            (false, LimitOf::Attempts) => one_more,
        };
        Self { are_left, used, maximum }
    }
}

/// What is counted of a job.
fn counted(counter: &Counter, counts: Option<&str>) -> String {
    match (counter, counts) {
        (Counter::AtDeath(column) | Counter::AtClaim(column), _) => format!("coalesce(j.{}, 0)", column.name),
        (Counter::Own(_), None) => "0".into(),
        (Counter::Own(key), Some(counts)) => format!(
            "coalesce((pg_catalog.jsonb_object_field_text({counts}::pg_catalog.jsonb, \
                       j.{}::pg_catalog.text))::pg_catalog.int8, 0)",
            key.name
        ),
    }
}

impl JobTable {
    /// What the extension's own counter has of the running jobs of the workers, the only argument, as a literal for
    /// [`Attempts::of`]; `None` where it has nothing, and where the table counts.
    pub(super) fn counts(&self, columns: &Columns, workers: &[DatumWithOid<'_>]) -> Result<Option<String>> {
        let Some(Counter::Own(key)) = columns.requeue.as_ref().map(|requeue| &requeue.counter) else {
            return Ok(None);
        };
        let statement = Statements::new(self, columns, Some(&key.catalog_name)).rows();
        let read = || sql::read_latest(&statement, workers, |row| row.optional::<String>(3));
        let keys: Vec<String> = self.as_owner(read)?.into_iter().flatten().collect();
        let counts = job_attempts::of(&installation()?, &self.watched.name, &keys)?;
        Ok((!counts.is_empty()).then_some(quote_literal(serde_json::to_string(&counts)?)))
    }

    /// Counts the attempts of jobs that went back to the queue, and forgets those that have failed. Does nothing where
    /// there are none: the table counts then.
    pub(super) fn count_attempts(&self, requeued: &[String], failed: &[String]) -> Result<()> {
        if requeued.is_empty() && failed.is_empty() {
            return Ok(());
        }
        let installation = installation()?;
        job_attempts::count(&installation, &self.watched.name, requeued)?;
        job_attempts::forget(&installation, &self.watched.name, failed)
    }
}

/// Keys that are looked up in a table at once.
const BATCH: usize = 1_000;

/// Forgets the attempts of jobs that are no longer there. A table that cannot be read keeps its own.
pub fn forget_gone(installation: &Installation) -> Result<()> {
    for table in watched::watched(installation)? {
        let found = scope::subtransaction_within(LIMIT, || table.gone_jobs(installation));
        job_attempts::forget(installation, &table.watched.name, &found.unwrap_or_default())?;
    }
    Ok(())
}

/// How long the jobs of one table are looked for.
const LIMIT: Duration = Duration::from_secs(10);

impl JobTable {
    /// The keys with attempts of their own of which the table has no row.
    fn gone_jobs(&self, installation: &Installation) -> Result<Vec<String>> {
        let mut gone = Vec::new();
        let mut after = String::new();
        loop {
            let keys = job_attempts::keys_after(installation, &self.watched.name, &after, BATCH as i64)?;
            let Some(last) = keys.last() else { return Ok(gone) };
            after.clone_from(last);
            let there = self.existing(&keys)?;
            gone.extend(keys.into_iter().filter(|key| !there.contains(key)));
        }
    }

    fn existing(&self, keys: &[String]) -> Result<HashSet<String>> {
        let Some(Counter::Own(key)) = self.columns()?.requeue.map(|requeue| requeue.counter) else {
            return Err(Error::NoAttemptsColumn);
        };
        let (name, of_type) = (&key.name, key.column.unlimited().type_name());
        let equals = key.column.equality().ok_or(Error::NoAttemptsColumn)?;
        let statement = format!(
            "SELECT j.{name}::pg_catalog.text FROM {} WHERE j.{name} {equals} ANY (CAST($1 AS {of_type}[]))",
            Statements::new(self, &self.columns()?, None).target()
        );
        let read = || sql::read_latest(&statement, &[arrays::of(keys)], |row| row.required(1, "key"));
        let found = quarantine::at_work(self.watched.oid, || self.as_owner(read))?;
        Ok(found.into_iter().collect())
    }
}

fn installation() -> Result<Installation> {
    Installation::find()?.ok_or(Error::NotInstalled)
}
