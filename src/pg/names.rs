//! What the names of relations and types in our own statements mean, checked each time that Postgres looks them up.
//!
//! The threat: the owner of a schema or table renames it under a running sweep and puts another object in its place,
//! whose code (a trigger, a view's function, a domain's check) would run with the rights of the watched table's owner.
//!
//! The check stands between the look-up of a statement's names and rewriting, planning and execution. It also sees the
//! repeated look-up of a saved plan. Other statements, such as those of a trigger that ours sets off, are recognized by
//! their text and not checked.
//!
//! # Which nodes are looked at for types
//!
//! Code of a type's owner runs when a value is converted to the type: a domain's check (`CoerceToDomain`), the check of
//! a domain inside a composite, array or range that is read from text (`CoerceViaIO`, `ArrayCoerceExpr`), a cast's
//! function (`FuncExpr`). `RelabelType` and `Const` run nothing, but show that a name meant an unexpected type. A cast
//! that leads away from a type starts from a column of the allowed relations or from another conversion.
//!
//! The operators of `OpExpr` and `ScalarArrayOpExpr` are looked at as well: they are in pg_catalog, or those by which
//! the default operator class of a column's type compares, which only a superuser creates.
//!
//! Of the other nodes of an expression in PostgreSQL 15, none needs to be looked at:
//!
//! - `DistinctExpr`, `NullIfExpr`, `Aggref`, `WindowFunc`: operators and functions are found in pg_catalog alone, or
//!   named with it
//! - `MinMaxExpr`, `RowCompareExpr`, `SortGroupClause`, also what `=` does for composites, arrays and ranges: default
//!   operator classes, which only a superuser creates; the same holds for the type's function behind `SubscriptingRef`
//! - `Var`, `Param`, `RowExpr`, `ArrayExpr`, `CaseExpr`, `CoalesceExpr`, `FieldSelect`, `FieldStore`, `CollateExpr`,
//!   `ConvertRowtypeExpr`: take values as they are; one that has to be converted first has a node for that below
//! - `SetToDefault`: a default of an allowed relation
//! - `BoolExpr`, `NullTest`, `BooleanTest`, `SQLValueFunction`, `XmlExpr`, `SubLink`, `TargetEntry` and other parts of
//!   a query: run nothing of a type's owner
//! - `RangeTblFunction` with types of its columns and `TableFunc`, since PostgreSQL 17 `JsonExpr`: do convert, but our
//!   statements have none
//!
//! A literal of a type that a name stands for would be read while the names are looked up, too early for this check: so
//! our statements convert literals from text, which is a node. The types in a statement under EXPLAIN are not walked:
//! it is planned and not run, and what is explained here converts only columns.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::attached::{self, Use};
use super::{catalog, functions, referring, remembered, roles, scope};
use crate::error::{Error, Result};

thread_local! {
    /// The relations that statements may name; `None` where nothing is checked.
    static ALLOWED: RefCell<Option<Vec<pg_sys::Oid>>> = const { RefCell::new(None) };
    /// The functions of users that statements may call; `None` where that is not checked.
    static FUNCTIONS: RefCell<Option<Vec<pg_sys::Oid>>> = const { RefCell::new(None) };
    /// Whether code of others at these relations is refused.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
    /// Called before that is refused.
    static WHEN_REFUSED: Cell<Option<fn()>> = const { Cell::new(None) };
    /// The statement of ours that is being run.
    static STATEMENT: RefCell<Option<String>> = const { RefCell::new(None) };
    /// The search_path to switch to when the names of the next statement of ours have been looked up.
    static NEXT_PATH: RefCell<Option<CString>> = const { RefCell::new(None) };
    /// The hook that was there before.
    static PREVIOUS: Cell<pg_sys::post_parse_analyze_hook_type> = const { Cell::new(None) };
}

/// Puts the check in place. Called once, when the library is loaded. `when_refused` is called before code of others at
/// a table of the extension is refused.
pub fn install(when_refused: fn()) {
    attached::install();
    referring::install();
    remembered::install();
    WHEN_REFUSED.set(Some(when_refused));
    // SAFETY: a global that is only changed while a library is loaded.
    PREVIOUS.set(unsafe { pg_sys::post_parse_analyze_hook });
    // SAFETY: as above; the function lives as long as the process.
    unsafe { pg_sys::post_parse_analyze_hook = Some(check_names) };
}

/// Narrows what statements may name until the result is dropped.
pub fn allow(relations: &[pg_sys::Oid]) -> impl Drop + use<> {
    struct RestoreOnDrop(Option<Vec<pg_sys::Oid>>);
    impl Drop for RestoreOnDrop {
        fn drop(&mut self) {
            ALLOWED.replace(self.0.take());
        }
    }
    RestoreOnDrop(ALLOWED.replace(Some(relations.to_vec())))
}

/// Narrows what functions of users statements may call until the result is dropped.
pub fn allow_functions(functions: Option<&[pg_sys::Oid]>) -> impl Drop + use<> {
    struct RestoreOnDrop(Option<Vec<pg_sys::Oid>>);
    impl Drop for RestoreOnDrop {
        fn drop(&mut self) {
            FUNCTIONS.replace(self.0.take());
        }
    }
    RestoreOnDrop(FUNCTIONS.replace(functions.map(<[pg_sys::Oid]>::to_vec)))
}

/// Refuses statements on tables at which there is code of others until the result is dropped.
pub fn guard(is_guarded: bool) -> impl Drop + use<> {
    struct RestoreOnDrop(bool);
    impl Drop for RestoreOnDrop {
        fn drop(&mut self) {
            IS_GUARDED.set(self.0);
        }
    }
    RestoreOnDrop(IS_GUARDED.replace(is_guarded))
}

/// Has the next statement of ours run with another search_path than the one in which its names are looked up: the
/// path is for code of a table's owner, such as its triggers. Until the result is dropped.
pub fn then_search(path: Option<CString>) -> impl Drop + use<> {
    struct RestoreOnDrop(Option<CString>);
    impl Drop for RestoreOnDrop {
        fn drop(&mut self) {
            NEXT_PATH.replace(self.0.take());
        }
    }
    RestoreOnDrop(NEXT_PATH.replace(path))
}

/// Declares a statement as ours until the result is dropped.
pub fn run(statement: &str) -> impl Drop + use<> {
    struct RestoreOnDrop(Option<String>);
    impl Drop for RestoreOnDrop {
        fn drop(&mut self) {
            STATEMENT.replace(self.0.take());
        }
    }
    RestoreOnDrop(STATEMENT.replace(Some(statement.to_owned())))
}

#[pg_guard]
unsafe extern "C-unwind" fn check_names(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: called with what it was installed for.
        let previous = || unsafe { previous(state, query, jumble) };
        // SAFETY: the boundary lets an error in it go on as one of Rust's.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(previous) };
    }
    // SAFETY: valid for the call; the text is null or terminated.
    let text = unsafe { (*state).p_sourcetext };
    // SAFETY: as above.
    if text.is_null() || !is_ours(unsafe { CStr::from_ptr(text) }) {
        return;
    }
    // SAFETY: a query that was just analysed.
    let relations = unsafe { relations_of(query) };
    // SAFETY: as above.
    let used = unsafe { used_in(query.cast()) };
    let unexpected_function =
        || FUNCTIONS.with_borrow(|allowed| unexpected_function(allowed.as_ref()?, &used));
    let unexpected = ALLOWED.with_borrow(|allowed| unexpected(allowed.as_ref()?, &relations, &used));
    if let Some(error) = unexpected.or_else(unexpected_function) {
        ErrorReport::from(error).report(PgLogLevel::ERROR);
    }
    // SAFETY: as above.
    let (command, has_changing_part) = unsafe { ((*query).commandType, (*query).hasModifyingCTE) };
    let reads = command == pg_sys::CmdType::CMD_SELECT && !has_changing_part;
    if let Err(error) = refuse_foreign_code(&relations, if reads { Use::Reading } else { Use::Changing }) {
        ErrorReport::from(error).report(PgLogLevel::ERROR);
    }
    // Nothing was rewritten, planned or run yet. The scope of the statement takes the setting back.
    if let Some(path) = NEXT_PATH.take() {
        scope::set_local(c"search_path", &path);
    }
}

/// What is neither allowed nor the system's: a relation, or a type or operator that neither the allowed ones nor their
/// columns have.
fn unexpected(allowed: &[pg_sys::Oid], relations: &[pg_sys::Oid], used: &Used) -> Option<Error> {
    if let Some(oid) = relations.iter().find(|oid| !allowed.contains(oid) && !is_catalog(**oid)) {
        return Some(Error::Replaced { table: catalog::qualified_name(*oid).unwrap_or_default() });
    }
    let of_column = |is_of: &dyn Fn(catalog::Relation) -> bool| {
        allowed.iter().filter_map(|relation| catalog::relation(*relation)).any(is_of)
    };
    let is_known =
        |oid| of_column(&|relation| relation.has_column_of_type(oid) || relation.row_type() == oid);
    if let Some(oid) = used.types.iter().find(|oid| !is_catalog(**oid) && !is_known(**oid)) {
        return Some(Error::ReplacedType { name: catalog::qualified_type_name(*oid) });
    }
    let compares = |oid| of_column(&|relation| relation.has_column_with_equality(oid));
    let oid = used.operators.iter().find(|oid| !is_catalog(**oid) && !compares(**oid))?;
    Some(Error::ReplacedOperator { name: catalog::qualified_operator_name(*oid) })
}

/// A function that is neither allowed nor the system's.
fn unexpected_function(allowed: &[pg_sys::Oid], used: &Used) -> Option<Error> {
    let oid = used.functions.iter().find(|oid| !is_catalog(**oid) && !allowed.contains(oid))?;
    Some(Error::ReplacedFunction { name: functions::qualified_name(*oid) })
}

/// Looks for code of others at these relations, which the statement has locked.
fn refuse_foreign_code(relations: &[pg_sys::Oid], usage: Use) -> Result<()> {
    if !IS_GUARDED.get() {
        return Ok(());
    }
    let role = roles::current();
    relations.iter().filter(|oid| !is_catalog(**oid)).try_for_each(|oid| check_attached(*oid, usage, role))
}

/// Looks for code of others at a table that is locked, and that `role` owns.
///
/// # Errors
///
/// [`Error::ForeignCode`].
pub(super) fn check_attached(table: pg_sys::Oid, usage: Use, role: pg_sys::Oid) -> Result<()> {
    let Some(what) = attached::foreign_code(table, usage, role) else { return Ok(()) };
    if let Some(when_refused) = WHEN_REFUSED.get() {
        when_refused();
    }
    Err(Error::ForeignCode { table: catalog::qualified_name(table).unwrap_or_default(), what })
}

/// Whether this is the statement of ours that is being run.
pub(super) fn is_ours(text: &CStr) -> bool {
    STATEMENT.with_borrow(|statement| {
        statement.as_ref().is_some_and(|statement| statement.as_bytes() == text.to_bytes())
    })
}

/// The system's own relations and types have OIDs below those of users' objects.
fn is_catalog(oid: pg_sys::Oid) -> bool {
    oid.to_u32() < pg_sys::FirstNormalObjectId
}

/// All relations that a query names, in whatever part of it.
///
/// # Safety
///
/// The query is valid and not yet rewritten.
unsafe fn relations_of(query: *mut pg_sys::Query) -> Vec<pg_sys::Oid> {
    let mut relations: *mut pg_sys::List = std::ptr::null_mut();
    let mut others: *mut pg_sys::List = std::ptr::null_mut();
    let mut has_row_security = false;
    // SAFETY: the caller's promise; the pointers are valid for the call.
    unsafe {
        pg_sys::extract_query_dependencies(query.cast(), &mut relations, &mut others, &mut has_row_security)
    };
    catalog::oids_of(relations)
}

/// What a statement uses that may have code of its owner.
#[derive(Default)]
struct Used {
    /// The types that it converts something to: a domain's check is code of its owner.
    types: Vec<pg_sys::Oid>,
    /// Its operators.
    operators: Vec<pg_sys::Oid>,
    /// Its functions.
    functions: Vec<pg_sys::Oid>,
}

/// What a query or an expression uses.
///
/// # Safety
///
/// The node is null, a query, an expression, or a list of them.
unsafe fn used_in(node: *mut pg_sys::Node) -> Used {
    let mut used = Used::default();
    // SAFETY: the caller's promise; the walker takes the pointer for what it is.
    unsafe { collect(node, (&raw mut used).cast()) };
    used
}

/// The types that a query or an expression converts something to.
///
/// # Safety
///
/// The node is null, a query, an expression, or a list of them.
pub(super) unsafe fn types_in(node: *mut pg_sys::Node) -> Vec<pg_sys::Oid> {
    // SAFETY: the caller's promise.
    unsafe { used_in(node) }.types
}

/// Adds the type that a node converts to, or its operator, and goes on to what is below the node. The head of the file
/// says why these.
#[pg_guard]
unsafe extern "C-unwind" fn collect(node: *mut pg_sys::Node, used: *mut std::ffi::c_void) -> bool {
    // SAFETY: null, or a node of the query; its tag says which.
    let Some(tag) = (unsafe { node.as_ref() }).map(|node| node.type_) else { return false };
    // SAFETY: in each case the struct that the tag names.
    let result = unsafe {
        match tag {
            pg_sys::NodeTag::T_CoerceToDomain => Some((*node.cast::<pg_sys::CoerceToDomain>()).resulttype),
            pg_sys::NodeTag::T_CoerceViaIO => Some((*node.cast::<pg_sys::CoerceViaIO>()).resulttype),
            pg_sys::NodeTag::T_ArrayCoerceExpr => Some((*node.cast::<pg_sys::ArrayCoerceExpr>()).resulttype),
            pg_sys::NodeTag::T_RelabelType => Some((*node.cast::<pg_sys::RelabelType>()).resulttype),
            pg_sys::NodeTag::T_FuncExpr => Some((*node.cast::<pg_sys::FuncExpr>()).funcresulttype),
            pg_sys::NodeTag::T_Const => Some((*node.cast::<pg_sys::Const>()).consttype),
            _ => None,
        }
    };
    // SAFETY: in each case the struct that the tag names.
    let operator = unsafe {
        match tag {
            pg_sys::NodeTag::T_OpExpr => Some((*node.cast::<pg_sys::OpExpr>()).opno),
            pg_sys::NodeTag::T_ScalarArrayOpExpr => Some((*node.cast::<pg_sys::ScalarArrayOpExpr>()).opno),
            _ => None,
        }
    };
    // SAFETY: as the tag says.
    let function =
        (tag == pg_sys::NodeTag::T_FuncExpr).then(|| unsafe { (*node.cast::<pg_sys::FuncExpr>()).funcid });
    // SAFETY: what `used_in` has, which nothing else uses during the walk.
    let found = unsafe { &mut *used.cast::<Used>() };
    found.types.extend(result);
    found.operators.extend(operator);
    found.functions.extend(function);
    match tag {
        // SAFETY: as the tag says; subqueries are queries.
        pg_sys::NodeTag::T_Query => unsafe { pg_sys::query_tree_walker(node.cast(), Some(collect), used, 0) },
        // SAFETY: any other node of a query.
        _ => unsafe { pg_sys::expression_tree_walker(node, Some(collect), used) },
    }
}
