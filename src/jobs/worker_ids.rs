//! Ids of workers as values of a table's worker column. Its type may take several spellings for the same, as that of a
//! uuid does. Ids are text that is compared by bytes, so the workers of these spellings are different ones: a job is
//! settled only if none of them is alive.
//!
//! An id that is no value of the type has no jobs in the table. Whether it is one, PostgreSQL says by an error, so ids
//! are converted in a subtransaction, in halves where that fails.

use std::borrow::Cow;
use std::collections::HashSet;

use pgrx::pg_sys;

use super::columns::Columns;
use super::table::{JobTable, SettledJobs};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::catalog::Column;
use crate::pg::{arrays, scope, sql};
use crate::rules::bisection::{RetryBudget, bisect};
use crate::rules::spelling::Spelling;
use crate::tables::deaths;
use crate::tables::heartbeats::HeartbeatTable;

/// A type whose values are compared, and not their text.
#[derive(Clone, Debug)]
pub struct ValueType {
    /// Its name as SQL has it; that of the type below a domain, whose checks are not for ids.
    name: String,
    /// The operator that compares two values.
    pub equals: String,
    /// Whether the column is of a domain, which has no operators of its own.
    is_below_domain: bool,
    spelling: Spelling,
}

impl ValueType {
    /// That of a worker column; `None` where text is compared. That is so for text, for types that cut what is too long
    /// for them, for enums and names of objects, which have one spelling, and for types that compare nothing. By a
    /// nondeterministic collation, too: there the bytes decide.
    pub fn of_column(column: &Column) -> Option<Self> {
        let base = column.base().unwrap_or(*column);
        let spelling = match base.type_oid {
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::NAMEOID | pg_sys::CHAROID => return None,
            pg_sys::UUIDOID => Spelling::Uuid,
            pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::OIDOID => Spelling::Number,
            pg_sys::NUMERICOID | pg_sys::FLOAT4OID | pg_sys::FLOAT8OID => Spelling::Number,
            pg_sys::INETOID | pg_sys::CIDROID => Spelling::Address,
            _ => Spelling::Any,
        };
        let is_systems = base.type_oid.to_u32() < pg_sys::FirstNormalObjectId;
        let names_an_object = is_systems
            && spelling == Spelling::Any
            && base.category() == pg_sys::TYPCATEGORY_NUMERIC
            && base.type_oid != pg_sys::MONEYOID;
        if column.is_nondeterministic() || names_an_object || base.category() == pg_sys::TYPCATEGORY_ENUM {
            return None;
        }
        // An explicit conversion would cut these.
        let is_cut = [pg_sys::TYPCATEGORY_STRING, pg_sys::TYPCATEGORY_BITSTRING].contains(&base.category());
        let stored = if is_cut { base.unlimited() } else { base };
        Some(Self {
            name: stored.type_name(),
            equals: base.equality()?,
            is_below_domain: base.type_oid != column.type_oid,
            spelling,
        })
    }

    /// The value of an id as a job has it.
    pub fn of(&self, id: &str) -> String {
        if self.is_below_domain { self.one(id) } else { id.to_owned() }
    }

    /// The value of another expression.
    fn one(&self, text: &str) -> String {
        format!("CAST({text} AS {})", self.name)
    }

    /// The values of an array of texts.
    pub fn all(&self, texts: &str) -> String {
        format!("CAST({texts} AS {}[])", self.name)
    }
}

impl JobTable {
    /// Of these ids, those that are values of the worker column's type: the others have no jobs here.
    pub fn possible_workers<'a>(&self, columns: &Columns, ids: &'a [String]) -> Result<Cow<'a, [String]>> {
        let Some(values) = &columns.worker_values else { return Ok(ids.into()) };
        let likely: Vec<String> = ids.iter().filter(|id| values.spelling.allows(id)).cloned().collect();
        match values.spelling.is_exact() || likely.is_empty() {
            true => Ok(likely.into()),
            false => self.convertible(values, &likely).map(Cow::from),
        }
    }

    /// Of these ids, those that PostgreSQL takes for values of the type. An error that it raises for no id, too, is not
    /// that of an id.
    fn convertible(&self, values: &ValueType, ids: &[String]) -> Result<Vec<String>> {
        let statement =
            format!("SELECT pg_catalog.count({}) FROM pg_catalog.unnest($1) AS w (id)", values.one("w.id"));
        let convert = |ids: &[String]| {
            let read = || sql::read(&statement, &[arrays::of(ids)], |row| row.required::<i64>(1, "count"));
            scope::subtransaction(|| self.as_owner(read))
        };
        let is_of_an_id = |error: &Error| matches!(error, Error::Caught(_));
        let mut found = Vec::new();
        let mut budget = RetryBudget::of_failures(u32::MAX);
        let mut stopped = None;
        let result = bisect(ids, &mut budget, is_of_an_id, &mut |part: &[String]| {
            if stopped.is_some() {
                return Ok(());
            }
            match convert(part) {
                Ok(_) => found.extend_from_slice(part),
                Err(error) if is_of_an_id(&error) => return Err(error),
                Err(error) => stopped = Some(error),
            }
            Ok(())
        });
        if result.is_err() && stopped.is_none() {
            convert(&[])?;
        }
        stopped.map_or(Ok(found), Err)
    }

    /// Of these ids, which are values of the worker column's type, those that have the same value as one of the others.
    pub fn spelled_as<'a>(
        &self,
        columns: &Columns,
        ids: &'a [String],
        others: &[String],
    ) -> Result<Vec<(&'a str, String)>> {
        let Some(values) = &columns.worker_values else { return Ok(Vec::new()) };
        let others = self.possible_workers(columns, others)?;
        if ids.is_empty() || others.is_empty() {
            return Ok(Vec::new());
        }
        let statement = format!(
            "SELECT w.n, o.id FROM pg_catalog.unnest($1) WITH ORDINALITY AS w (id, n) \
             JOIN pg_catalog.unnest($2) AS o (id) ON {} {} {}",
            values.one("w.id"),
            values.equals,
            values.one("o.id"),
        );
        let pair = |row: sql::Row<'_>| Ok((row.required::<i64>(1, "number")?, row.required(2, "worker id")?));
        let pairs = self.as_owner(|| sql::read(&statement, &[arrays::of(ids), arrays::of(&others)], pair))?;
        let id = |number: i64| usize::try_from(number - 1).ok().and_then(|number| ids.get(number));
        Ok(pairs.into_iter().filter_map(|(number, other)| Some((id(number)?.as_str(), other))).collect())
    }

    /// Of these workers, which have jobs here, those whose jobs may be those of a living worker, because the ids of
    /// both are spellings of the same. Those in `own` are the workers whose jobs are settled, or read.
    pub(super) fn with_living_namesake(
        &self,
        columns: &Columns,
        workers: &[String],
        own: &[String],
    ) -> Result<HashSet<String>> {
        if columns.worker_values.is_none() || workers.is_empty() {
            return Ok(HashSet::new());
        }
        let installation = Installation::find()?.ok_or(Error::NotInstalled)?;
        let mut others = HeartbeatTable::open(&installation)?.ids()?;
        let own: HashSet<&String> = own.iter().collect();
        others.retain(|id| !own.contains(id));
        let pairs = self.spelled_as(columns, workers, &others)?;
        let others: Vec<String> = pairs.iter().map(|(_, other)| other.clone()).collect();
        let dead =
            if others.is_empty() { HashSet::new() } else { deaths::dead_among(&installation, &others)? };
        let living = pairs.into_iter().filter(|(_, other)| !dead.contains(other));
        Ok(living.map(|(worker, _)| worker.to_owned()).collect())
    }

    /// Of jobs of these workers, those that are theirs alone.
    pub(super) fn of_them_alone(
        &self,
        columns: &Columns,
        mut jobs: Vec<SettledJobs>,
        workers: &[String],
    ) -> Result<Vec<SettledJobs>> {
        let shared = self.with_living_namesake(columns, &ids_of(&jobs), workers)?;
        jobs.retain(|jobs| !shared.contains(&jobs.worker));
        Ok(jobs)
    }

    /// Of these workers, those whose jobs may be settled.
    pub(super) fn settled_workers<'a>(
        &self,
        columns: &Columns,
        workers: &'a [String],
    ) -> Result<Cow<'a, [String]>> {
        let possible = self.possible_workers(columns, workers)?;
        if columns.worker_values.is_none() || possible.is_empty() {
            return Ok(possible);
        }
        let busy = ids_of(&self.running_of_possible(columns, &possible)?);
        let shared = self.with_living_namesake(columns, &busy, workers)?;
        if shared.is_empty() {
            return Ok(possible);
        }
        // Two of the workers may be spelled the same, of which one has been counted as the one that is busy.
        let shared: Vec<String> = shared.into_iter().collect();
        let shared = self.spelled_as(columns, &shared, &possible)?;
        let shared: HashSet<&String> = shared.iter().map(|(_, worker)| worker).collect();
        Ok(possible.iter().filter(|worker| !shared.contains(worker)).cloned().collect())
    }

    /// Checks that the jobs that were settled are those of these workers alone: another one may have registered, and
    /// have claimed a job, since they were read. A worker is there before its first job, so one that has none is not
    /// missed.
    pub(super) fn check_settled(
        &self,
        columns: &Columns,
        settled: &[SettledJobs],
        workers: &[String],
    ) -> Result<()> {
        let shared = self.with_living_namesake(columns, &ids_of(settled), workers)?;
        shared.into_iter().next().map_or(Ok(()), |worker| Err(Error::OtherSpelling { worker }))
    }
}

fn ids_of(jobs: &[SettledJobs]) -> Vec<String> {
    jobs.iter().map(|jobs| jobs.worker.clone()).collect()
}
