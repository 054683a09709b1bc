//! SQL statements through SPI, with the rows as values.

use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiHeapTupleData;
use pgrx::{FromDatum, IntoDatum, Spi};

use crate::error::{Error, Result};

/// One row of a result; columns are counted from 1.
pub struct Row<'a>(SpiHeapTupleData<'a>);

impl Row<'_> {
    /// A column that may be NULL.
    pub fn optional<T: FromDatum + IntoDatum>(&self, column: usize) -> Result<Option<T>> {
        Ok(self.0.get(column)?)
    }

    /// A column that is never NULL; `what` names it in the error that cannot happen.
    pub fn required<T: FromDatum + IntoDatum>(&self, column: usize, what: &'static str) -> Result<T> {
        self.optional(column)?.ok_or(Error::MissingValue(what))
    }
}

/// Runs a statement that changes nothing and takes no row lock, and reads each row by `read`.
pub fn select<T>(
    statement: &str,
    arguments: &[DatumWithOid<'_>],
    read: impl Fn(Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    Spi::connect(|client| client.select(statement, None, arguments)?.map(|row| read(Row(row))).collect())
}

/// Runs a statement that changes or locks rows, and reads each row that it returns by `read`.
pub fn update<T>(
    statement: &str,
    arguments: &[DatumWithOid<'_>],
    read: impl Fn(Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    Spi::connect_mut(|client| client.update(statement, None, arguments)?.map(|row| read(Row(row))).collect())
}

/// Runs a statement that changes rows and returns none; the number of rows it changed.
pub fn execute(statement: &str, arguments: &[DatumWithOid<'_>]) -> Result<usize> {
    Spi::connect_mut(|client| Ok(client.update(statement, None, arguments)?.len()))
}
