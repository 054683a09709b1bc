//! The watched tables of jobs, and settling the running jobs of workers that are gone.
//!
//! A table is read and updated with its owner's rights. Everything is checked at each use: the owner may have
//! altered the table since it was watched. Which tables there are is in [`registry`], what they need in [`columns`],
//! the texts of the statements in [`statement`].

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::error::{Error, Result};
use crate::family;
use crate::pg::{self, arrays, catalog, scope, sql};

pub mod columns;
pub mod registry;
pub mod statement;

pub use columns::Columns;
pub use registry::{OnDeath, Watch, watched};
use statement::Statements;

/// What to do about job rows that another session has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    /// Wait 50 ms, and fail. Nearly always nobody has locked any, and this is the cheapest way to find out.
    Refuse,
    /// Leave them for the next sweep.
    Skip,
    /// Wait, for a second at most, and fail.
    Wait,
}

/// A watched table, or one of the tables that it consists of.
#[derive(Clone, Debug)]
pub struct JobTable {
    /// The qualified name of the watched table, quoted where SQL needs it: what reports call it.
    pub name: String,
    /// The same of the table that statements name.
    pub target: String,
    /// Whether statements leave out what is below it.
    pub only: bool,
    /// The table that statements name, as the catalog has it.
    pub relation: catalog::Relation,
    /// Which of its columns and values mean what.
    pub watch: Watch,
}

/// Jobs of one worker that were settled in one table.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The worker that ran them.
    pub worker: String,
    /// Marked as failed.
    pub failed: i64,
    /// Given back to the queue.
    pub requeued: i64,
    /// The primary keys of these jobs, where the table has one of a single column.
    pub keys: Vec<String>,
}

impl JobTable {
    /// A table of this OID; `None` when it was dropped.
    pub fn open(oid: pg_sys::Oid, watch: Watch) -> Option<Self> {
        let (relation, name) = catalog::relation(oid).zip(catalog::qualified_name(oid))?;
        Some(Self { target: name.clone(), name, only: false, relation, watch })
    }

    /// The tables that are settled each by itself: the table alone, unless parts of it are on other servers. Then
    /// each of its parts, so that a server which is away costs that part only.
    ///
    /// With the rights of the table's owner, as if the table were updated as a whole, and not with those of the
    /// part's: triggers and defaults of the table are on its parts, too, whoever has made them.
    pub fn parts(&self) -> Result<Vec<Self>> {
        let family = family::of(&self.relation)?;
        if !self.relation.has_children || !family.iter().any(is_foreign) {
            return Ok(vec![self.clone()]);
        }
        let holds_rows = |part: &catalog::Relation| part.kind != pg_sys::RELKIND_PARTITIONED_TABLE;
        let part = |relation: catalog::Relation| {
            let target = catalog::qualified_name(relation.oid)?;
            let relation = catalog::Relation { owner: self.relation.owner, ..relation };
            Some(Self { target, only: true, relation, ..self.clone() })
        };
        Ok(family.into_iter().filter(holds_rows).filter_map(part).collect())
    }

    /// Whether the rows are on another server, where nobody can be told to skip locked ones.
    pub fn is_foreign(&self) -> bool {
        is_foreign(&self.relation)
    }

    /// Settles the running jobs of these workers, who must be out of the game: declared dead, or gone.
    ///
    /// # Errors
    ///
    /// When the table lacks a column, when its owner may not update it, when one of its triggers refuses, or
    /// when a lock is not to be had. The caller wraps this in a subtransaction.
    pub fn settle(&self, workers: &[String], now: DateTime<Utc>, locked: Locked) -> Result<Vec<Settled>> {
        let columns = self.columns()?;
        let key = single_key(self.relation.oid)?;
        let statements = Statements::new(self, &columns, key.as_deref());
        if locked == Locked::Wait {
            // A statement of its own: what a job has become in the meantime, only a later statement sees.
            let statement = statements.lock();
            self.as_owner(|| sql::execute(&statement, &[arrays::of(workers)]))?;
        }
        let statement = statements.settle(locked);
        let arguments =
            [arrays::of(workers), self.watch.error_message.as_str().into(), pg::timestamptz(now).into()];
        let timeout = if locked == Locked::Refuse { c"50ms" } else { c"1s" };
        let mut settled = ByWorker::default();
        scope::as_role_waiting(self.relation.owner, &[self.relation.oid], timeout, || {
            sql::update(&statement, &arguments, |row| {
                settled.add(row.required(1, "worker")?, row.required(2, "outcome")?, row.optional(3)?);
                Ok(())
            })
        })?;
        Ok(settled.0.into_values().collect())
    }

    /// How many jobs each of these workers is running; workers that run none are left out.
    pub fn running(&self, workers: &[String]) -> Result<Vec<Settled>> {
        let columns = self.columns()?;
        let statement = Statements::new(self, &columns, None).running();
        let mut running = ByWorker::default();
        self.as_owner(|| {
            sql::select(&statement, &[arrays::of(workers)], |row| {
                running.add(row.required(1, "worker")?, row.required(2, "outcome")?, None);
                Ok(())
            })
        })?;
        Ok(running.0.into_values().collect())
    }

    /// Checks that the table has what settling needs, and answers what that is.
    ///
    /// # Errors
    ///
    /// When it is no table, has a part of somebody else's, or lacks a column, or has one of another type.
    pub fn columns(&self) -> Result<Columns> {
        let tables =
            [pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE, pg_sys::RELKIND_FOREIGN_TABLE];
        if !tables.contains(&self.relation.kind) {
            return Err(Error::NotATable { table: self.target.clone() });
        }
        self.check_owners()?;
        Columns::of(self)
    }

    /// One that is settled as a part has the table's owner here, and one of its own in the catalog.
    fn check_owners(&self) -> Result<()> {
        match catalog::relation(self.relation.oid) {
            Some(own) if self.only && !catalog::has_rights_of(own.owner, self.relation.owner) => {
                Err(Error::PartOfAnother { table: self.name.clone(), part: self.target.clone() })
            }
            _ if self.only => Ok(()),
            _ => family::check_owners(&self.relation, &self.name),
        }
    }

    /// Runs `work` as the table's owner; a lock that is not to be had for a second is an error.
    pub fn as_owner<T>(&self, work: impl FnOnce() -> T) -> T {
        scope::as_role_waiting(self.relation.owner, &[self.relation.oid], c"1s", work)
    }
}

fn is_foreign(relation: &catalog::Relation) -> bool {
    relation.kind == pg_sys::RELKIND_FOREIGN_TABLE
}

/// Keys of a worker's jobs that are remembered: more do not fit in a notification, where each takes four bytes.
const MOST_KEYS: usize = 2_000;

/// Jobs as they come, added up for each worker.
#[derive(Default)]
struct ByWorker(HashMap<String, Settled>);

impl ByWorker {
    fn add(&mut self, worker: &str, requeued: bool, key: Option<&str>) {
        let settled = match self.0.get_mut(worker) {
            Some(settled) => settled,
            None => self.0.entry(worker.to_owned()).or_insert_with(|| Settled {
                worker: worker.to_owned(),
                failed: 0,
                requeued: 0,
                keys: Vec::new(),
            }),
        };
        settled.failed += i64::from(!requeued);
        settled.requeued += i64::from(requeued);
        if settled.keys.len() < MOST_KEYS {
            settled.keys.extend(key.map(str::to_owned));
        }
    }
}

/// The column that alone is a table's primary key.
fn single_key(relation: pg_sys::Oid) -> Result<Option<String>> {
    let statement = sql::Kept::new(
        "SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_index i \
         JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid \
          AND a.attnum OPERATOR(pg_catalog.=) i.indkey[0] \
         WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND i.indisprimary \
           AND i.indnkeyatts OPERATOR(pg_catalog.=) 1"
            .into(),
        &[pg_sys::OIDOID],
    );
    let names = statement.select(&[relation.into()], |row| row.required(1, "key"))?;
    Ok(names.into_iter().next())
}

/// Whether an error says that rows or the table are locked by others.
pub fn is_locked(error: &Error) -> bool {
    matches!(error, Error::Caught(caught) if caught.code == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE)
}

/// Whether an error may mean that, on a server that does not say why it takes so long.
pub fn may_be_locked(error: &Error) -> bool {
    is_locked(error) || matches!(error, Error::TimedOut { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_counted_by_worker_and_outcome_with_their_keys() {
        let mut settled = ByWorker::default();
        for (worker, requeued, key) in [("b", false, "1"), ("a", true, "2"), ("b", true, "3")] {
            settled.add(worker, requeued, Some(key));
        }
        settled.add("b", false, None);
        let b = &settled.0["b"];
        assert_eq!((b.failed, b.requeued, b.keys.join(" ").as_str()), (2, 1, "1 3"));
        assert_eq!((settled.0["a"].failed, settled.0["a"].requeued), (0, 1));
    }

    #[test]
    fn more_jobs_than_keys_fit_are_counted_all_the_same() {
        let mut settled = ByWorker::default();
        (0..MOST_KEYS + 500).for_each(|key| settled.add("a", false, Some(&key.to_string())));
        assert_eq!((settled.0["a"].failed, settled.0["a"].keys.len()), (2_500, MOST_KEYS));
    }
}
