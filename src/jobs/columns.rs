//! The columns of a watched table: whether they exist and have usable types.
//!
//! Checked before each use, because the owner may have altered the table since it was watched, and more closely when it
//! is watched.

use std::collections::HashSet;

use pgrx::{pg_sys, spi};

use super::statement::converted;
use super::table::JobTable;
use super::worker_ids::ValueType;
use crate::error::{Error, Result};
use crate::pg::catalog::Column;
use crate::pg::timer::Deadline;
use crate::pg::{catalog, scope, sql};
use crate::settings;
use crate::shmem::quarantine;
use crate::tables::job_tables::OnDeath;

/// A column of a watched table.
#[derive(Clone, Debug)]
pub struct ColumnRef {
    /// Its name, quoted where SQL needs it.
    pub name: String,
    /// Its entry in the catalog.
    pub column: Column,
}

/// The columns of a watched table that its settling needs.
#[derive(Clone, Debug)]
pub struct Columns {
    /// The worker that runs the job: of a scalar type.
    pub worker: ColumnRef,
    /// As what its ids are compared; `None` for text.
    pub worker_values: Option<ValueType>,
    /// The job's status: text, or an enum.
    pub status: ColumnRef,
    /// Where the reason goes: text.
    pub error: Option<ColumnRef>,
    /// Where the time goes: a date, or a timestamp with or without time zone.
    pub finished: Option<ColumnRef>,
    /// Those needed to requeue jobs; `None` where jobs are failed.
    pub requeue: Option<Requeue>,
}

/// The columns that only requeueing needs.
#[derive(Clone, Debug)]
pub struct Requeue {
    /// Attempts that a job has used up: an integer.
    pub attempts: ColumnRef,
    /// Attempts that a job may use up: an integer.
    pub max_attempts: Option<ColumnRef>,
    /// When the current attempt was started: of any type.
    pub started: Option<ColumnRef>,
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
                attempts: find(mapping.attempts_column.as_ref().ok_or(Error::NoAttemptsColumn)?)?,
                max_attempts: mapping.max_attempts_column.as_ref().map(find).transpose()?,
                started: mapping.started_column.as_ref().map(find).transpose()?,
            }),
        };
        let worker = find(&mapping.worker_column)?;
        let columns = Self {
            worker_values: ValueType::of(&worker.column),
            worker,
            status: find(&mapping.status_column)?,
            error: mapping.error_column.as_ref().map(find).transpose()?,
            finished: mapping.finished_column.as_ref().map(find).transpose()?,
            requeue,
        };
        columns.check_types(table)?;
        Ok(columns)
    }

    fn check_types(&self, table: &JobTable) -> Result<()> {
        let check = |known: &ColumnRef, fits: fn(&Column) -> bool, wanted| match fits(&known.column) {
            true => Ok(()),
            false => {
                Err(Error::ColumnType { table: table.target.clone(), column: known.name.clone(), wanted })
            }
        };
        check(&self.worker, is_scalar, "text, uuid or another scalar type")?;
        check(&self.status, is_status, "text, character varying or an enum")?;
        if let Some(error) = &self.error {
            check(error, is_text, "text or character varying")?;
        }
        if let Some(finished) = &self.finished {
            check(finished, is_time, "date, or timestamp with or without time zone")?;
        }
        let integers = self.requeue.iter().flat_map(|r| [Some(&r.attempts), r.max_attempts.as_ref()]);
        for integer in integers.flatten() {
            check(integer, is_integer, "smallint, integer or bigint")?;
        }
        Ok(())
    }

    /// Checks that the columns can hold what settling writes. Only when a table is watched: later the table itself would
    /// raise the error.
    pub fn check_writes(&self, table: &JobTable) -> Result<()> {
        let mapping = &table.mapping;
        let mut names = HashSet::new();
        let mut all = mapping.written_columns().chain(mapping.read_columns());
        if let Some(name) = all.find(|name| !names.insert(*name)) {
            let column = spi::quote_identifier(name);
            return Err(Error::ColumnTwice { table: table.target.clone(), column });
        }
        for name in mapping.written_columns() {
            let ColumnRef { name: column, column: written } = table.column(name)?;
            if written.is_generated {
                return Err(Error::ColumnGenerated { table: table.target.clone(), column });
            }
            if !catalog::may_update(table.relation.owner, table.relation.oid, name)? {
                return Err(Error::OwnerMayNotUpdate { table: table.target.clone(), column });
            }
        }
        self.check_values(table)
    }

    /// The statuses can be stored, and what is cleared allows NULL. Runs as the table's owner, because a domain's checks
    /// are the owner's code.
    fn check_values(&self, table: &JobTable) -> Result<()> {
        let mapping = &table.mapping;
        self.check_status(table, &mapping.running_status)?;
        self.check_status(table, &mapping.dead_status)?;
        let Some(requeue) = &self.requeue else { return Ok(()) };
        self.check_status(table, &mapping.queued_status)?;
        let cleared = [Some(&self.worker), requeue.started.as_ref(), self.finished.as_ref()];
        match cleared.into_iter().flatten().find(|known| known.column.not_null) {
            Some(known) => {
                Err(Error::ColumnNotNull { table: table.target.clone(), column: known.name.clone() })
            }
            None => Ok(()),
        }
    }

    fn check_status(&self, table: &JobTable, value: &str) -> Result<()> {
        let literal = spi::quote_literal(value);
        let statement = format!(
            "SELECT {}::pg_catalog.text OPERATOR(pg_catalog.=) {literal}",
            converted(&literal, &self.status.column)
        );
        let deadline = Deadline::after(settings::call_timeout());
        let read = || {
            let path = table.owners_path()?.setting();
            let scope = table.scope().lock_timeout(c"1s").owners_path(&path);
            scope.run(|| sql::read(&statement, &[], |row| row.required(1, "comparison")))
        };
        let bounded = || scope::subtransaction_until(deadline, read);
        let stored: Result<Vec<bool>> = quarantine::at_work(table.watched.oid, bounded);
        let reason = match stored {
            Ok(same) if same == [true] => return Ok(()),
            Ok(_) => None,
            Err(error) => Some(error.message()),
        };
        Err(Error::ImpossibleValue {
            table: table.target.clone(),
            column: self.status.name.clone(),
            value: value.to_owned(),
            reason,
        })
    }
}

impl JobTable {
    fn column(&self, name: &str) -> Result<ColumnRef> {
        match catalog::column(self.relation.oid, name) {
            Some(column) => Ok(ColumnRef { name: spi::quote_identifier(name), column }),
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
    let json = [pg_sys::JSONOID, pg_sys::JSONBOID];
    !compound.contains(&column.category()) && !json.contains(&column.base_type())
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

fn is_integer(column: &Column) -> bool {
    [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID].contains(&column.base_type())
}
