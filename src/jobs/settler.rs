//! What settles jobs by a call: a function of its owner, or the statements for a queue that is known by name. It is
//! looked up at each use, because owners and libraries change both. [`super::settlers`] calls it.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::spi::quote_identifier;

use super::counter::JobCounter;
use super::queues::{self, Queue};
use super::table::{SettledJobs, TableName};
use crate::error::{Error, Result};
use crate::pg::functions::{self, Function};
use crate::pg::scope::{self, Scope};
use crate::pg::search_path::OwnersPath;
use crate::pg::timer::Deadline;
use crate::pg::{self, advisory, arrays, catalog, constraints, roles, sql};
use crate::rules::text::printable;
use crate::settings;
use crate::shmem::quarantine;
use crate::tables::job_queues::{QueueName, Watch};
use crate::tables::job_tables::JobMapping;

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

    /// Calls it for no worker, and undoes that: so its owner learns at once that it names what is not there. It waits
    /// for no longer than a worker's call may take.
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
    pub(super) fn settle(&self, workers: &[&str], at: DateTime<Utc>) -> Result<Vec<SettledJobs>> {
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
    pub(super) fn running(&self, workers: &[&str]) -> Result<Vec<SettledJobs>> {
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

    fn bare(&self, workers: &[&str]) -> DatumWithOid<'static> {
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
