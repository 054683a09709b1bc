//! What became of jobs that an UPDATE has settled: code of the table's owner may have kept them running.

use pgrx::datum::DatumWithOid;

use super::statement::Statements;
use super::table::{JobTable, SettledJobs};
use crate::error::{Error, Result};
use crate::pg::sql;
use crate::tables::inheritance;

impl JobTable {
    /// Whether triggers or rules may have changed what an UPDATE did, which it does not tell.
    pub(super) fn runs_code(&self) -> Result<bool> {
        Ok(inheritance::tree(&self.relation)?.iter().any(|part| part.has_triggers_or_rules)
            && !self.is_elsewhere())
    }

    /// Whether jobs that were to be settled are running afterwards: a trigger has put the old status back, or a trigger
    /// or a rule has kept the row as it was. Jobs that are free tell it, or where single rows were changed, how many of
    /// the workers' jobs are running now.
    pub(super) fn is_running_still(
        &self,
        statements: &Statements<'_>,
        arguments: &[DatumWithOid<'_>],
        settled: &[SettledJobs],
        before: i64,
    ) -> Result<bool> {
        let free: Vec<i32> = self.as_owner(|| {
            sql::write_returning(&statements.lock_free(), arguments, |row| row.required(1, "job"))
        })?;
        let changed: i64 = settled.iter().map(|jobs| jobs.failed + jobs.requeued).sum();
        Ok(!free.is_empty()
            || statements.are_of_rows() && before - self.running_of(statements, &arguments[..1])? < changed)
    }

    /// How many jobs the workers, the first of the arguments, are running.
    pub(super) fn running_of(
        &self,
        statements: &Statements<'_>,
        arguments: &[DatumWithOid<'_>],
    ) -> Result<i64> {
        let read = || sql::read_latest(&statements.count(), arguments, |row| row.required(1, "count"));
        self.as_owner(read)?.into_iter().next().ok_or(Error::MissingValue("count"))
    }
}
