//! Look-ups in the system catalogs that SPI would make slow or cannot do.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};

use pgrx::pg_sys;
use pgrx::spi::quote_identifier;

pub use super::column::Column;
use super::column::equality_of;
use super::syscache::SysCacheTuple;
use super::{arrays, roles, search_path, sql, stored_rows};
use crate::error::{Error, Result};

/// What a relation is, and which role owns it.
#[derive(Clone, Copy, Debug)]
pub struct Relation {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// The role that owns it now.
    pub owner: pg_sys::Oid,
    /// One of Postgres' `RELKIND_` letters.
    pub kind: u8,
    /// One of Postgres' `RELPERSISTENCE_` letters.
    pub persistence: u8,
    /// Whether it has, or once had, partitions or tables that inherit from it.
    pub has_children: bool,
    /// Whether it has, or once had, triggers or rules. Those of foreign keys count.
    pub has_triggers_or_rules: bool,
    /// Its columns, counting the ones that were dropped.
    pub column_count: i16,
}

/// The relation of this name in a schema.
pub fn relation_named(schema: pg_sys::Oid, name: &str) -> Option<Relation> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name outlives the call.
    let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
    relation(oid)
}

/// The relation that a text names as SQL would, in `schema` when it names none.
pub fn relation_by_text(schema: pg_sys::Oid, text: &str) -> Option<Relation> {
    match search_path::identifiers(text, b'.')?.as_slice() {
        [name] => relation_named(schema, name),
        [schema, name] => {
            let schema = CString::new(schema.as_str()).ok()?;
            // SAFETY: the name outlives the call; InvalidOid when there is no such schema.
            relation_named(unsafe { pg_sys::get_namespace_oid(schema.as_ptr(), true) }, name)
        }
        _ => None,
    }
}

/// The relation with this OID; `None` when it was dropped.
pub fn relation(oid: pg_sys::Oid) -> Option<Relation> {
    let class = SysCacheTuple::of_relation(oid)?;
    Some(Relation {
        oid,
        owner: class.relowner,
        kind: class.relkind as u8,
        persistence: class.relpersistence as u8,
        has_children: class.relhassubclass,
        has_triggers_or_rules: class.relhastriggers || class.relhasrules,
        column_count: class.relnatts,
    })
}

impl Relation {
    /// Whether its rows are those of its partitions.
    pub fn is_partitioned(&self) -> bool {
        self.kind == pg_sys::RELKIND_PARTITIONED_TABLE
    }

    /// Whether one of its columns is of this type, or of a domain over it, or this is an array of such a type.
    pub fn has_column_of_type(&self, type_oid: pg_sys::Oid) -> bool {
        // SAFETY: a look-up; of what is no array it returns InvalidOid.
        let element = unsafe { pg_sys::get_element_type(type_oid) };
        let is_wanted = |oid| oid == type_oid || oid == element;
        self.column_types().any(|(column, base)| is_wanted(column) || is_wanted(base))
    }

    /// The type of its rows.
    pub fn row_type(&self) -> pg_sys::Oid {
        // SAFETY: a look-up.
        unsafe { pg_sys::get_rel_type_id(self.oid) }
    }

    /// Whether this is the operator of [`Column::equality`] of one of its columns.
    pub fn has_column_with_equality(&self, operator: pg_sys::Oid) -> bool {
        self.column_types().any(|(_, base)| equality_of(base) == operator)
    }

    /// The types of its columns, each with the one below it when it is a domain.
    fn column_types(&self) -> impl Iterator<Item = (pg_sys::Oid, pg_sys::Oid)> {
        let oid = self.oid;
        // SAFETY: a look-up; of a column that was dropped it returns InvalidOid.
        let types = (1..=self.column_count).map(move |number| unsafe { pg_sys::get_atttype(oid, number) });
        // SAFETY: a type that a column has exists for as long as the column.
        let with_base = |column| (column, unsafe { pg_sys::getBaseType(column) });
        types.filter(|column| *column != pg_sys::InvalidOid).map(with_base)
    }
}

/// A type's name with its schema, as SQL writes it.
pub fn qualified_type_name(type_oid: pg_sys::Oid) -> String {
    let flags = pg_sys::FORMAT_TYPE_FORCE_QUALIFY | pg_sys::FORMAT_TYPE_ALLOW_INVALID;
    // SAFETY: the result is palloc'd and never null, also for a type that is gone.
    let name = unsafe { pg_sys::format_type_extended(type_oid, -1, flags as u16) };
    // SAFETY: as above.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

/// An operator's name with its schema and the types that it compares.
pub fn qualified_operator_name(operator: pg_sys::Oid) -> String {
    // SAFETY: the result is palloc'd and never null, also for an operator that is gone.
    let name = unsafe { pg_sys::format_operator_qualified(operator) };
    // SAFETY: as above.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

/// The members of a list of OIDs of Postgres; of null, none.
pub(super) fn oids_of(list: *mut pg_sys::List) -> Vec<pg_sys::Oid> {
    // SAFETY: within the list.
    members(list, |n| unsafe { pg_sys::list_nth_oid(list, n) })
}

/// The members of a list of numbers of Postgres; of null, none.
pub(super) fn integers_of(list: *mut pg_sys::List) -> Vec<i32> {
    // SAFETY: within the list.
    members(list, |n| unsafe { pg_sys::list_nth_int(list, n) })
}

/// The members of a list of nodes of Postgres; of null, none.
pub(super) fn nodes_of(list: *mut pg_sys::List) -> Vec<*mut std::ffi::c_void> {
    // SAFETY: within the list.
    members(list, |n| unsafe { pg_sys::list_nth(list, n) })
}

fn members<T>(list: *mut pg_sys::List, member: impl Fn(i32) -> T) -> Vec<T> {
    // SAFETY: null, or a list that is valid until the memory context ends.
    let length = unsafe { list.as_ref() }.map_or(0, |list| list.length);
    (0..length).map(member).collect()
}

/// Whether the current user has the rights of a role: is it, is a member of it, or is a superuser.
pub fn is_mine(role: pg_sys::Oid) -> bool {
    has_rights_of(roles::current(), role)
}

/// Whether the current user is a superuser, and this role is not: its code can do what only ends with the session.
pub fn is_strange_to_me(role: pg_sys::Oid) -> bool {
    // SAFETY: reads the current user.
    let am_superuser = unsafe { pg_sys::superuser() };
    // SAFETY: a role's OID; of one that was dropped, false.
    am_superuser && !unsafe { pg_sys::superuser_arg(role) }
}

/// Whether a role has the rights to read and to update a column.
pub fn may_update(role: pg_sys::Oid, relation: pg_sys::Oid, column: &str) -> Result<bool> {
    let may = sql::read(
        "SELECT pg_catalog.has_column_privilege($1, $2, $3, 'SELECT') \
            AND pg_catalog.has_column_privilege($1, $2, $3, 'UPDATE')",
        &[role.into(), relation.into(), column.into()],
        |row| row.required::<bool>(1, "privilege"),
    )?;
    Ok(may == [true])
}

/// Whether a role has the rights of another one.
pub fn has_rights_of(role: pg_sys::Oid, other: pg_sys::Oid) -> bool {
    // SAFETY: two role OIDs; of one that was dropped, false.
    unsafe { pg_sys::has_privs_of_role(role, other) }
}

/// A relation's name as it stands in the catalog; `None` when it was dropped.
pub fn name(relation: pg_sys::Oid) -> Option<String> {
    // SAFETY: returns a palloc'd string, or null.
    let name = unsafe { pg_sys::get_rel_name(relation) };
    // SAFETY: as above.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

/// A relation's name with its schema, quoted where SQL needs it; `None` when it was dropped.
pub fn qualified_name(relation: pg_sys::Oid) -> Option<String> {
    // SAFETY: returns a palloc'd string, or null.
    let name = unsafe { pg_sys::get_rel_name(relation) };
    // SAFETY: as above; InvalidOid when there is no such relation.
    let schema = unsafe { pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation)) };
    if name.is_null() || schema.is_null() {
        return None;
    }
    // SAFETY: two valid strings; the result is palloc'd.
    let qualified = unsafe { pg_sys::quote_qualified_identifier(schema, name) };
    // SAFETY: just made, and never null.
    Some(unsafe { CStr::from_ptr(qualified) }.to_string_lossy().into_owned())
}

/// A column of a relation; `None` when it has none of that name.
pub fn column(relation: pg_sys::Oid, name: &str) -> Option<Column> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name outlives the call.
    let number = unsafe { pg_sys::get_attnum(relation, name.as_ptr()) };
    if number <= 0 {
        return None;
    }
    let entry = SysCacheTuple::of_column(relation, number)?;
    let always = pg_sys::ATTRIBUTE_IDENTITY_ALWAYS as c_char;
    Some(Column {
        type_oid: entry.atttypid,
        type_modifier: entry.atttypmod,
        collation: entry.attcollation,
        not_null: entry.attnotnull,
        is_generated: entry.attgenerated != 0 || entry.attidentity == always,
    })
}

/// The name of a column by its number, and whether its values are generated by an expression.
pub fn column_numbered(relation: pg_sys::Oid, number: i16) -> Option<(String, bool)> {
    let entry = SysCacheTuple::of_column(relation, number)?;
    Some((entry.name().to_owned(), entry.attgenerated != 0))
}

/// The current database's name, quoted where SQL needs it.
pub fn quoted_database() -> String {
    // SAFETY: connected, so the database exists; the result is palloc'd.
    let name = unsafe { pg_sys::get_database_name(pg_sys::MyDatabaseId) };
    if name.is_null() {
        return String::new();
    }
    // SAFETY: a terminated string.
    pgrx::spi::quote_identifier(unsafe { CStr::from_ptr(name) }.to_string_lossy())
}

/// The owner of the current database.
pub fn database_owner() -> Result<pg_sys::Oid> {
    let statement = "SELECT d.datdba FROM pg_catalog.pg_database d \
                     WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()";
    let owner = sql::read(statement, &[], |row| row.required(1, "owner"))?;
    owner.into_iter().next().ok_or(Error::MissingValue("owner"))
}

/// The indexes of a relation that have a column in them, with their schemas, quoted where SQL needs it.
pub fn indexes_on(relation: pg_sys::Oid, column: &str) -> Result<Vec<String>> {
    let indexes = sql::read(
        "SELECT i.indexrelid FROM pg_catalog.pg_index i \
         JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid \
         WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND a.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name \
           AND a.attnum OPERATOR(pg_catalog.=) ANY (i.indkey::pg_catalog.int2[]) \
         ORDER BY 1",
        &[relation.into(), column.into()],
        |row| row.required::<pg_sys::Oid>(1, "index"),
    )?;
    Ok(indexes.into_iter().filter_map(qualified_name).collect())
}

/// Whether one of these columns is in a key of one of these relations, as PostgreSQL has keys when it locks rows: a
/// unique index that is not partial and has no expression.
pub fn have_key_with(relations: &[pg_sys::Oid], columns: &[String]) -> Result<bool> {
    let relations: Vec<i64> = relations.iter().map(|oid| i64::from(oid.to_u32())).collect();
    let found = sql::read(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_index i \
         JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid \
          AND a.attnum OPERATOR(pg_catalog.=) ANY (i.indkey::pg_catalog.int2[]) \
         WHERE i.indrelid::pg_catalog.int8 OPERATOR(pg_catalog.=) ANY ($1) AND i.indisunique \
           AND i.indpred IS NULL AND i.indexprs IS NULL \
           AND a.attname::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($2))",
        &[relations.into(), arrays::of(columns)],
        |row| row.required::<bool>(1, "existence"),
    )?;
    Ok(found == [true])
}

/// An extension in this database.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// The schema that its objects are in.
    pub schema: pg_sys::Oid,
    /// The role that created it.
    pub owner: pg_sys::Oid,
    /// The version of its SQL objects.
    pub version: String,
}

thread_local! {
    /// The extension that was locked last.
    static LOCKED_LAST: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
}

/// This extension, held against being dropped until the transaction ends; `None` when it is not there.
pub fn lock_extension(name: &CStr) -> Result<Option<Extension>> {
    // Most often the same one: then it is looked up once, with the lock held.
    let mut locked = LOCKED_LAST.get();
    if locked != pg_sys::InvalidOid {
        lock_extension_of(locked);
    }
    while let Some(found) = extension(name)? {
        if found.oid == locked {
            return Ok(Some(found));
        }
        locked = found.oid;
        lock_extension_of(locked);
        LOCKED_LAST.set(locked);
    }
    Ok(None)
}

fn lock_extension_of(oid: pg_sys::Oid) {
    let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: an ordinary heavyweight lock, released at the end of the transaction.
    unsafe { pg_sys::LockDatabaseObject(pg_sys::ExtensionRelationId, oid, 0, mode) };
}

fn extension(name: &CStr) -> Result<Option<Extension>> {
    let index = pg_sys::ExtensionNameIndexId;
    let found = stored_rows::of_catalog(pg_sys::ExtensionRelationId, index, (c"extname", name), |row| {
        Ok(Extension {
            oid: row.required(c"oid")?,
            schema: row.required(c"extnamespace")?,
            owner: row.required(c"extowner")?,
            version: row.required(c"extversion")?,
        })
    })?;
    Ok(found.into_iter().next())
}

/// A schema's name, quoted where SQL needs it; `None` when it was dropped.
pub fn quoted_schema(schema: pg_sys::Oid) -> Option<String> {
    // SAFETY: any OID will do; returns a palloc'd string, or null.
    let name = unsafe { pg_sys::get_namespace_name(schema) };
    // SAFETY: as above.
    (!name.is_null()).then(|| quote_identifier(unsafe { CStr::from_ptr(name) }.to_string_lossy()))
}

/// Whether policies are in force at a relation; false when it was dropped.
pub fn has_row_security(relation: pg_sys::Oid) -> bool {
    let class = SysCacheTuple::of_relation(relation);
    class.is_some_and(|class| class.relrowsecurity || class.relforcerowsecurity)
}

/// The extension that a relation belongs to; `InvalidOid` when it belongs to none.
pub fn extension_of(relation: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a look-up in the catalog; any OID will do.
    unsafe { pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, relation) }
}

/// Whether a function has this name and belongs to the same extension as a table.
pub(super) fn is_trigger_function(function: pg_sys::Oid, name: &str, table: pg_sys::Oid) -> bool {
    // SAFETY: a palloc'd string, or null when there is no such function.
    let found = unsafe { pg_sys::get_func_name(function) };
    // SAFETY: as above.
    if found.is_null() || unsafe { CStr::from_ptr(found) }.to_bytes() != name.as_bytes() {
        return false;
    }
    let extension = extension_of(table);
    // SAFETY: a look-up in the catalog; any OID will do.
    let same = || unsafe { pg_sys::getExtensionOfObject(pg_sys::ProcedureRelationId, function) } == extension;
    extension != pg_sys::InvalidOid && same()
}

/// Locks a relation against every other use of it until the transaction ends; false when it is in use.
pub fn try_lock_exclusively(relation: pg_sys::Oid) -> bool {
    let mode = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: an ordinary heavyweight lock that is not waited for, released at the end of the transaction.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, mode) }
}

/// Locks a relation against being altered or dropped until the transaction ends; false when that is being done.
pub fn try_lock_for_reading(relation: pg_sys::Oid) -> bool {
    let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: as above.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, mode) }
}
