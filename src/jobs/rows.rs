//! The jobs of a table as rows, each by its place.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use super::columns::Columns;
use super::quick_look;
use super::statement::Statements;
use super::table::JobTable;
use crate::error::Result;
use crate::pg::{arrays, sql};

/// A row of a table of jobs, as it is at one moment.
#[derive(Clone, Debug)]
pub struct Row {
    /// The OID of the table that it lies in, which may be a partition.
    pub table: String,
    /// Its place in there.
    pub place: String,
    /// Its primary key, where the table has one of a single column.
    pub key: Option<String>,
}

/// A worker and its rows as arguments of a statement.
pub(super) fn in_rows(worker: &str, rows: &[Row]) -> [DatumWithOid<'static>; 3] {
    [
        arrays::of(&[worker.to_owned()]),
        arrays::texts(rows.iter().map(|row| row.table.as_str())),
        arrays::texts(rows.iter().map(|row| row.place.as_str())),
    ]
}

impl JobTable {
    /// The running jobs of a worker, as rows. The first look is at the rows, and the second at who else may have them.
    pub fn rows(&self, worker: &str) -> Result<Vec<Row>> {
        let (columns, worker) = (self.columns()?, [worker.to_owned()]);
        if self.possible_workers(&columns, &worker)?.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.rows_of(&columns, &worker)?;
        let is_theirs = rows.is_empty() || self.with_living_namesake(&columns, &worker, &worker)?.is_empty();
        Ok(if is_theirs { rows } else { Vec::new() })
    }

    /// Of these workers, those that have running jobs.
    pub fn busy(&self, workers: &[String]) -> Result<Vec<String>> {
        let columns = self.columns()?;
        let workers = self.possible_workers(&columns, workers)?;
        if workers.is_empty() {
            return Ok(Vec::new());
        }
        let statement = Statements::new(self, &columns, None).workers();
        let mut busy: Vec<String> = self.as_owner(|| {
            if quick_look::idle(self, &columns, None)?.is_some() {
                return Ok(Vec::new());
            }
            sql::read_latest(&statement, &[arrays::of(&workers)], |row| row.required(1, "worker"))
        })?;
        let shared = self.with_living_namesake(&columns, &busy, &workers)?;
        busy.retain(|worker| !shared.contains(worker));
        Ok(busy)
    }

    fn rows_of(&self, columns: &Columns, worker: &[String; 1]) -> Result<Vec<Row>> {
        let key = single_key(self.relation.oid)?;
        let statement = Statements::new(self, columns, key.as_deref()).rows();
        self.as_owner(|| {
            if quick_look::idle(self, columns, Some(worker))?.is_some() {
                return Ok(Vec::new());
            }
            sql::read_latest(&statement, &[arrays::of(worker)], |row| {
                Ok(Row {
                    table: row.required(1, "table")?,
                    place: row.required(2, "place")?,
                    key: row.optional(3)?,
                })
            })
        })
    }
}

/// The column of a table's primary key; `None` when it has more than one, or there is no key.
pub(super) fn single_key(relation: pg_sys::Oid) -> Result<Option<String>> {
    let statement = sql::SavedPlan::new(
        "SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_index i \
         JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid \
          AND a.attnum OPERATOR(pg_catalog.=) i.indkey[0] \
         WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND i.indisprimary \
           AND i.indnkeyatts OPERATOR(pg_catalog.=) 1"
            .into(),
    );
    let names = statement.read(&[relation.into()], |row| row.required(1, "key"))?;
    Ok(names.into_iter().next())
}
