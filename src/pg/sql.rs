//! SQL statements through SPI, with the rows as values: three verbs, by what a statement sees, each for a text or for a
//! saved plan.
//!
//! - `read` sees what the caller's own statement sees, and changes nothing;
//! - `read_latest` sees what was committed until this moment, whatever the isolation level, and changes nothing;
//! - `write` sees the same, and changes or locks rows: a death, and a job claimed after it, are settled even if they
//!   are newer than the caller's snapshot.
#![allow(unsafe_code, reason = "pgrx's SPI takes the transaction's snapshot, and knows no other")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::mem::ManuallyDrop;
use std::rc::Rc;

use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiError;
use pgrx::{FromDatum, IntoDatum, Spi, pg_sys};

use super::{names, scope};
use crate::error::{Error, Result};

/// One row of a result; columns are counted from 1.
pub struct Row<'a> {
    types: &'a [pg_sys::Oid],
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
}

impl Row<'_> {
    /// A column that may be NULL.
    pub fn optional<T: FromDatum + IntoDatum>(&self, column: usize) -> Result<Option<T>> {
        let index = column.wrapping_sub(1);
        let Some(type_oid) = self.types.get(index) else { return Err(Error::MissingValue("column")) };
        if self.nulls[index] {
            return Ok(None);
        }
        // SAFETY: a value of this type, which the row keeps while it is read; `T` has its own copy.
        unsafe { value_of(self.values[index], *type_oid) }
    }

    /// A column that is never NULL; `what` names it in the error that cannot happen.
    pub fn required<T: FromDatum + IntoDatum>(&self, column: usize, what: &'static str) -> Result<T> {
        self.optional(column)?.ok_or(Error::MissingValue(what))
    }
}

/// A value that is not NULL, as one of Rust's.
///
/// # Errors
///
/// When the type cannot be read as `T`.
///
/// # Safety
///
/// The value is of this type, and lives as long as the call.
pub(super) unsafe fn value_of<T: FromDatum + IntoDatum>(
    value: pg_sys::Datum,
    type_oid: pg_sys::Oid,
) -> Result<Option<T>> {
    // SAFETY: the caller's promise.
    let value = unsafe { T::try_from_datum(value, false, type_oid) };
    Ok(value.map_err(SpiError::DatumError)?)
}

/// Reads each row of the result by `read`, as the caller's own statement sees it.
pub fn read<T>(
    statement: &str,
    arguments: &[DatumWithOid<'_>],
    read: impl FnMut(Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    rows(statement, arguments, Visibility::Callers, read)
}

/// Reads each row of the result by `read`, as it is at this moment.
pub fn read_latest<T>(
    statement: &str,
    arguments: &[DatumWithOid<'_>],
    read: impl FnMut(Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    rows(statement, arguments, Visibility::Latest, read)
}

/// Changes or locks rows; returns how many.
pub fn write(statement: &str, arguments: &[DatumWithOid<'_>]) -> Result<usize> {
    run(statement, Plan::OneShot, arguments, Visibility::ToWrite, |result| Ok(result.processed))
}

/// Changes or locks rows, and reads each row that the statement returns by `read`.
pub fn write_returning<T>(
    statement: &str,
    arguments: &[DatumWithOid<'_>],
    read: impl FnMut(Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    rows(statement, arguments, Visibility::ToWrite, read)
}

fn rows<T>(
    statement: &str,
    arguments: &[DatumWithOid<'_>],
    visibility: Visibility,
    mut read: impl FnMut(Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    run(statement, Plan::OneShot, arguments, visibility, |result| result.read(&mut read))
}

/// How PostgreSQL would run a statement: the topmost node of its plan.
pub fn plan(statement: &str) -> Result<serde_json::Value> {
    // SPI refuses EXPLAIN in a read-only call, although it changes nothing.
    let plans = write_returning(&format!("EXPLAIN (FORMAT JSON) {statement}"), &[], |row| {
        let pgrx::Json(plans) = row.required(1, "plan")?;
        Ok(plans)
    })?;
    plans.first().map(|plans| plans[0]["Plan"].clone()).ok_or(Error::MissingValue("plan"))
}

/// Prepares a statement without arguments, which is not run, and looks at it by `look`.
pub(super) fn prepared<T>(statement: &str, look: impl FnOnce(pg_sys::SPIPlanPtr) -> Result<T>) -> Result<T> {
    let _ours = names::run(statement);
    Spi::connect(|_client| look(prepare(statement, &Arguments::new(&[]))?))
}

/// A statement whose plan is kept for the session, for what every call of a worker runs. Not for arrays of any length:
/// the plan does not know how long they are.
pub struct SavedPlan {
    statement: String,
}

thread_local! {
    /// The saved plans by their statements, of which there are few: the texts differ in the extension's schema
    /// and the shape of the table of heartbeats. A plan is freed when it is forgotten and no caller runs it any more: a
    /// trigger of a statement may run the same statement. The end of the process frees none.
    static PLANS: ManuallyDrop<RefCell<HashMap<String, Rc<KeptPlan>>>> = ManuallyDrop::new(RefCell::default());
}

/// A plan that outlives its connection to SPI.
struct KeptPlan(pg_sys::SPIPlanPtr);

impl Drop for KeptPlan {
    fn drop(&mut self) {
        // SAFETY: a plan of `SPI_keepplan`, freed once: this is its only owner.
        unsafe { pg_sys::SPI_freeplan(self.0) };
    }
}

impl SavedPlan {
    /// The plan of a statement, made when the statement is first run.
    pub fn new(statement: String) -> Self {
        Self { statement }
    }

    /// As [`read`], the function.
    pub fn read<T>(
        &self,
        arguments: &[DatumWithOid<'_>],
        read: impl FnMut(Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.rows(arguments, Visibility::Callers, read)
    }

    /// As [`read_latest`], the function.
    pub fn read_latest<T>(
        &self,
        arguments: &[DatumWithOid<'_>],
        read: impl FnMut(Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.rows(arguments, Visibility::Latest, read)
    }

    /// Changes or locks rows; returns how many. In a transaction that keeps one snapshot, a row that is newer than the
    /// snapshot raises a serialization failure: the worker repeats its transaction.
    pub fn write(&self, arguments: &[DatumWithOid<'_>]) -> Result<usize> {
        run(&self.statement, Plan::Saved, arguments, Visibility::ToWrite, |result| Ok(result.processed))
    }

    fn rows<T>(
        &self,
        arguments: &[DatumWithOid<'_>],
        visibility: Visibility,
        mut read: impl FnMut(Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        run(&self.statement, Plan::Saved, arguments, visibility, |result| result.read(&mut read))
    }

    /// Makes a new plan the next time: one that a rule has made empty would otherwise never change again.
    pub fn forget(&self) {
        let forgotten = PLANS.with(|plans| plans.borrow_mut().remove(&self.statement));
        drop(forgotten);
    }
}

/// What a statement sees.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Visibility {
    /// What the caller's statement sees, and what this transaction has changed.
    Callers,
    /// What was committed until this moment. Nothing is changed.
    Latest,
    /// What was committed until this moment, to change or lock it.
    ToWrite,
}

/// How a statement is planned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// For these arguments.
    OneShot,
    /// Once for the session.
    Saved,
}

/// What a statement has returned. Valid as long as the connection to SPI.
struct Outcome {
    processed: usize,
    table: *mut pg_sys::SPITupleTable,
}

impl Outcome {
    /// Reads each row by `read`. pgrx's own rows find each column from the first one on, with a jump buffer for each.
    fn read<T>(&self, read: &mut impl FnMut(Row<'_>) -> Result<T>) -> Result<Vec<T>> {
        // SAFETY: null, or the result of the statement, which the connection keeps.
        let Some(table) = (unsafe { self.table.as_ref() }).filter(|table| table.numvals > 0) else {
            return Ok(Vec::new());
        };
        // SAFETY: the description of the result.
        let columns = unsafe { (*table.tupdesc).natts };
        // SAFETY: as above, and its columns.
        let type_of = |number| unsafe { pg_sys::SPI_gettypeid(table.tupdesc, number) };
        let types: Vec<pg_sys::Oid> = (1..=columns).map(type_of).collect();
        let (mut values, mut nulls) = (vec![pg_sys::Datum::null(); types.len()], vec![false; types.len()]);
        let count = usize::try_from(table.numvals).unwrap_or(0);
        let mut rows = Vec::with_capacity(count);
        for index in 0..count {
            // SAFETY: within the table.
            let tuple = unsafe { *table.vals.add(index) };
            // SAFETY: a row of this table and its description; there is room for each column.
            unsafe {
                pg_sys::heap_deform_tuple(tuple, table.tupdesc, values.as_mut_ptr(), nulls.as_mut_ptr());
            }
            rows.push(read(Row { types: &types, values: &values, nulls: &nulls })?);
        }
        Ok(rows)
    }
}

/// Arguments as SPI takes them.
struct Arguments {
    types: Vec<pg_sys::Oid>,
    values: Vec<pg_sys::Datum>,
    /// A letter for each: blank, or `n` for NULL.
    nulls: Vec<u8>,
}

impl Arguments {
    fn new(arguments: &[DatumWithOid<'_>]) -> Self {
        let values = arguments.iter().map(|argument| argument.datum().map(|datum| datum.sans_lifetime()));
        Self {
            types: arguments.iter().map(DatumWithOid::oid).collect(),
            nulls: values.clone().map(|datum| if datum.is_some() { b' ' } else { b'n' }).collect(),
            values: values.map(|datum| datum.unwrap_or(pg_sys::Datum::null())).collect(),
        }
    }

    fn count(&self) -> i32 {
        i32::try_from(self.types.len()).unwrap_or(i32::MAX)
    }

    fn nulls(&self) -> *const c_char {
        self.nulls.as_ptr().cast()
    }
}

/// Runs a statement as one of ours and reads its result while there is a connection.
fn run<T>(
    statement: &str,
    plan: Plan,
    arguments: &[DatumWithOid<'_>],
    visibility: Visibility,
    read: impl FnOnce(&Outcome) -> Result<T>,
) -> Result<T> {
    let _ours = names::run(statement);
    let arguments = Arguments::new(arguments);
    Spi::connect(|_client| {
        let status = match (plan, visibility) {
            (Plan::Saved, _) => {
                let plan = saved_plan(statement, &arguments)?;
                execute(plan.0, &arguments, visibility)
            }
            // With one snapshot for the whole transaction, a latest one can only be given with a plan.
            (Plan::OneShot, Visibility::ToWrite) if scope::has_one_snapshot() => {
                execute_latest(prepare(statement, &arguments)?, &arguments)
            }
            (Plan::OneShot, _) => execute_once(statement, &arguments, visibility)?,
        };
        Spi::check_status(status)?;
        // SAFETY: globals that the statement has just set.
        let (processed, table) = unsafe { (pg_sys::SPI_processed, pg_sys::SPI_tuptable) };
        read(&Outcome { processed: usize::try_from(processed).unwrap_or(usize::MAX), table })
    })
}

/// What SPI is told about reading: with true it takes the active snapshot as it is, in which changes of this very
/// transaction cannot be seen.
fn is_read_only(visibility: Visibility) -> bool {
    match visibility {
        // SAFETY: a look at this transaction's state.
        Visibility::Callers => unsafe { pg_sys::GetTopTransactionIdIfAny() == pg_sys::InvalidTransactionId },
        Visibility::Latest => true,
        Visibility::ToWrite => false,
    }
}

/// Runs `work` with the latest snapshot as the active one, where it has to be.
fn seeing<T>(visibility: Visibility, work: impl FnOnce() -> T) -> T {
    if visibility == Visibility::Latest { scope::with_latest_snapshot(work) } else { work() }
}

fn execute_once(statement: &str, arguments: &Arguments, visibility: Visibility) -> Result<i32> {
    let text = CString::new(statement).map_err(|_| Error::MissingValue("statement"))?;
    let (mut types, mut values) = (arguments.types.clone(), arguments.values.clone());
    // SAFETY: connected; as many types, values and letters as arguments, which outlive the call; no limit.
    Ok(seeing(visibility, || unsafe {
        pg_sys::SPI_execute_with_args(
            text.as_ptr(),
            arguments.count(),
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            arguments.nulls(),
            is_read_only(visibility),
            0,
        )
    }))
}

/// Writes by the latest snapshot. Rows that are changed while it runs raise a serialization failure, as in any
/// transaction that keeps one snapshot.
fn execute_latest(plan: pg_sys::SPIPlanPtr, arguments: &Arguments) -> i32 {
    let mut values = arguments.values.clone();
    // SAFETY: in a transaction; registered as the active one while the statement runs.
    let snapshot = unsafe { pg_sys::GetLatestSnapshot() };
    // SAFETY: a plan for these arguments; no snapshot to cross-check, triggers fire, no limit.
    unsafe {
        pg_sys::SPI_execute_snapshot(
            plan,
            values.as_mut_ptr(),
            arguments.nulls(),
            snapshot,
            std::ptr::null_mut(),
            false,
            true,
            0,
        )
    }
}

fn execute(plan: pg_sys::SPIPlanPtr, arguments: &Arguments, visibility: Visibility) -> i32 {
    let mut values = arguments.values.clone();
    // SAFETY: connected; a plan for these arguments, which outlive the call; no limit.
    seeing(visibility, || unsafe {
        pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), arguments.nulls(), is_read_only(visibility), 0)
    })
}

/// A plan for arguments of these types, freed with the connection.
fn prepare(statement: &str, arguments: &Arguments) -> Result<pg_sys::SPIPlanPtr> {
    let text = CString::new(statement).map_err(|_| Error::MissingValue("statement"))?;
    let mut types = arguments.types.clone();
    // SAFETY: connected; the text and the types outlive the call.
    let plan = unsafe { pg_sys::SPI_prepare(text.as_ptr(), arguments.count(), types.as_mut_ptr()) };
    if plan.is_null() { Err(Error::MissingValue("plan")) } else { Ok(plan) }
}

fn saved_plan(statement: &str, arguments: &Arguments) -> Result<Rc<KeptPlan>> {
    if let Some(plan) = PLANS.with(|plans| plans.borrow().get(statement).cloned()) {
        return Ok(plan);
    }
    let plan = prepare(statement, arguments)?;
    // SAFETY: a plan that was just made.
    unsafe { pg_sys::SPI_keepplan(plan) };
    let plan = Rc::new(KeptPlan(plan));
    PLANS.with(|plans| plans.borrow_mut().insert(statement.to_owned(), Rc::clone(&plan)));
    Ok(plan)
}
