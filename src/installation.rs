//! Where the extension is installed in the current database: its schema, its owner, its version.

use std::ffi::CStr;

use pgrx::prelude::*;

use crate::VERSION;
use crate::error::{Error, Result};
use crate::pg::catalog::{self, Extension};
use crate::pg::locks::{self, TableLock};
use crate::pg::remembered::Remembered;
use crate::pg::scope::Scope;
use crate::pg::stored_rows::{self, StoredRow};

/// The extension in the current database, as the catalog has it at this moment.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Its OID.
    oid: pg_sys::Oid,
    /// The schema that its objects are in.
    pub schema: pg_sys::Oid,
    /// The role that created it, a superuser; its own tables are read and written as this role.
    pub owner: pg_sys::Oid,
    /// The version of its SQL objects.
    pub version: String,
    /// The schema's name, quoted where SQL needs it.
    quoted_schema: String,
    /// The extension's own tables, except that of the heartbeats.
    pub tables: Vec<pg_sys::Oid>,
}

/// The extension's own tables, except that of the heartbeats.
const TABLES: [&str; 11] = [
    "rgrid_worker_deaths",
    "rgrid_incarnations",
    "rgrid_incarnation_bases",
    "rgrid_worker_owners",
    "rgrid_job_tables",
    "rgrid_job_table_oids",
    "rgrid_job_queues",
    "rgrid_unsettled_calls",
    "rgrid_job_attempts",
    "rgrid_unsettled_jobs",
    "rgrid_tried_tables",
];

/// What changes only with relations and schemas.
#[derive(Clone)]
struct Objects {
    quoted_schema: String,
    tables: Vec<pg_sys::Oid>,
}

impl Objects {
    /// They may be remembered when all are there, as they are but while the extension is being made.
    fn look_up(schema: pg_sys::Oid) -> (Self, bool) {
        let table = |name: &&str| catalog::relation_named(schema, name).map(|table| table.oid);
        let tables: Vec<_> = TABLES.iter().filter_map(table).collect();
        let quoted_schema = catalog::quoted_schema(schema);
        let is_whole = tables.len() == TABLES.len() && quoted_schema.is_some();
        (Self { quoted_schema: quoted_schema.unwrap_or_default(), tables }, is_whole)
    }
}

thread_local! {
    static OBJECTS: Remembered<Objects> = const { Remembered::nothing() };
}

impl Installation {
    /// Finds the extension and keeps it from being dropped until the transaction ends; `None` when the
    /// database does not have it.
    pub fn find() -> Result<Option<Self>> {
        let Some(Extension { oid, schema, owner, version }) = catalog::lock_extension(c"rgrid_heartbeat")?
        else {
            return Ok(None);
        };
        let Objects { quoted_schema, tables } =
            OBJECTS.with(|objects| objects.or_find(schema, || Ok(Objects::look_up(schema))))?;
        Ok(Some(Self { oid, schema, owner, version, quoted_schema, tables }))
    }

    /// Finds the extension for one of its own SQL functions, which do not touch objects of another version.
    pub fn of_caller() -> Result<Self> {
        let installation = Self::of_any_version()?;
        if installation.is_foreign() {
            return Err(Error::ForeignVersion { version: installation.version });
        }
        Ok(installation)
    }

    /// The same for `rgrid_health()`, which says what is wrong, versions included.
    pub fn of_any_version() -> Result<Self> {
        Self::find()?.ok_or(Error::NotInstalled)
    }

    /// Whether the SQL objects are of another version than this library.
    pub fn is_foreign(&self) -> bool {
        self.version != VERSION
    }

    /// A statement with the extension's schema in the place of `@extschema@`, as in an extension's script.
    ///
    /// Nothing else is put into a statement's text but quoted identifiers and literals: names from the catalog, the
    /// columns, statuses and values that `rgrid_watch_jobs()` was given, and keys of jobs. All other arguments of
    /// callers are passed as parameters.
    pub fn sql(&self, statement: &str) -> String {
        statement.replace("@extschema@", &self.quoted_schema)
    }

    /// The rows of one of the extension's own tables whose column of text has this value. See [`stored_rows::by_key`].
    pub fn stored<T>(
        &self,
        table: &str,
        key: (&'static CStr, &str),
        read: impl FnMut(StoredRow<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        stored_rows::by_key(self.table(table)?, self.owner, key, read)
    }

    /// All rows of one of the extension's own tables, of which there are few. See [`stored_rows::all`].
    pub fn all_stored<T>(&self, table: &str, read: impl FnMut(StoredRow<'_>) -> Result<T>) -> Result<Vec<T>> {
        stored_rows::all(self.table(table)?, self.owner, read)
    }

    fn table(&self, name: &str) -> Result<pg_sys::Oid> {
        let table = catalog::relation_named(self.schema, name);
        table.map(|table| table.oid).ok_or_else(|| Error::NoTable { table: name.to_owned() })
    }

    /// A lock of another session on one of the extension's own tables, or on that of the heartbeats.
    pub fn locked_table(&self) -> Result<Option<TableLock>> {
        let heartbeats = catalog::relation_named(self.schema, "worker_heartbeats").map(|table| table.oid);
        locks::of_tables(&self.tables.iter().copied().chain(heartbeats).collect::<Vec<_>>())
    }

    /// As [`as_owner`](Self::as_owner); statements may also name another relation.
    pub fn as_owner_with<T>(&self, relation: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
        Scope::of(self.owner, &[self.tables.as_slice(), &[relation]].concat()).guarded(true).run(work)
    }

    /// As [`as_owner`](Self::as_owner), with plans for a few thousand workers that look them up by their ids.
    pub fn as_owner_by_keys<T>(&self, work: impl FnOnce() -> T) -> T {
        let scope = Scope::of(self.owner, &self.tables).guarded(true);
        scope.by_keys().lock_timeout(c"1s").run(work)
    }

    /// Whether a relation is the extension's own.
    pub fn has(&self, relation: pg_sys::Oid) -> bool {
        catalog::extension_of(relation) == self.oid
    }

    /// Runs `work` with the rights that the extension's own tables need. Code that others have attached to them is
    /// refused.
    pub fn as_owner<T>(&self, work: impl FnOnce() -> T) -> T {
        Scope::of(self.owner, &self.tables).guarded(true).run(work)
    }
}
