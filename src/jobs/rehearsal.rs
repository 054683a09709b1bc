//! Rehearsals: a job of a watched table is settled as a sweep would do it, and all is undone. So the owner learns while
//! watching the table, and not by the first death, that a trigger names what is not there.
//!
//! Runs in the session of the table's owner, for as long as a worker's call may take. It waits 50 ms for a lock. Of
//! what was done, sequences stay advanced, and what a trigger did outside of the database stays done.

use std::time::Duration;

use super::Columns;
use super::elsewhere;
use super::rows::{Row, in_rows, single_key};
use super::statement::Statements;
use super::table::{JobTable, LockPolicy};
use crate::error::{Error, Rehearsal, Report, Result};
use crate::installation::Installation;
use crate::pg::scope::{self, Scope};
use crate::pg::timer::Deadline;
use crate::pg::{self, advisory, constraints, sql};
use crate::rules::text::sqlstate;
use crate::settings;
use crate::shmem::quarantine;
use crate::tables::tried_tables;

/// How long a running job is looked for. Without an index that may mean to read the whole table.
const SEARCH_LIMIT: Duration = Duration::from_secs(1);

/// What was tried, and what was met.
pub struct Attempt {
    /// What was settled, or should have been.
    pub tried: Tried,
    /// What it met; `None` when it works.
    pub problem: Option<Report>,
    /// Whether every job meets that: something is missing, not allowed, or of a wrong type. Other problems may be those
    /// of the job that was tried, or of another server.
    pub never_works: bool,
}

/// What a rehearsal settles.
pub enum Tried {
    /// A running job, with its key or its place.
    Job(String, Way),
    /// A job that was made up, because no running one was found that could be locked.
    MadeUp(Way),
    /// No job: the statement was run and found none. In the table of this name, which may be a part.
    Nothing(String),
    /// The same for a table or part whose rows are elsewhere, where no job is touched.
    NothingElsewhere(String),
}

impl Attempt {
    /// The problem as an error, with what the owner should know of it.
    pub fn error(&self, table: &JobTable) -> Result<Option<Error>> {
        let Some(why) = self.problem.clone() else { return Ok(None) };
        let path = table.owners_path()?;
        Ok(Some(Error::Rehearsal(Rehearsal {
            table: table.watched.name.clone(),
            tried: self.tried.describe(),
            path: path.describe(),
            revoke: path.revoke(),
            never_works: self.never_works,
            why,
        })))
    }
}

impl Tried {
    /// As a phrase.
    pub fn describe(&self) -> String {
        match self {
            Self::Job(key, way) => format!("job {key}{}", way.describe()),
            Self::MadeUp(way) => format!("a made-up job{}", way.describe()),
            Self::Nothing(table) | Self::NothingElsewhere(table) => {
                format!("the statement in {table} without a job")
            }
        }
    }
}

impl Way {
    fn describe(self) -> &'static str {
        match self {
            Self::AsWatched => "",
            Self::Failed => " as if its attempts were used up",
        }
    }
}

/// What becomes of the job.
#[derive(Clone, Copy)]
pub enum Way {
    /// What the watch says.
    AsWatched,
    /// It fails, although the watch has it go back to the queue: its attempts may be used up.
    Failed,
}

/// Settles a job of the table, and undoes it. What is met is in the result.
///
/// # Errors
///
/// When the table lacks what settling needs.
pub fn rehearse(installation: &Installation, table: &JobTable) -> Result<Vec<Attempt>> {
    let deadline = Deadline::after(settings::call_timeout());
    let mut attempts = Vec::new();
    for part in table.parts()? {
        let trial =
            Trial { key: single_key(part.relation.oid)?, columns: part.columns()?, part: &part, deadline };
        let try_it = || quarantine::at_work(table.watched.oid, || trial.attempts());
        attempts.append(&mut advisory::without_leftovers(try_it)?);
    }
    let is_job = |attempt: &Attempt| matches!(attempt.tried, Tried::Job(..) | Tried::MadeUp(_));
    if attempts.iter().all(|attempt| attempt.problem.is_none()) && attempts.iter().any(is_job) {
        tried_tables::add(installation, table.watched.oid);
    }
    Ok(attempts)
}

/// A table, or a part of it, that is tried.
struct Trial<'a> {
    part: &'a JobTable,
    columns: Columns,
    key: Option<String>,
    deadline: Deadline,
}

/// A running job.
struct Job {
    worker: String,
    row: Row,
}

impl Trial<'_> {
    fn attempts(&self) -> Vec<Attempt> {
        // Who has the rows may not be able to undo what he was told.
        if self.part.is_elsewhere() {
            return vec![self.nothing()];
        }
        // A table that cannot be read is met again below.
        let found = scope::undone_until(self.deadline.at_most(SEARCH_LIMIT), || self.find()).ok().flatten();
        let mut attempts = found.map(|job| self.with(&job)).unwrap_or_default();
        if attempts.is_empty() {
            attempts = self.with_made_up();
        }
        if attempts.is_empty() {
            attempts.push(self.nothing());
        }
        attempts
    }

    /// Settles a running job; empty when another session has locked it.
    fn with(&self, job: &Job) -> Vec<Attempt> {
        let key = job.row.key.as_ref().unwrap_or(&job.row.place);
        self.each_way(
            |way| Tried::Job(key.clone(), way),
            |way| match self.lock(job)? {
                true => self.settle(job, way).map(|()| true),
                false => Ok(false),
            },
        )
    }

    /// Settles a job that is made up; empty when the table takes none that has only a worker and a status, and is
    /// running.
    fn with_made_up(&self) -> Vec<Attempt> {
        self.each_way(Tried::MadeUp, |way| match scope::subtransaction(|| self.make_up()) {
            // A trigger may have given it another status.
            Ok(Some(job)) if self.lock(&job)? => self.settle(&job, way).map(|()| true),
            Ok(_) | Err(_) => Ok(false),
        })
    }

    /// Tries each way; `settle` returns whether there was a job.
    fn each_way(&self, tried: impl Fn(Way) -> Tried, settle: impl Fn(Way) -> Result<bool>) -> Vec<Attempt> {
        let also = self.columns.requeue.as_ref().map(|_| Way::Failed);
        let ways = [Some(Way::AsWatched), also].into_iter().flatten();
        let attempts = ways.filter_map(|way| match self.undone(|| settle(way)) {
            Ok(false) => None,
            Ok(true) => Some(self.attempt(tried(way), Ok(()))),
            Err(error) => Some(self.attempt(tried(way), Err(error))),
        });
        attempts.collect()
    }

    fn nothing(&self) -> Attempt {
        let result = self.undone(|| self.settle_none());
        let table = self.part.target.clone();
        match self.part.is_elsewhere() {
            true => self.attempt(Tried::NothingElsewhere(table), result),
            false => self.attempt(Tried::Nothing(table), result),
        }
    }

    fn attempt(&self, tried: Tried, result: Result<()>) -> Attempt {
        let problem = result.err().map(|error| error.report());
        let never_works = !self.part.is_foreign() && problem.as_ref().is_some_and(is_of_every_job);
        Attempt { tried, problem, never_works }
    }

    fn undone<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_elsewhere = self.part.is_elsewhere();
        let deadline = if is_elsewhere { self.deadline.at_most(elsewhere::LIMIT) } else { self.deadline };
        scope::undone_until(deadline, || {
            constraints::set_immediate()?;
            work()
        })
    }

    fn find(&self) -> Result<Option<Job>> {
        let statement = self.statements().some_job();
        let jobs = self.scope().run(|| sql::read_latest(&statement, &[], job))?;
        Ok(jobs.into_iter().next())
    }

    fn make_up(&self) -> Result<Option<Job>> {
        let (statement, path) = (self.statements().make_up(), self.part.owners_path()?.setting());
        let jobs = self.scope().owners_path(&path).run(|| sql::write_returning(&statement, &[], job))?;
        Ok(jobs.into_iter().next())
    }

    /// Locks a job; false when another session has, or the job is not running any more.
    fn lock(&self, job: &Job) -> Result<bool> {
        let statement = self.statements().of_rows().lock_free();
        let [worker, tables, places] = in_rows(&job.worker, std::slice::from_ref(&job.row));
        // The statement of a sweep has the message and the time before the rows.
        let arguments = [worker, "".into(), pg::timestamptz(pg::now()).into(), tables, places];
        Ok(self.scope().run(|| sql::write(&statement, &arguments))? > 0)
    }

    fn settle(&self, job: &Job, way: Way) -> Result<()> {
        let (now, locked, row) = (pg::now(), LockPolicy::Refuse, &job.row);
        let suppressed = Error::NotWritten { table: self.part.target.clone() };
        let settled = match way {
            Way::AsWatched => self.part.settle_rows(&job.worker, std::slice::from_ref(row), now, locked)?,
            Way::Failed => self.part.fail_row(&job.worker, row, now, locked, &suppressed)?,
        };
        if settled.is_empty() { Err(suppressed) } else { Ok(()) }
    }

    /// The statement of a sweep, for no worker: it needs the same rights, and fires the triggers for the statement.
    fn settle_none(&self) -> Result<()> {
        self.part.settle(&[], pg::now(), LockPolicy::Refuse).map(drop)
    }

    fn statements(&self) -> Statements<'_> {
        Statements::new(self.part, &self.columns, self.key.as_deref())
    }

    fn scope(&self) -> Scope<'_> {
        self.part.scope().lock_timeout(c"50ms")
    }
}

fn job(row: sql::Row<'_>) -> Result<Job> {
    let worker = row.required(1, "worker")?;
    let row =
        Row { table: row.required(2, "table")?, place: row.required(3, "place")?, key: row.optional(4)? };
    Ok(Job { worker, row })
}

/// Whether a problem is that of the table or a trigger, and not of the job's values: a feature that is not supported,
/// an undefined schema or database, a wrong name, type or right.
fn is_of_every_job(report: &Report) -> bool {
    let class = sqlstate(report.code as i32);
    ["0A", "3D", "3F", "42"].iter().any(|always| class.starts_with(always))
}
