//! Rows of the extension's own tables, and of catalogs, found by their keys without a statement. For what every
//! heartbeat reads that is not taken in memory: to start a statement takes many times as long as to find a row.
//!
//! Nothing that is attached to a table is run, and no right is needed. The table stays locked as by a SELECT.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ffi::CStr;
use std::marker::PhantomData;

use pgrx::{FromDatum, IntoDatum, pg_sys};

use super::attached::Use;
use super::relcache::OpenRelation;
use super::{names, sql, version};
use crate::error::{Error, Result};

/// A row as it is stored.
pub struct StoredRow<'a> {
    tuple: pg_sys::HeapTuple,
    columns: pg_sys::TupleDesc,
    scan: PhantomData<&'a Scan>,
}

impl StoredRow<'_> {
    /// The value of a column of this type, which may be NULL.
    ///
    /// # Errors
    ///
    /// When there is no such column, or it is of another type.
    pub fn optional<T: FromDatum + IntoDatum>(&self, column: &'static CStr) -> Result<Option<T>> {
        let Some((value, type_oid)) = self.datum(column)? else { return Ok(None) };
        // SAFETY: a value of this type, which lives as long as the row; `T` has its own copy.
        unsafe { sql::value_of(value, type_oid) }
    }

    /// As [`optional`](Self::optional), of a column that is never NULL.
    pub fn required<T: FromDatum + IntoDatum>(&self, column: &'static CStr) -> Result<T> {
        self.optional(column)?.ok_or_else(|| missing(column))
    }

    /// The value of a column of type `name` that is never NULL.
    pub fn name(&self, column: &'static CStr) -> Result<String> {
        match self.datum(column)? {
            Some((value, pg_sys::NAMEOID)) => {
                // SAFETY: a name is stored with a zero at its end, and lives as long as the row.
                Ok(unsafe { CStr::from_ptr(value.cast_mut_ptr()) }.to_string_lossy().into_owned())
            }
            _ => Err(missing(column)),
        }
    }

    fn datum(&self, column: &'static CStr) -> Result<Option<(pg_sys::Datum, pg_sys::Oid)>> {
        // SAFETY: the table's description, and a name that outlives the call.
        let number = unsafe { pg_sys::SPI_fnumber(self.columns, column.as_ptr()) };
        if number <= 0 {
            return Err(missing(column));
        }
        let mut is_null = false;
        // SAFETY: a row of this table, and the number of one of its columns.
        let value = unsafe { pg_sys::SPI_getbinval(self.tuple, self.columns, number, &mut is_null) };
        // SAFETY: as above.
        let type_oid = unsafe { pg_sys::SPI_gettypeid(self.columns, number) };
        Ok((!is_null).then_some((value, type_oid)))
    }
}

fn missing(column: &'static CStr) -> Error {
    Error::MissingValue(column.to_str().unwrap_or_default())
}

/// The rows of a table of the extension, which `role` owns, whose column of text has this value. As the active snapshot
/// sees them: see [`scope::with_latest_snapshot`](super::scope::with_latest_snapshot). The primary key begins with the
/// column, if the table has one.
///
/// # Errors
///
/// [`Error::ForeignCode`] when code of others is attached to the table.
pub fn by_key<T>(
    table: pg_sys::Oid,
    role: pg_sys::Oid,
    (column, value): (&'static CStr, &str),
    read: impl FnMut(StoredRow<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let table = open(table, role)?;
    // SAFETY: the table's description, and a name that outlives the call.
    let number = unsafe { pg_sys::SPI_fnumber(table.entry().rd_att, column.as_ptr()) };
    let value = value.into_datum().filter(|_| number > 0).ok_or_else(|| missing(column))?;
    // SAFETY: open.
    let index = unsafe { version::primary_key(table.as_ptr()) };
    // SAFETY: the column is of text; its collation is by bytes, as that of the key.
    let key = unsafe { equality(number, pg_sys::F_TEXTEQ, value) };
    // SAFETY: a snapshot of this process.
    rows(&table, index, Some(key), unsafe { pg_sys::GetActiveSnapshot() }, read)
}

/// The rows of a catalog whose column of type `name` has this value, as they are now. `index` begins with the column.
pub(super) fn of_catalog<T>(
    catalog: pg_sys::Oid,
    index: u32,
    (column, value): (&'static CStr, &CStr),
    read: impl FnMut(StoredRow<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let catalog =
        OpenRelation::open(catalog, pg_sys::AccessShareLock).ok_or(Error::MissingValue("catalog"))?;
    // SAFETY: the catalog's description, and a name that outlives the call.
    let number = unsafe { pg_sys::SPI_fnumber(catalog.entry().rd_att, column.as_ptr()) };
    // SAFETY: the column is a name, with which a terminated string can be compared. It outlives the scan.
    let key = unsafe { equality(number, pg_sys::F_NAMEEQ, pg_sys::Datum::from(value.as_ptr())) };
    // No snapshot means the latest one of the catalogs.
    rows(&catalog, pg_sys::Oid::from(index), Some(key), std::ptr::null_mut(), read)
}

/// # Safety
///
/// The function compares the column of this number with such a value.
unsafe fn equality(column: i32, function: u32, value: pg_sys::Datum) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    let strategy = pg_sys::BTEqualStrategyNumber as u16;
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ScanKeyInit(&mut key, column as i16, strategy, pg_sys::Oid::from(function), value);
    }
    key
}

/// All rows of a table of the extension. See [`by_key`].
pub fn all<T>(
    table: pg_sys::Oid,
    role: pg_sys::Oid,
    read: impl FnMut(StoredRow<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    // SAFETY: a snapshot of this process.
    rows(&open(table, role)?, pg_sys::InvalidOid, None, unsafe { pg_sys::GetActiveSnapshot() }, read)
}

fn open(table: pg_sys::Oid, role: pg_sys::Oid) -> Result<OpenRelation> {
    let opened = OpenRelation::open(table, pg_sys::AccessShareLock).ok_or(Error::MissingValue("table"))?;
    names::check_attached(table, Use::Reading, role)?;
    Ok(opened)
}

fn rows<T>(
    table: &OpenRelation,
    index: pg_sys::Oid,
    mut key: Option<pg_sys::ScanKeyData>,
    snapshot: pg_sys::Snapshot,
    mut read: impl FnMut(StoredRow<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let scan = Scan::begin(table, index, key.as_mut(), snapshot);
    let columns = table.entry().rd_att;
    std::iter::from_fn(|| scan.next())
        .map(|tuple| read(StoredRow { tuple, columns, scan: PhantomData }))
        .collect()
}

/// A scan of a table; ended when dropped.
struct Scan(pg_sys::SysScanDesc);

impl Scan {
    /// By the index, if there is one.
    fn begin(
        table: &OpenRelation,
        index: pg_sys::Oid,
        key: Option<&mut pg_sys::ScanKeyData>,
        snapshot: pg_sys::Snapshot,
    ) -> Self {
        let is_by_index = index != pg_sys::InvalidOid;
        let count = i32::from(key.is_some());
        let key = key.map_or(std::ptr::null_mut(), std::ptr::from_mut);
        let table = table.as_ptr();
        // SAFETY: a snapshot that is kept for as long as the scan, and as many keys as said, which are copied.
        Self(unsafe { pg_sys::systable_beginscan(table, index, is_by_index, snapshot, count, key) })
    }

    fn next(&self) -> Option<pg_sys::HeapTuple> {
        // SAFETY: a scan that has not ended; the tuple is valid until the next one is asked for.
        let tuple = unsafe { pg_sys::systable_getnext(self.0) };
        (!tuple.is_null()).then_some(tuple)
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The abort of the (sub)transaction releases it. While an error unwinds, Postgres must not be called.
            return;
        }
        // SAFETY: begun by `begin`.
        unsafe { pg_sys::systable_endscan(self.0) };
    }
}
