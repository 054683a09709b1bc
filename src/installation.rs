//! Where the extension is installed in the current database: its schema, its owner, its version.

use pgrx::prelude::*;

use crate::VERSION;
use crate::error::{Error, Result};
use crate::pg::locks::{self, TableLock};
use crate::pg::scope::Scope;
use crate::pg::{catalog, sql};

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

impl Installation {
    /// Finds the extension and keeps it from being dropped until the transaction ends; `None` when the
    /// database does not have it.
    pub fn find() -> Result<Option<Self>> {
        let Some(oid) = catalog::lock_extension(c"rgrid_heartbeat") else { return Ok(None) };
        let statement = sql::SavedPlan::new(
            "SELECT x.extnamespace, x.extowner, x.extversion, pg_catalog.quote_ident(n.nspname) \
             FROM pg_catalog.pg_extension x \
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) x.extnamespace \
             WHERE x.oid OPERATOR(pg_catalog.=) $1"
                .into(),
        );
        let found = statement.read(&[oid.into()], |row| {
            let schema = row.required(1, "schema")?;
            let tables = [
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
            Ok(Self {
                oid,
                tables: tables
                    .iter()
                    .filter_map(|name| catalog::relation_named(schema, name))
                    .map(|table| table.oid)
                    .collect(),
                schema,
                owner: row.required(2, "owner")?,
                version: row.required(3, "version")?,
                quoted_schema: row.required(4, "schema name")?,
            })
        })?;
        Ok(found.into_iter().next())
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
    /// columns, statuses and values that `rgrid_watch_jobs()` was given, and keys of jobs. All other arguments of callers
    /// are passed as parameters.
    pub fn sql(&self, statement: &str) -> String {
        statement.replace("@extschema@", &self.quoted_schema)
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

    /// Runs `work` with the rights that the extension's own tables need. Code that others have attached to them is refused.
    pub fn as_owner<T>(&self, work: impl FnOnce() -> T) -> T {
        Scope::of(self.owner, &self.tables).guarded(true).run(work)
    }
}
