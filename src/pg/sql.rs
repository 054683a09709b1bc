//! SQL statements through SPI, with the rows as values.

use std::ffi::CString;

use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiHeapTupleData;
use pgrx::{FromDatum, IntoDatum, Spi, pg_sys};

use super::scope;
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

/// Runs a statement that changes nothing, sees what was committed until this moment in whatever isolation level,
/// and returns one row of two columns, an integer and a boolean.
#[allow(unsafe_code, reason = "pgrx's SPI takes the transaction's snapshot")]
pub fn latest_number_and_flag(statement: &str, argument: &str) -> Result<(i64, bool)> {
    let statement = CString::new(statement).map_err(|_| Error::MissingValue("statement"))?;
    let mut types = [pg_sys::TEXTOID];
    let mut values = [argument.into_datum().ok_or(Error::MissingValue("argument"))?];
    scope::with_latest_snapshot(|| {
        Spi::connect(|_client| {
            // SAFETY: connected; the arrays are as long as said. Read-only, and so with the snapshot pushed above.
            let status = unsafe {
                pg_sys::SPI_execute_with_args(
                    statement.as_ptr(),
                    1,
                    types.as_mut_ptr(),
                    values.as_mut_ptr(),
                    std::ptr::null(),
                    true,
                    1,
                )
            };
            Spi::check_status(status)?;
            // SAFETY: a result of the statement above, valid until the connection ends.
            let table = unsafe { pg_sys::SPI_tuptable.as_ref() }.ok_or(Error::MissingValue("table"))?;
            if table.numvals == 0 {
                return Err(Error::MissingValue("row"));
            }
            let column = |number| {
                let mut is_null = false;
                // SAFETY: there is a first row, and it has two columns.
                let row = unsafe { *table.vals };
                // SAFETY: as above.
                let datum = unsafe { pg_sys::SPI_getbinval(row, table.tupdesc, number, &mut is_null) };
                (datum, is_null)
            };
            let ((number, no_number), (flag, no_flag)) = (column(1), column(2));
            // SAFETY: the types are the caller's promise, which one statement keeps.
            let number =
                unsafe { i64::from_datum(number, no_number) }.ok_or(Error::MissingValue("number"))?;
            // SAFETY: as above.
            let flag = unsafe { bool::from_datum(flag, no_flag) }.ok_or(Error::MissingValue("flag"))?;
            Ok((number, flag))
        })
    })
}
