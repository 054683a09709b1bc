//! Whether the columns of a table can hold what settling writes. Only when a table is watched: later the table itself
//! would raise the error.

use std::collections::HashSet;

use pgrx::spi;

use super::columns::{ColumnRef, Columns, Counter, NewValue};
use super::new_values::converted;
use super::table::JobTable;
use crate::error::{Error, Result};
use crate::pg::timer::Deadline;
use crate::pg::{catalog, scope, sql};
use crate::rules::assignment::Term;
use crate::settings;
use crate::shmem::quarantine;

impl Columns {
    /// The columns that settling a job writes.
    pub fn written(&self) -> impl Iterator<Item = &ColumnRef> {
        let set = self.new_values().map(|new| &new.column);
        self.written_for_a_purpose().chain(set)
    }

    fn written_for_a_purpose(&self) -> impl Iterator<Item = &ColumnRef> {
        let outcome = [Some(&self.status), self.error.as_ref(), self.finished.as_ref()];
        let worker = self.clears_worker().then_some(&self.worker);
        let of_requeue = self.requeue.iter().flat_map(|requeue| {
            let counted = match &requeue.counter {
                Counter::AtDeath(column) => Some(column),
                Counter::AtClaim(_) | Counter::Own(_) => None,
            };
            [counted, requeue.started.as_ref()]
        });
        outcome.into_iter().chain([worker]).chain(of_requeue).flatten()
    }

    /// Those that it only reads.
    fn read(&self) -> impl Iterator<Item = &ColumnRef> {
        let worker = (!self.clears_worker()).then_some(&self.worker);
        let of_requeue = self.requeue.iter().flat_map(|requeue| {
            let counted = match &requeue.counter {
                Counter::AtClaim(column) => Some(column),
                Counter::AtDeath(_) | Counter::Own(_) => None,
            };
            [counted, requeue.max_attempts.as_ref()]
        });
        worker.into_iter().chain(of_requeue.flatten())
    }

    /// Checks that the columns can hold what settling writes.
    pub fn check_writes(&self, table: &JobTable) -> Result<()> {
        self.check_purposes(table)?;
        for ColumnRef { name, catalog_name, column: written } in self.written() {
            let (table_name, column) = (table.target.clone(), name.clone());
            if written.is_generated {
                return Err(Error::ColumnGenerated { table: table_name, column });
            }
            if !catalog::may_update(table.relation.owner, table.relation.oid, catalog_name)? {
                return Err(Error::OwnerMayNotUpdate { table: table_name, column });
            }
        }
        self.check_values(table)
    }

    /// One column has one purpose. It may get one value at a requeue, and another one at a failure.
    fn check_purposes(&self, table: &JobTable) -> Result<()> {
        let at_requeue = self.requeue.iter().flat_map(|requeue| &requeue.set).collect();
        for set in [at_requeue, self.set_at_failure.iter().collect::<Vec<&NewValue>>()] {
            let mut names = HashSet::new();
            let set = set.into_iter().map(|new| &new.column);
            let mut all = self.written_for_a_purpose().chain(self.read()).chain(set);
            if let Some(twice) = all.find(|known| !names.insert(&known.name)) {
                return Err(Error::ColumnTwice { table: table.target.clone(), column: twice.name.clone() });
            }
        }
        Ok(())
    }

    /// The statuses and constants can be stored, and what is cleared allows NULL. Runs as the table's owner, because a
    /// domain's checks are the owner's code.
    fn check_values(&self, table: &JobTable) -> Result<()> {
        let mapping = &table.mapping;
        let queued = self.requeue.as_ref().map(|_| &mapping.queued_status);
        for status in mapping.running_statuses().chain([&mapping.dead_status]).chain(queued) {
            if stored(table, &self.status, status)?.as_ref() != Some(status) {
                return Err(impossible(table, &self.status, status, None));
            }
        }
        for NewValue { column, value } in self.new_values() {
            for term in value {
                if let Term::Constant(text) = term {
                    stored(table, column, text)?;
                }
            }
        }
        let requeue = self.requeue.as_ref();
        let worker = self.clears_worker().then_some(&self.worker);
        let cleared = requeue.map(|requeue| [worker, requeue.started.as_ref(), self.finished.as_ref()]);
        let set = self.new_values().filter(|new| new.value == [Term::Null]).map(|new| Some(&new.column));
        let mut cleared = cleared.into_iter().flatten().chain(set).flatten();
        match cleared.find(|known| known.column.not_null) {
            Some(known) => {
                Err(Error::ColumnNotNull { table: table.target.clone(), column: known.name.clone() })
            }
            None => Ok(()),
        }
    }
}

/// A constant as a column would have it, as text; `None` for NULL.
fn stored(table: &JobTable, known: &ColumnRef, value: &str) -> Result<Option<String>> {
    let statement =
        format!("SELECT {}::pg_catalog.text", converted(&spi::quote_literal(value), &known.column));
    let deadline = Deadline::after(settings::call_timeout());
    let read = || {
        let path = table.owners_path()?.setting();
        let scope = table.scope().lock_timeout(c"1s").owners_path(&path);
        scope.run(|| sql::read(&statement, &[], |row| row.optional(1)))
    };
    let bounded = || scope::subtransaction_until(deadline, read);
    let stored: Result<Vec<Option<String>>> = quarantine::at_work(table.watched.oid, bounded);
    match stored {
        Ok(stored) => Ok(stored.into_iter().next().flatten()),
        Err(error) => Err(impossible(table, known, value, Some(error.message()))),
    }
}

fn impossible(table: &JobTable, known: &ColumnRef, value: &str, reason: Option<String>) -> Error {
    let (table, column) = (table.target.clone(), known.name.clone());
    Error::ImpossibleValue { table, column, value: value.to_owned(), reason }
}
