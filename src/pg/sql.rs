//! SQL statements through SPI, with the rows as values.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::mem::ManuallyDrop;
use std::rc::Rc;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::{self, PgOid};
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiHeapTupleData};
use pgrx::{FromDatum, IntoDatum, Spi};

use super::{names, scope};
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
    mut read: impl FnMut(Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let _ours = names::run(statement);
    Spi::connect(|client| client.select(statement, None, arguments)?.map(|row| read(Row(row))).collect())
}

/// Runs a statement that changes or locks rows, and reads each row that it returns by `read`.
///
/// It sees what was committed until this moment, in whatever isolation level: a death, and a job claimed after it, are
/// settled even if they are newer than the caller's snapshot.
pub fn update<T>(
    statement: &str,
    arguments: &[DatumWithOid<'_>],
    mut read: impl FnMut(Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let _ours = names::run(statement);
    Spi::connect_mut(|client| match scope::has_one_snapshot() {
        true => latest(statement, arguments)?.rows().map(|row| read(row?)).collect(),
        false => client.update(statement, None, arguments)?.map(|row| read(Row(row))).collect(),
    })
}

/// Runs a statement that changes rows and returns none; the number of rows it changed. Sees what [`update`] sees.
pub fn execute(statement: &str, arguments: &[DatumWithOid<'_>]) -> Result<usize> {
    let _ours = names::run(statement);
    Spi::connect_mut(|client| match scope::has_one_snapshot() {
        true => Ok(latest(statement, arguments)?.processed),
        false => Ok(client.update(statement, None, arguments)?.len()),
    })
}

/// What a statement returned that was run with the latest snapshot. Valid as long as the SPI connection.
struct Latest {
    processed: usize,
    table: *mut pg_sys::SPITupleTable,
}

impl Latest {
    #[allow(unsafe_code, reason = "pgrx's SPI takes the transaction's snapshot")]
    fn rows(&self) -> impl Iterator<Item = Result<Row<'_>>> {
        // SAFETY: null, or the result of the statement, which the connection keeps.
        let table = unsafe { self.table.as_ref() };
        table.into_iter().flat_map(|table| {
            (0..usize::try_from(table.numvals).unwrap_or(0)).map(|index| {
                // SAFETY: within the table.
                let tuple = unsafe { *table.vals.add(index) };
                // SAFETY: a row of this table and its description.
                let row = unsafe { SpiHeapTupleData::new(table.tupdesc, tuple) }?;
                row.map(Row).ok_or(Error::MissingValue("row"))
            })
        })
    }
}

/// Runs a statement with a snapshot of this moment in a transaction that keeps an older one. Rows that are changed
/// while it runs raise a serialization failure, as in any such transaction. Connected.
#[allow(unsafe_code, reason = "pgrx's SPI takes the transaction's snapshot")]
fn latest(statement: &str, arguments: &[DatumWithOid<'_>]) -> Result<Latest> {
    let text = CString::new(statement).map_err(|_| Error::MissingValue("statement"))?;
    let mut types: Vec<pg_sys::Oid> = arguments.iter().map(DatumWithOid::oid).collect();
    let count = i32::try_from(types.len()).map_err(|_| Error::MissingValue("statement"))?;
    // SAFETY: connected; the text and the types outlive the call. Freed with the connection.
    let plan = unsafe { pg_sys::SPI_prepare(text.as_ptr(), count, types.as_mut_ptr()) };
    if plan.is_null() {
        return Err(Error::MissingValue("plan"));
    }
    let values = arguments.iter().map(|argument| argument.datum().map(|datum| datum.sans_lifetime()));
    let nulls: Vec<_> = values.clone().map(|datum| if datum.is_some() { b' ' } else { b'n' }).collect();
    let mut values: Vec<_> = values.map(|datum| datum.unwrap_or(pg_sys::Datum::null())).collect();
    // SAFETY: in a transaction; registered as the active one while the statement runs.
    let snapshot = unsafe { pg_sys::GetLatestSnapshot() };
    // SAFETY: a plan for these arguments; no snapshot to cross-check, triggers fire, no limit.
    let status = unsafe {
        pg_sys::SPI_execute_snapshot(
            plan,
            values.as_mut_ptr(),
            nulls.as_ptr().cast(),
            snapshot,
            std::ptr::null_mut(),
            false,
            true,
            0,
        )
    };
    Spi::check_status(status)?;
    // SAFETY: globals that the statement has just set.
    let (processed, table) = unsafe { (pg_sys::SPI_processed, pg_sys::SPI_tuptable) };
    Ok(Latest { processed: usize::try_from(processed).unwrap_or(usize::MAX), table })
}

/// A statement of a worker's every call, whose plan is kept for the session. Not for arrays of any length: the
/// plan does not know how long they are.
pub struct Kept {
    statement: String,
    types: Vec<PgOid>,
}

thread_local! {
    /// The kept plans by their statements, of which there are few: the texts differ in the extension's schema
    /// and the shape of the table of heartbeats. Freed when they are forgotten and nobody runs them any more, as a
    /// statement may that is run again in a trigger of its own; at the end, the process goes without asking.
    static PLANS: ManuallyDrop<RefCell<HashMap<String, Rc<OwnedPreparedStatement>>>> =
        ManuallyDrop::new(RefCell::default());
}

impl Kept {
    /// A statement with parameters of these types.
    pub fn new(statement: String, types: &[pg_sys::Oid]) -> Self {
        Self { statement, types: types.iter().map(|oid| PgOid::from(*oid)).collect() }
    }

    fn plan(&self, client: &SpiClient<'_>) -> Result<Rc<OwnedPreparedStatement>> {
        if let Some(plan) = PLANS.with(|plans| plans.borrow().get(&self.statement).cloned()) {
            return Ok(plan);
        }
        let plan = Rc::new(client.prepare_mut(self.statement.as_str(), &self.types)?.keep());
        PLANS.with(|plans| plans.borrow_mut().insert(self.statement.clone(), Rc::clone(&plan)));
        Ok(plan)
    }

    /// Runs a statement that changes nothing, with a snapshot of its own where the isolation level has one a
    /// statement.
    pub fn select<T>(
        &self,
        arguments: &[DatumWithOid<'_>],
        read: impl Fn(Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let _ours = names::run(&self.statement);
        Spi::connect(|client| {
            let plan = self.plan(client)?;
            client.select(&*plan, None, arguments)?.map(|row| read(Row(row))).collect()
        })
    }

    /// Runs a statement that changes rows and returns none; the number of rows it changed.
    pub fn execute(&self, arguments: &[DatumWithOid<'_>]) -> Result<usize> {
        let _ours = names::run(&self.statement);
        Spi::connect_mut(|client| {
            let plan = self.plan(client)?;
            Ok(client.update(&*plan, None, arguments)?.len())
        })
    }

    /// Makes a new plan the next time: one that a rule has made empty would otherwise never change again.
    pub fn forget(&self) {
        let forgotten = PLANS.with(|plans| plans.borrow_mut().remove(&self.statement));
        drop(forgotten);
    }
}

/// How PostgreSQL would run a statement: the topmost node of its plan. Runs and changes nothing, but SPI has its own
/// mind about that: a statement for reading may not be explained, and one for changing would be refused on a standby.
#[allow(unsafe_code, reason = "pgrx's SPI knows only those two")]
pub fn plan(statement: &str) -> Result<serde_json::Value> {
    let statement = format!("EXPLAIN (FORMAT JSON) {statement}");
    let text = CString::new(statement.as_str()).map_err(|_| Error::MissingValue("statement"))?;
    let _ours = names::run(&statement);
    Spi::connect(|_client| {
        // SAFETY: connected, and the text outlives the call.
        let status = unsafe { pg_sys::SPI_execute(text.as_ptr(), false, 0) };
        Spi::check_status(status)?;
        // SAFETY: a result of the statement above, valid until the connection ends.
        let table = unsafe { pg_sys::SPI_tuptable.as_ref() }.ok_or(Error::MissingValue("table"))?;
        if table.numvals == 0 {
            return Err(Error::MissingValue("row"));
        }
        // SAFETY: there is a first row.
        let row = unsafe { *table.vals };
        // SAFETY: the row is of this description; the value as text is palloc'd, or null.
        let value = unsafe { pg_sys::SPI_getvalue(row, table.tupdesc, 1) };
        if value.is_null() {
            return Err(Error::MissingValue("plan"));
        }
        // SAFETY: just made, and terminated.
        let value = unsafe { CStr::from_ptr(value) };
        let plans: serde_json::Value = serde_json::from_slice(value.to_bytes())?;
        Ok(plans[0]["Plan"].clone())
    })
}

thread_local! {
    /// As [`PLANS`], for [`latest_number_and_flag`].
    static LATEST: RefCell<HashMap<String, pg_sys::SPIPlanPtr>> = RefCell::default();
}

/// Runs a statement that changes nothing, sees what was committed until this moment in whatever isolation level,
/// and returns one row of two columns, an integer and a boolean. Its plan is kept.
#[allow(unsafe_code, reason = "pgrx's SPI takes the transaction's snapshot")]
pub fn latest_number_and_flag(statement: &str, argument: &str) -> Result<(i64, bool)> {
    let mut values = [argument.into_datum().ok_or(Error::MissingValue("argument"))?];
    let _ours = names::run(statement);
    scope::with_latest_snapshot(|| {
        Spi::connect(|_client| {
            let plan = latest_plan(statement)?;
            // SAFETY: a kept plan of one parameter. Read-only, and so with the snapshot pushed above.
            let status =
                unsafe { pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), std::ptr::null(), true, 1) };
            Spi::check_status(status)?;
            // SAFETY: a result of the statement above, valid until the connection ends.
            let table = unsafe { pg_sys::SPI_tuptable.as_ref() }.ok_or(Error::MissingValue("table"))?;
            if table.numvals == 0 {
                return Err(Error::MissingValue("row"));
            }
            // SAFETY: there is a first row, and the types are the caller's promise.
            let number = unsafe { first_row::<i64>(table, 1) }.ok_or(Error::MissingValue("number"))?;
            // SAFETY: as above.
            let flag = unsafe { first_row::<bool>(table, 2) }.ok_or(Error::MissingValue("flag"))?;
            Ok((number, flag))
        })
    })
}

/// # Safety
///
/// The table has a row, and the column is of the type.
#[allow(unsafe_code, reason = "pgrx's SPI takes the transaction's snapshot")]
unsafe fn first_row<T: FromDatum>(table: &pg_sys::SPITupleTable, column: i32) -> Option<T> {
    let mut is_null = false;
    // SAFETY: the caller's promise.
    let row = unsafe { *table.vals };
    // SAFETY: as above.
    let datum = unsafe { pg_sys::SPI_getbinval(row, table.tupdesc, column, &mut is_null) };
    // SAFETY: as above.
    unsafe { T::from_datum(datum, is_null) }
}

#[allow(unsafe_code, reason = "pgrx's SPI takes the transaction's snapshot")]
fn latest_plan(statement: &str) -> Result<pg_sys::SPIPlanPtr> {
    if let Some(plan) = LATEST.with_borrow(|plans| plans.get(statement).copied()) {
        return Ok(plan);
    }
    let text = CString::new(statement).map_err(|_| Error::MissingValue("statement"))?;
    let mut types = [pg_sys::TEXTOID];
    // SAFETY: connected; the text and the type outlive the call.
    let plan = unsafe { pg_sys::SPI_prepare(text.as_ptr(), 1, types.as_mut_ptr()) };
    if plan.is_null() {
        return Err(Error::MissingValue("plan"));
    }
    // SAFETY: a plan that was just made, and is never freed.
    unsafe { pg_sys::SPI_keepplan(plan) };
    LATEST.with_borrow_mut(|plans| plans.insert(statement.to_owned(), plan));
    Ok(plan)
}
