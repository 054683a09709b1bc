//! Settling the running jobs of a watched table: as a whole, or some of its rows.

use chrono::{DateTime, Utc};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use super::columns::{Columns, Counter};
use super::counter::JobCounter;
use super::rows::{Row, in_rows, single_key};
use super::statement::Statements;
use super::table::{JobTable, LockPolicy, SettledJobs};
use super::wake::wake;
use crate::error::{Error, Result};
use crate::pg::{self, arrays, catalog, sql};
use crate::tables::inheritance;
use crate::tables::job_tables::OnDeath;

/// A change of the running jobs of some workers.
struct Change<'a> {
    table: &'a JobTable,
    columns: Columns,
    /// The column of the jobs' keys, where they are needed.
    key: Option<String>,
    /// Whether the extension counts the attempts itself.
    counts: bool,
    now: DateTime<Utc>,
    locked: LockPolicy,
}

impl JobTable {
    /// Settles the running jobs of these workers, which are declared dead, or have left.
    ///
    /// # Errors
    ///
    /// When the table lacks a column, when its owner may not update it, when one of its triggers raises an error, or
    /// when a lock cannot be obtained. The caller wraps this in a subtransaction.
    pub fn settle(
        &self,
        workers: &[String],
        now: DateTime<Utc>,
        locked: LockPolicy,
    ) -> Result<Vec<SettledJobs>> {
        let change = Change::of(self, now, locked)?;
        let workers = self.settled_workers(&change.columns, workers)?;
        let message = &self.mapping.error_message;
        let settled = change.make(message, vec![arrays::of(&workers)])?;
        self.check_settled(&change.columns, &settled, &workers)?;
        Ok(settled)
    }

    /// Settles those of these rows that are running jobs of the worker.
    pub fn settle_rows(
        &self,
        worker: &str,
        rows: &[Row],
        now: DateTime<Utc>,
        locked: LockPolicy,
    ) -> Result<Vec<SettledJobs>> {
        Change::of(self, now, locked)?.make(&self.mapping.error_message, in_rows(worker, rows).into())
    }

    /// Fails a job that cannot be requeued, and says so in its error column. Does nothing in a table whose jobs are not
    /// requeued.
    pub fn fail_row(
        &self,
        worker: &str,
        row: &Row,
        now: DateTime<Utc>,
        locked: LockPolicy,
        why: &Error,
    ) -> Result<Vec<SettledJobs>> {
        let mut change = Change::of(self, now, locked)?;
        if change.columns.requeue.take().is_none() {
            return Ok(Vec::new());
        }
        let message = format!("{} (could not be requeued: {})", self.mapping.error_message, why.message());
        change.make(&message, in_rows(worker, std::slice::from_ref(row)).into())
    }
}

impl<'a> Change<'a> {
    fn of(table: &'a JobTable, now: DateTime<Utc>, locked: LockPolicy) -> Result<Self> {
        let columns = table.columns()?;
        let counts = columns.requeue.as_ref().is_some_and(|own| matches!(own.counter, Counter::Own(_)));
        let needs_key = table.mapping.notify_keys || counts;
        let key = if needs_key { single_key(table.relation.oid)? } else { None };
        Ok(Self { table, columns, key, counts, now, locked })
    }

    /// The arguments are the workers, and after them the rows, if only some are meant.
    fn make(&self, message: &str, mut arguments: Vec<DatumWithOid<'_>>) -> Result<Vec<SettledJobs>> {
        // The rows come after what every statement has.
        let rows = arguments.split_off(1);
        let statements = Statements::new(self.table, &self.columns, self.key.as_deref())
            .changing_a_key(self.changes_key()?)
            .with_counts(self.table.counts(&self.columns, &arguments)?);
        let statements = if rows.is_empty() { statements } else { statements.of_rows() };
        if self.locked == LockPolicy::Wait && rows.is_empty() {
            // A statement of its own, because only a later statement sees how jobs changed while this one waited.
            self.table.as_owner(|| sql::write(&statements.lock(), &arguments))?;
        }
        let runs_code = self.table.runs_code()?;
        let before = match runs_code && !rows.is_empty() {
            true => self.table.running_of(&statements, &arguments)?,
            false => 0,
        };
        arguments.extend([message.into(), pg::timestamptz(self.now).into()]);
        arguments.extend(rows);
        let settled = self.update(&statements, &arguments)?;
        if runs_code && self.table.is_running_still(&statements, &arguments, &settled, before)? {
            return Err(Error::StillRunning);
        }
        wake(self.table, &settled)?;
        Ok(settled)
    }

    fn update(
        &self,
        statements: &Statements<'_>,
        arguments: &[DatumWithOid<'_>],
    ) -> Result<Vec<SettledJobs>> {
        let table = self.table;
        let mut jobs = JobCounter::of(&table.watched);
        let (mut requeued, mut failed) = (Vec::new(), Vec::new());
        let path = table.owners_path()?.setting();
        table.scope().lock_timeout(self.locked.timeout()).owners_path(&path).run(|| {
            sql::write_returning(&statements.settle(self.locked), arguments, |row| {
                let (is_requeued, key) = (row.required(2, "outcome")?, row.optional::<String>(3)?);
                let notified = key.as_deref().filter(|_| table.mapping.notify_keys);
                jobs.add(row.required(1, "worker")?, is_requeued, notified);
                let outcome = if is_requeued { &mut requeued } else { &mut failed };
                outcome.extend(key.filter(|_| self.counts));
                Ok(())
            })
        })?;
        table.count_attempts(&requeued, &failed)?;
        Ok(jobs.settled())
    }

    /// Whether settling changes a column of a key that other tables may refer to. Asked only where rows are locked
    /// first.
    fn changes_key(&self) -> Result<bool> {
        if self.locked == LockPolicy::Refuse && self.table.mapping.on_death != OnDeath::Requeue {
            return Ok(false);
        }
        let columns: Vec<String> = self.columns.written().map(|known| known.catalog_name.clone()).collect();
        let tables: Vec<pg_sys::Oid> =
            inheritance::tree(&self.table.relation)?.iter().map(|part| part.oid).collect();
        catalog::have_key_with(&tables, &columns)
    }
}
