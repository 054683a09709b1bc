//! One watched table: its running jobs of some workers, read or settled.

use std::cell::OnceCell;
use std::ffi::CStr;

use pgrx::pg_sys;

use super::columns::Columns;
use super::counter::JobCounter;
use super::quick_look;
use super::statement::Statements;
use crate::error::{Error, Result};
use crate::pg::scope::{self, Scope};
use crate::pg::search_path::OwnersPath;
use crate::pg::{arrays, catalog, scanned, sql};
use crate::tables::inheritance;
use crate::tables::job_tables::JobMapping;

/// What to do about job rows that another session has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockPolicy {
    /// Wait 50 ms, and fail. Nearly always no row is locked, and this is the cheapest way to find out.
    Refuse,
    /// Leave them for the next sweep.
    Skip,
    /// The same, in one of many attempts: other locks are waited for 50 ms, too.
    SkipAtOnce,
    /// Wait, for a second at most, and fail.
    Wait,
}

impl LockPolicy {
    /// Whether locked rows are left out.
    pub fn skips(self) -> bool {
        matches!(self, Self::Skip | Self::SkipAtOnce)
    }

    /// For how long a lock is waited for.
    pub(super) fn timeout(self) -> &'static CStr {
        match self {
            Self::Refuse | Self::SkipAtOnce => c"50ms",
            Self::Skip | Self::Wait => c"1s",
        }
    }
}

/// The identity of a watched table, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// Its qualified name, quoted where SQL needs it.
    pub name: String,
    /// Its OID.
    pub oid: pg_sys::Oid,
}

/// A watched table, or one of the tables that it consists of.
#[derive(Clone, Debug)]
pub struct JobTable {
    /// The watched table.
    pub watched: TableName,
    /// The name of the table that statements use: the watched table, or a part of it.
    pub target: String,
    /// Whether statements leave out its partitions and children.
    pub only: bool,
    /// The table that statements use, as the catalog has it.
    pub relation: catalog::Relation,
    /// Which of its columns and values mean what.
    pub mapping: JobMapping,
    /// A subscription of logical replication that writes to it: then the publisher settles its jobs.
    pub subscription: Option<String>,
    /// The moment, a `pg_snapshot`, since when a job must not have changed; `None` for all jobs.
    pub unchanged_since: Option<String>,
    /// The search_path for code of its owner, as it was when the table was watched; `None` for its own schema.
    pub search_path: Option<Vec<String>>,
    /// Whether a library brings its rows, once that was asked.
    brought: OnceCell<bool>,
}

/// The jobs of one worker in one table that were settled, or that are running and would be.
#[derive(Clone, Debug)]
pub struct SettledJobs {
    /// The worker that ran them.
    pub worker: String,
    /// Their table.
    pub table: TableName,
    /// How many were marked as failed, or would be.
    pub failed: i64,
    /// How many were returned to the queue, or would be.
    pub requeued: i64,
    /// The primary keys of these jobs, where the watch wants them and the table has one of a single column.
    pub keys: Vec<String>,
}

impl JobTable {
    /// The table with this OID; `None` when it was dropped.
    pub fn open(oid: pg_sys::Oid, mapping: JobMapping, search_path: Option<Vec<String>>) -> Option<Self> {
        let (relation, name) = catalog::relation(oid).zip(catalog::qualified_name(oid))?;
        let watched = TableName { name: name.clone(), oid };
        Some(Self {
            watched,
            target: name,
            only: false,
            relation,
            mapping,
            search_path,
            subscription: None,
            unchanged_since: None,
            brought: OnceCell::new(),
        })
    }

    /// The search_path of the owner's code at this moment.
    pub fn owners_path(&self) -> Result<OwnersPath> {
        OwnersPath::of(self.watched.oid, self.search_path.as_deref())
    }

    /// The tables that are settled each by itself: the table alone, unless parts of it are on other servers. Then it is
    /// each of its parts, so that an unreachable server costs only its own part.
    ///
    /// A part is settled with the rights of the table's owner, not of the part's, as if the table were updated as a
    /// whole: triggers and defaults of the table are on its parts, too, whichever role created them.
    pub fn parts(&self) -> Result<Vec<Self>> {
        let tree = inheritance::tree(&self.relation)?;
        if !self.relation.has_children || !tree.iter().any(is_foreign) {
            return Ok(vec![self.clone()]);
        }
        let holds_rows = |part: &catalog::Relation| part.kind != pg_sys::RELKIND_PARTITIONED_TABLE;
        let part = |relation: catalog::Relation| {
            let target = catalog::qualified_name(relation.oid)?;
            let relation = catalog::Relation { owner: self.relation.owner, ..relation };
            Some(Self { target, only: true, relation, brought: OnceCell::new(), ..self.clone() })
        };
        Ok(tree.into_iter().filter(holds_rows).filter_map(part).collect())
    }

    /// The same table, of which only those jobs count that have not changed since the moment of a `pg_snapshot`.
    #[must_use]
    pub fn unchanged_since(&self, snapshot: &str) -> Self {
        Self { unchanged_since: Some(snapshot.to_owned()), ..self.clone() }
    }

    /// Whether it is a foreign table.
    pub fn is_foreign(&self) -> bool {
        is_foreign(&self.relation)
    }

    /// Whether the rows are elsewhere: in a foreign table, or where a library brings them from. They take a plain
    /// UPDATE. Places and versions of rows mean nothing here, and nobody there can be told to skip locked ones. A table
    /// that cannot be looked at for now is taken for one of this server.
    pub fn is_elsewhere(&self) -> bool {
        let is_brought = || {
            let look = || self.scope().lock_timeout(c"50ms").run(|| scanned::is_scanned_here(&self.target));
            scanned::libraries_plan() && scope::subtransaction(look).is_ok_and(|is_here| !is_here)
        };
        self.is_foreign() || *self.brought.get_or_init(is_brought)
    }

    /// How many jobs each of these workers is running. Workers that run none are left out.
    pub fn running(&self, workers: &[String]) -> Result<Vec<SettledJobs>> {
        let columns = self.columns()?;
        let workers = self.possible_workers(&columns, workers)?;
        let jobs = self.running_of_possible(&columns, &workers)?;
        self.of_them_alone(&columns, jobs, &workers)
    }

    /// The same of workers whose ids are values of the worker column's type, whoever else may have these jobs.
    pub(super) fn running_of_possible(
        &self,
        columns: &Columns,
        workers: &[String],
    ) -> Result<Vec<SettledJobs>> {
        let counts = self.counts(columns, &[arrays::of(workers)])?;
        let statement = Statements::new(self, columns, None).with_counts(counts).running();
        let mut jobs = JobCounter::of(&self.watched);
        self.as_owner(|| {
            if quick_look::idle(self, columns, Some(workers))?.is_some() {
                return Ok(Vec::new());
            }
            sql::read(&statement, &[arrays::of(workers)], |row| {
                jobs.add(row.required(1, "worker")?, row.required(2, "outcome")?, None);
                Ok(())
            })
        })?;
        Ok(jobs.settled())
    }

    /// Checks that the table has the columns that settling needs, and returns them.
    ///
    /// # Errors
    ///
    /// When it is not a table, when another role owns a part of it, or when a column is missing or has a wrong type.
    pub fn columns(&self) -> Result<Columns> {
        let tables =
            [pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE, pg_sys::RELKIND_FOREIGN_TABLE];
        if !tables.contains(&self.relation.kind) {
            return Err(Error::NotATable { table: self.target.clone() });
        }
        self.check_owners()?;
        Columns::of(self)
    }

    /// For a part, `relation` has the owner of the watched table; the part's own owner is in the catalog.
    fn check_owners(&self) -> Result<()> {
        match catalog::relation(self.relation.oid) {
            Some(own) if self.only && !catalog::has_rights_of(own.owner, self.relation.owner) => {
                Err(Error::PartOfAnother { table: self.watched.name.clone(), part: self.target.clone() })
            }
            _ if self.only => Ok(()),
            _ => inheritance::check_owners(&self.relation, &self.watched.name),
        }
    }

    /// Runs `work` as the table's owner. A lock that cannot be obtained within a second is an error.
    pub fn as_owner<T>(&self, work: impl FnOnce() -> T) -> T {
        self.scope().lock_timeout(c"1s").run(work)
    }

    /// For statements on the table as its owner.
    pub fn scope(&self) -> Scope<'_> {
        Scope::of(self.relation.owner, std::slice::from_ref(&self.relation.oid))
    }
}

fn is_foreign(relation: &catalog::Relation) -> bool {
    relation.kind == pg_sys::RELKIND_FOREIGN_TABLE
}
