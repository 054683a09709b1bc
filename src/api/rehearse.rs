//! The function with which the owner of a watched table tries whether its jobs can be settled.
//! [`crate::jobs::rehearsal`] says how.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::Result;
use crate::installation::Installation;
use crate::jobs::JobTable;
use crate::jobs::rehearsal::{self, Attempt, Tried};
use crate::jobs::watched::{self, own_table};
use crate::pg;

/// A row of the result: status, detail, hint.
type Line = (String, String, Option<String>);

/// Settles a job of a watched table, undoes it, and returns a row for each attempt. Its SQL is in `sql/job_tables.sql`.
///
/// # Errors
///
/// `insufficient_privilege` for a caller that does not own the table; `undefined_object` for a table that is not
/// watched; `null_value_not_allowed`; `read_only_sql_transaction` on a standby or in a read-only transaction. The
/// errors of `rgrid_watch_jobs()` for a column that is missing or has another type by now.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn rgrid_rehearse(
    job_table: Option<pg_sys::Oid>,
) -> Result<
    TableIterator<'static, (name!(status, String), name!(detail, String), name!(hint, Option<String>))>,
    ErrorReport,
> {
    pg::prevent_unless_writable(c"rgrid_rehearse()");
    Ok(TableIterator::new(rehearse(job_table)?))
}

fn rehearse(job_table: Option<pg_sys::Oid>) -> Result<Vec<Line>> {
    let installation = Installation::of_caller()?;
    let table = watched::find(&installation, own_table(job_table)?)?;
    let attempts = rehearsal::rehearse(&installation, &table)?;
    attempts.iter().map(|attempt| line(attempt, &table)).collect()
}

fn line(attempt: &Attempt, table: &JobTable) -> Result<Line> {
    let tried = attempt.tried.describe();
    if let Some(error) = attempt.error(table)? {
        let report = error.report();
        let status = if attempt.never_works { "error" } else { "warning" };
        let detail = format!("{}. {}", report.message, report.detail.unwrap_or_default());
        return Ok((status.into(), detail, report.hint));
    }
    Ok(match attempt.tried {
        Tried::Job(..) | Tried::MadeUp(_) => ("ok".into(), format!("Settled {tried}, and undid it."), None),
        Tried::NothingElsewhere(_) => {
            ("ok".into(), format!("Tried {tried}: it works. Jobs on another server are not changed."), None)
        }
        Tried::Nothing(_) => (
            "warning".into(),
            format!("Tried {tried}: it works. There was no running job, and none could be added."),
            Some("Call it again while a job is running.".into()),
        ),
    })
}
