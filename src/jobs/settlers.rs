//! Queues whose jobs are settled by a call: by a function of their owner, or by the statements for a queue that is known by
//! name ([`queues`]). Only sweepers call: with the owner's rights, in a subtransaction, for so long as any statement may
//! take. What could not be done is noted ([`unsettled_calls`]) in the transaction of the death, and tried again by each
//! sweep: a call is made at least once for each death.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use pgrx::pg_sys;
use pgrx::spi::quote_identifier;

use super::counter::JobCounter;
use super::pauses::{Occasion, is_paused_at, may_touch, note_overdue};
use super::queues::{self, Queue};
use super::settle::{Outcome, check_constraints_at_once, until};
use super::table::{SettledJobs, TableName};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::functions::{self, Function};
use crate::pg::scope::{self, Scope};
use crate::pg::search_path::OwnersPath;
use crate::pg::timer::Deadline;
use crate::pg::{self, advisory, arrays, catalog, constraints, roles, sql};
use crate::rules::bisection::{RetryBudget, bisect};
use crate::rules::text::printable;
use crate::settings;
use crate::shmem::problems::{Place, Problem};
use crate::shmem::quarantine;
use crate::tables::job_queues::{self, QueueName, Watch};
use crate::tables::job_tables::JobMapping;
use crate::tables::unsettled_calls::{self, Unsettled};

/// What is noted for calls that a session leaves to a sweeper.
const LEFT_TO_A_SWEEPER: &str = "a sweeper has yet to call it";

/// A watch whose function or queue is there.
pub struct Settler<'a> {
    watch: &'a Watch,
    /// For reports; its OID is that of the function, or of the queue's main table.
    pub named: TableName,
    owner: pg_sys::Oid,
    relations: Vec<pg_sys::Oid>,
    functions: Vec<pg_sys::Oid>,
    settle: String,
    running: Option<String>,
    /// The search_path for code that the statements set off.
    path: String,
}

/// What it is called in messages.
pub fn label(name: &QueueName) -> String {
    match name.is_function() {
        true => format!("function {}", printable(&name.queue)),
        false => format!("queue {} in schema {}", printable(&name.queue), printable(&name.schema)),
    }
}

impl<'a> Settler<'a> {
    /// What a row of the registry means now.
    ///
    /// # Errors
    ///
    /// When it is not there, or is not what it has to be, or belongs to another role than the one that watched it.
    pub fn open(watch: &'a Watch) -> Result<Self> {
        let settler = match watch.name.is_function() {
            true => Self::of_function(watch)?,
            false => Self::of_queue(watch)?,
        };
        let role = &watch.watched_by;
        match roles::named(role).is_some_and(|role| catalog::has_rights_of(role, settler.owner)) {
            true => Ok(settler),
            false => Err(Error::EntryOfAnother { role: printable(role) }),
        }
    }

    fn of_function(watch: &'a Watch) -> Result<Self> {
        let settle = settling(&watch.name.queue)?;
        let running = watch.running.as_deref().map(telling).transpose()?;
        if let Some(running) = running.as_ref().filter(|running| running.owner != settle.owner) {
            return Err(Error::FunctionOfAnother { function: running.signature.clone() });
        }
        let call = match settle.is_void {
            true => format!("SELECT NULL::text, NULL::text, NULL::boolean FROM {}($1, $2, $3)", settle.name),
            false => format!(
                "SELECT j.worker_id, j.job_key, j.requeued \
                 FROM {}($1, $2, $3) AS j (worker_id, job_key, requeued)",
                settle.name
            ),
        };
        let tell = |running: &Function| {
            format!("SELECT j.worker_id, j.job_key FROM {}($1) AS j (worker_id, job_key)", running.name)
        };
        Ok(Self {
            named: TableName { name: label(&watch.name), oid: settle.oid },
            owner: settle.owner,
            relations: Vec::new(),
            settle: call,
            running: running.as_ref().map(tell),
            functions: [Some(settle.oid), running.map(|running| running.oid)].into_iter().flatten().collect(),
            path: "pg_catalog, pg_temp".into(),
            watch,
        })
    }

    fn of_queue(watch: &'a Watch) -> Result<Self> {
        let QueueName { queue, schema } = &watch.name;
        let known = queues::find(queue)
            .ok_or_else(|| Error::UnknownQueue { queue: printable(queue), known: queues::names() })?;
        let recognised = Recognised::of(known, schema)?;
        let in_schema = |statement: &str| statement.replace("@queue@", &quote_identifier(schema));
        Ok(Self {
            named: TableName { name: label(&watch.name), oid: recognised.main.oid },
            owner: recognised.main.owner,
            relations: recognised.relations,
            functions: recognised.functions,
            settle: in_schema(known.settle),
            running: Some(in_schema(known.running)),
            path: OwnersPath::of(recognised.main.oid, None)?.setting(),
            watch,
        })
    }

    /// Calls it for no worker, and undoes that: so its owner learns at once that it names what is not there. It waits for no
    /// longer than a worker's call may take.
    ///
    /// # Errors
    ///
    /// What the call met.
    pub fn rehearse(&self) -> Result<()> {
        let deadline = Deadline::after(settings::call_timeout());
        let call = || {
            constraints::set_immediate()?;
            self.running(&[])?;
            self.settle(&[], pg::now()).map(drop)
        };
        let try_it = || quarantine::at_work(self.named.oid, || scope::undone_until(deadline, call));
        advisory::without_leftovers(try_it)?
    }

    /// Whether its owner is a role whose code must not run in this session unasked.
    pub fn is_strange_to_me(&self) -> bool {
        catalog::is_strange_to_me(self.owner)
    }

    /// What the jobs of these workers were that it settled.
    fn settle(&self, workers: &[&str], at: DateTime<Utc>) -> Result<Vec<SettledJobs>> {
        let arguments =
            [self.bare(workers), JobMapping::default().error_message.into(), pg::timestamptz(at).into()];
        let mut jobs = Vec::new();
        self.scope().run(|| {
            sql::write_returning(&self.settle, &arguments, |row| {
                jobs.push((row.optional(1)?, row.optional(2)?, row.optional(3)?));
                Ok(())
            })
        })?;
        Ok(self.counted(workers, jobs))
    }

    /// What these workers are running. All of it counts as jobs that would go back to the queue: only the call decides.
    fn running(&self, workers: &[&str]) -> Result<Vec<SettledJobs>> {
        let Some(statement) = &self.running else { return Ok(Vec::new()) };
        let mut jobs = Vec::new();
        self.scope().run(|| {
            sql::read_latest(statement, &[self.bare(workers)], |row| {
                jobs.push((row.optional(1)?, row.optional(2)?, Some(true)));
                Ok(())
            })
        })?;
        Ok(self.counted(workers, jobs))
    }

    fn bare(&self, workers: &[&str]) -> pgrx::datum::DatumWithOid<'static> {
        let bare: Vec<&str> = workers.iter().filter_map(|id| self.watch.bare(id)).collect();
        arrays::texts(bare.into_iter())
    }

    /// Workers that were not asked for do not count.
    fn counted(
        &self,
        workers: &[&str],
        jobs: Vec<(Option<String>, Option<String>, Option<bool>)>,
    ) -> Vec<SettledJobs> {
        let asked: HashSet<&str> = workers.iter().copied().collect();
        let mut counter = JobCounter::of(&self.named);
        for (worker, key, requeued) in jobs {
            let Some(worker) = worker.map(|bare| format!("{}{bare}", self.watch.prefix)) else { continue };
            if asked.contains(worker.as_str()) {
                // Everybody can read notifications: keys are in them where the owner's own function says them.
                let key = key.filter(|_| self.watch.name.is_function());
                counter.add(&worker, requeued.unwrap_or(false), key.as_deref());
            }
        }
        counter.settled()
    }

    fn scope(&self) -> Scope<'_> {
        Scope::of(self.owner, &self.relations)
            .functions(&self.functions)
            .lock_timeout(c"1s")
            .owners_path(&self.path)
    }
}

/// The function that settles, if it is one.
fn settling(signature: &str) -> Result<Function> {
    let function = named(signature)?;
    let arguments = [pg_sys::TEXTARRAYOID, pg_sys::TEXTOID, pg_sys::TIMESTAMPTZOID];
    let columns = [pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::BOOLOID];
    match function.arguments == arguments
        && (function.is_void || function.columns.as_deref() == Some(&columns))
    {
        true => Ok(function),
        false => Err(Error::NotSettling { function: function.signature }),
    }
}

/// The function that says what is running, if it is one.
fn telling(signature: &str) -> Result<Function> {
    let function = named(signature)?;
    let columns = [pg_sys::TEXTOID, pg_sys::TEXTOID];
    match function.arguments == [pg_sys::TEXTARRAYOID] && function.columns.as_deref() == Some(&columns) {
        true => Ok(function),
        false => Err(Error::NotTelling { function: function.signature }),
    }
}

fn named(signature: &str) -> Result<Function> {
    functions::by_signature(signature)?.ok_or_else(|| Error::NoFunction { function: printable(signature) })
}

/// A queue whose tables are as its file says.
struct Recognised {
    main: catalog::Relation,
    relations: Vec<pg_sys::Oid>,
    functions: Vec<pg_sys::Oid>,
}

impl Recognised {
    fn of(queue: &Queue, schema: &str) -> Result<Self> {
        let differs = |what: String| Error::QueueDiffers {
            queue: queue.name,
            schema: printable(schema),
            what,
            versions: queue.versions,
        };
        let in_schema = |name: &str| format!("{}.{}", quote_identifier(schema), quote_identifier(name));
        let table = |name: &str| catalog::relation_by_text(pg_sys::InvalidOid, &in_schema(name));
        let main = table(queue.main_table)
            .ok_or_else(|| differs(format!("there is no table {}", queue.main_table)))?;
        let mut relations = vec![main.oid];
        for (name, column, wanted) in queue.columns {
            let relation = table(name).ok_or_else(|| differs(format!("there is no table {name}")))?;
            if !catalog::has_rights_of(relation.owner, main.owner) {
                return Err(Error::PartOfAnother {
                    table: in_schema(queue.main_table),
                    part: in_schema(name),
                });
            }
            let Some(found) = catalog::column(relation.oid, column) else {
                return Err(differs(format!("table {name} has no column {column}")));
            };
            let found = local_type(&found.unlimited().type_name(), schema);
            if found != *wanted {
                return Err(differs(format!("column {column} of {name} is {found} and not {wanted}")));
            }
            relations.push(relation.oid);
        }
        relations.sort_unstable_by_key(|oid| oid.to_u32());
        relations.dedup();
        let mut functions = Vec::new();
        for signature in queue.functions {
            let signature = signature.replace("@queue@", &quote_identifier(schema));
            let function = functions::by_signature(&format!("{}.{signature}", quote_identifier(schema)))?;
            functions.push(function.ok_or_else(|| differs(format!("there is no function {signature}")))?.oid);
        }
        Ok(Self { main, relations, functions })
    }
}

/// A type's name without the schema, where it is the system's or the queue's own.
fn local_type(name: &str, schema: &str) -> String {
    let own = format!("{}.", quote_identifier(schema));
    name.strip_prefix("pg_catalog.").or_else(|| name.strip_prefix(own.as_str())).unwrap_or(name).to_owned()
}

fn problem(watch: &Watch, oid: pg_sys::Oid, error: &Error) -> Problem {
    Problem::new(place(oid), format!("settle jobs by {}", label(&watch.name)), error).with_hint_of(error)
}

fn place(oid: pg_sys::Oid) -> Place {
    Place::JobQueue { queue: oid }
}

/// Has the jobs of these workers settled that were just declared dead. In a session, and where that fails, it is noted.
pub fn settle(
    installation: &Installation,
    workers: &[String],
    now: DateTime<Utc>,
    occasion: Occasion,
    outcome: &mut Outcome,
) -> Result<()> {
    for watch in job_queues::all(installation)? {
        let workers = watch.workers(workers);
        if workers.is_empty() {
            continue;
        }
        if scope::statement_limit().is_none() {
            unsettled_calls::note(installation, &watch.name, &workers, now, LEFT_TO_A_SWEEPER)?;
            continue;
        }
        let mut call = Call { watch: &watch, now, occasion, settled: Vec::new(), outcome };
        let failure = call.settle(&workers);
        let done: HashSet<&str> = call.settled.into_iter().collect();
        if let Some(reason) = failure {
            let left: Vec<&str> = workers.into_iter().filter(|id| !done.contains(id)).collect();
            unsettled_calls::note(installation, &watch.name, &left, now, &reason)?;
        }
    }
    Ok(())
}

/// Has settled what is noted for these workers and a queue. Returns those for whom that was done.
pub fn settle_noted<'a>(
    installation: &Installation,
    noted: &'a [Unsettled],
    now: DateTime<Utc>,
    outcome: &mut Outcome,
) -> Result<Vec<&'a Unsettled>> {
    check_constraints_at_once()?;
    let watches = job_queues::all(installation)?;
    let mut all_done = Vec::new();
    for noted in noted.chunk_by(|one, other| one.queue == other.queue) {
        let Some(first) = noted.first() else { continue };
        let Some(watch) = watches.iter().find(|watch| watch.name == first.queue) else { continue };
        let mut workers: Vec<&str> = noted.iter().map(|one| one.worker.as_str()).collect();
        workers.dedup();
        let mut call = Call { watch, now, occasion: Occasion::Orphans, settled: Vec::new(), outcome };
        call.settle(&workers);
        let done: HashSet<&str> = call.settled.into_iter().collect();
        let names: Vec<&str> = done.iter().copied().collect();
        unsettled_calls::forget(installation, &watch.name, &names)?;
        all_done.extend(noted.iter().filter(|one| done.contains(one.worker.as_str())));
    }
    Ok(all_done)
}

/// Has all queues of a worker settle its jobs, which waits for that. Returns whether all did.
pub fn settle_for(
    installation: &Installation,
    worker: &str,
    now: DateTime<Utc>,
    outcome: &mut Outcome,
) -> Result<bool> {
    check_constraints_at_once()?;
    let mut are_all_done = true;
    for watch in job_queues::all(installation)?.iter().filter(|watch| watch.bare(worker).is_some()) {
        let mut call = Call { watch, now, occasion: Occasion::Orphans, settled: Vec::new(), outcome };
        match call.settle(&[worker]) {
            None => unsettled_calls::forget(installation, &watch.name, &[worker])?,
            Some(_) => are_all_done = false,
        }
    }
    Ok(are_all_done)
}

/// Whether a queue settles jobs of this worker.
pub fn are_for(installation: &Installation, worker: &str) -> Result<bool> {
    Ok(job_queues::all(installation)?.iter().any(|watch| watch.bare(worker).is_some()))
}

/// Notes that the queues have yet to settle the jobs of a worker that left.
pub fn note_left(installation: &Installation, worker: &str, now: DateTime<Utc>) -> Result<()> {
    for watch in job_queues::all(installation)? {
        if watch.bare(worker).is_some() {
            unsettled_calls::note(installation, &watch.name, &[worker], now, LEFT_TO_A_SWEEPER)?;
        }
    }
    Ok(())
}

/// Calls of one queue, and what came of them.
struct Call<'a, 'b> {
    watch: &'a Watch,
    now: DateTime<Utc>,
    occasion: Occasion,
    /// The workers whose jobs were settled.
    settled: Vec<&'a str>,
    outcome: &'b mut Outcome,
}

impl<'a> Call<'a, '_> {
    /// Returns why not all of it was done, if that is so.
    fn settle(&mut self, workers: &[&'a str]) -> Option<String> {
        let settler = match scope::subtransaction(|| Settler::open(self.watch)) {
            Ok(settler) => settler,
            Err(error) => return Some(self.failed(pg_sys::InvalidOid, &error)),
        };
        let oid = settler.named.oid;
        if let Err(error) = may_touch(oid, self.occasion) {
            return Some(self.failed(oid, &error));
        }
        if is_paused_at(place(oid), self.occasion, self.now) {
            self.outcome.problems.push(Problem::standing(place(oid)));
            return Some("it failed, and is called again later".into());
        }
        let mut budget = RetryBudget::new(settings::statement_timeout());
        let (mut settled, mut jobs) = (Vec::new(), Vec::new());
        let result =
            bisect(workers, &mut budget, |error: &Error| !error.is_interrupt(), &mut |part: &[&'a str]| {
                let call = || scope::subtransaction(|| settler.settle(part, self.now));
                jobs.append(&mut quarantine::at_work(oid, call)?);
                settled.extend_from_slice(part);
                Ok(())
            });
        if !settled.is_empty() {
            quarantine::settled(oid);
        }
        self.settled = settled;
        self.outcome.settled.append(&mut jobs);
        result.err().map(|error| self.failed(oid, &error))
    }

    fn failed(&mut self, oid: pg_sys::Oid, error: &Error) -> String {
        note_overdue(place(oid), error);
        let problem = problem(self.watch, oid, error);
        let reason = problem.reason().to_owned();
        self.outcome.problems.push(problem);
        reason
    }
}

/// Adds what these workers are running, as far as that can be asked.
pub fn running(
    installation: &Installation,
    workers: &[String],
    deadline: Option<Deadline>,
    found: &mut Outcome,
) -> Result<()> {
    for watch in job_queues::all(installation)? {
        let workers = watch.workers(workers);
        if workers.is_empty() {
            continue;
        }
        let mut oid = pg_sys::InvalidOid;
        let read = until(deadline, || {
            let settler = Settler::open(&watch)?;
            oid = settler.named.oid;
            may_touch(oid, Occasion::Orphans)?;
            quarantine::at_work(oid, || settler.running(&workers))
        });
        match read {
            Ok(mut jobs) => found.settled.append(&mut jobs),
            Err(error) => found.problems.push(problem(&watch, oid, &error)),
        }
    }
    Ok(())
}
