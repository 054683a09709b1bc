//! The columns of a watched table: whether they exist and have usable types.
//!
//! Checked before each use, because the owner may have altered the table since it was watched, and more closely when it
//! is watched (see [`super::writes`]).

use pgrx::{pg_sys, spi};

use super::rows::single_key;
use super::table::JobTable;
use super::worker_column::Holds;
use super::worker_ids::ValueType;
use crate::error::{Error, Result};
use crate::pg::catalog;
use crate::pg::catalog::Column;
use crate::rules::assignment::{Assignment, Term};
use crate::tables::job_tables::{CountedAt, OnDeath};

/// A column of a watched table.
#[derive(Clone, Debug)]
pub struct ColumnRef {
    /// Its name, quoted where SQL needs it.
    pub name: String,
    /// Its name as the catalog has it.
    pub catalog_name: String,
    /// Its entry in the catalog.
    pub column: Column,
}

/// The columns of a watched table that its settling needs.
#[derive(Clone, Debug)]
pub struct Columns {
    /// The worker that runs the job.
    pub worker: ColumnRef,
    /// How it has the worker's id, which is of a scalar type.
    pub worker_holds: Holds,
    /// As what ids are compared; `None` for text.
    pub worker_values: Option<ValueType>,
    /// The job's status: text, or an enum.
    pub status: ColumnRef,
    /// Where the reason goes: text, json or jsonb.
    pub error: Option<ColumnRef>,
    /// Where the time goes: a date, a timestamp with or without time zone, or a number.
    pub finished: Option<ColumnRef>,
    /// What else is set in jobs that fail.
    pub set_at_failure: Vec<NewValue>,
    /// Those needed to requeue jobs; `None` where jobs are failed.
    pub requeue: Option<Requeue>,
}

/// The columns that only requeueing needs.
#[derive(Clone, Debug)]
pub struct Requeue {
    /// Where the attempts of a job are counted.
    pub counter: Counter,
    /// Attempts that a job may use up: an integer.
    pub max_attempts: Option<ColumnRef>,
    /// When the current attempt was started: of any type.
    pub started: Option<ColumnRef>,
    /// What else is set in jobs that are requeued.
    pub set: Vec<NewValue>,
}

/// Where the attempts of a job are counted.
#[derive(Clone, Debug)]
pub enum Counter {
    /// In an integer that settling counts up.
    AtDeath(ColumnRef),
    /// In an integer that the queue counts up when a job is claimed.
    AtClaim(ColumnRef),
    /// In the extension's own table, by the job's primary key.
    Own(ColumnRef),
}

/// A column that gets a value, the first of these that is not NULL.
#[derive(Clone, Debug)]
pub struct NewValue {
    /// The column.
    pub column: ColumnRef,
    /// What it gets.
    pub value: Vec<Term>,
}

impl Columns {
    /// Looks the columns up.
    ///
    /// # Errors
    ///
    /// When one of them is missing or has a type that cannot be used.
    pub fn of(table: &JobTable) -> Result<Self> {
        let mapping = &table.mapping;
        let find = |name: &String| table.column(name);
        let requeue = match mapping.on_death {
            OnDeath::Fail => None,
            OnDeath::Requeue => Some(Requeue {
                counter: Counter::of(table)?,
                max_attempts: mapping.max_attempts_column.as_ref().map(find).transpose()?,
                started: mapping.started_column.as_ref().map(find).transpose()?,
                set: table.new_values(&mapping.set_at_requeue)?,
            }),
        };
        let worker = find(&mapping.worker_column)?;
        let worker_holds = Holds::of(&worker.column);
        let columns = Self {
            worker_values: ValueType::of_column(&worker_holds.id(&worker.column)),
            worker_holds,
            worker,
            status: find(&mapping.status_column)?,
            error: mapping.error_column.as_ref().map(find).transpose()?,
            finished: mapping.finished_column.as_ref().map(find).transpose()?,
            set_at_failure: table.new_values(&mapping.set_at_failure)?,
            requeue,
        };
        columns.check_types(table)?;
        Ok(columns)
    }

    /// The worker's id, of a row whose name comes with a dot, or of the row that an index is on.
    pub fn worker_id(&self, row: &str) -> String {
        self.worker_holds.expression(&self.worker, row)
    }

    /// Whether a job that goes back to the queue loses its worker. A list of workers stays as it is, and a generated
    /// column follows what it is made of.
    pub fn clears_worker(&self) -> bool {
        self.requeue.is_some() && self.worker_holds == Holds::Id && !self.worker.column.is_generated
    }

    /// What else is set in jobs, at a requeue and at a failure.
    pub fn new_values(&self) -> impl Iterator<Item = &NewValue> {
        self.requeue.iter().flat_map(|requeue| &requeue.set).chain(&self.set_at_failure)
    }

    fn check_types(&self, table: &JobTable) -> Result<()> {
        let check = |known: &ColumnRef, fits: &dyn Fn(&Column) -> bool, wanted| match fits(&known.column) {
            true => Ok(()),
            false => {
                Err(Error::ColumnType { table: table.target.clone(), column: known.name.clone(), wanted })
            }
        };
        let has_scalar_id = |column: &Column| is_scalar(&self.worker_holds.id(column));
        check(
            &self.worker,
            &has_scalar_id,
            "text, uuid or another scalar type, an array of it, json or jsonb",
        )?;
        check(&self.status, &is_status, "text, character varying or an enum")?;
        if let Some(error) = &self.error {
            check(
                error,
                &|column| is_text(column) || column.is_json(),
                "text, character varying, json or jsonb",
            )?;
        }
        let are_now = self.new_values().filter(|new| new.value.contains(&Term::Now)).map(|new| &new.column);
        let takes_numbers = table.mapping.epoch_unit.is_some();
        let is_time = |column: &Column| is_time(column) || takes_numbers && is_bigint(column);
        let wanted = "date, or timestamp with or without time zone, or bigint with epoch_unit";
        for time in self.finished.iter().chain(are_now) {
            check(time, &is_time, wanted)?;
        }
        let integers = self.requeue.iter().flat_map(|r| [r.counter.column(), r.max_attempts.as_ref()]);
        for integer in integers.flatten() {
            check(integer, &is_integer, "smallint, integer or bigint")?;
        }
        Ok(())
    }
}

impl Counter {
    fn of(table: &JobTable) -> Result<Self> {
        let mapping = &table.mapping;
        let key = || single_key(table.relation.oid)?.ok_or(Error::NoAttemptsColumn);
        match (&mapping.attempts_column, mapping.attempts_counted_at) {
            (Some(column), CountedAt::Death) => table.column(column).map(Self::AtDeath),
            (Some(column), CountedAt::Claim) => table.column(column).map(Self::AtClaim),
            (None, CountedAt::Death) => table.column(&key()?).map(Self::Own),
            (None, CountedAt::Claim) => Err(Error::NoClaimCounter),
        }
    }

    /// The column of the table that counts.
    pub fn column(&self) -> Option<&ColumnRef> {
        match self {
            Self::AtDeath(column) | Self::AtClaim(column) => Some(column),
            Self::Own(_) => None,
        }
    }
}

impl JobTable {
    fn new_values(&self, assignments: &[String]) -> Result<Vec<NewValue>> {
        let read = |text: &String| {
            let invalid = |reason| Error::InvalidAssignment { text: text.clone(), reason };
            let Assignment { column, value } = Assignment::parse(text).map_err(invalid)?;
            for term in &value {
                if let Term::Column(name) = term {
                    self.column(name)?;
                }
            }
            Ok(NewValue { column: self.column(&column)?, value })
        };
        assignments.iter().map(read).collect()
    }

    fn column(&self, name: &str) -> Result<ColumnRef> {
        match catalog::column(self.relation.oid, name) {
            Some(column) => {
                Ok(ColumnRef { name: spi::quote_identifier(name), catalog_name: name.to_owned(), column })
            }
            None => Err(Error::UndefinedColumn { table: self.target.clone(), column: name.to_owned() }),
        }
    }
}

fn is_scalar(column: &Column) -> bool {
    let compound = [
        pg_sys::TYPCATEGORY_ARRAY,
        pg_sys::TYPCATEGORY_COMPOSITE,
        pg_sys::TYPCATEGORY_PSEUDOTYPE,
        pg_sys::TYPCATEGORY_RANGE,
    ];
    // The text of a JSON string has quotes.
    !compound.contains(&column.category()) && !column.is_json()
}

fn is_text(column: &Column) -> bool {
    column.category() == pg_sys::TYPCATEGORY_STRING
}

fn is_status(column: &Column) -> bool {
    is_text(column) || column.category() == pg_sys::TYPCATEGORY_ENUM
}

fn is_time(column: &Column) -> bool {
    [pg_sys::DATEOID, pg_sys::TIMESTAMPOID, pg_sys::TIMESTAMPTZOID].contains(&column.base_type())
}

fn is_bigint(column: &Column) -> bool {
    column.base_type() == pg_sys::INT8OID
}

fn is_integer(column: &Column) -> bool {
    [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID].contains(&column.base_type())
}
