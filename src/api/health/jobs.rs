//! Checks of each watched table of jobs.
//!
//! A table of ten million jobs without an index must not be read for a health check. A statement that is too expensive
//! by the planner's estimate is not run, and the finding says so.

use std::collections::HashSet;

use pgrx::pg_sys;
use pgrx::spi::quote_literal;

use super::fitness::{fence_state, fitness};
use super::plans::{cost, has_sequential_scan, is_affordable};
use super::{Finding, attempt, attempt_until, idle, locks, registry};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::jobs::quick_look::{self, Idle};
use crate::jobs::statement::Statements;
use crate::jobs::watched;
use crate::jobs::{Columns, JobTable};
use crate::pg::timer::Deadline;
use crate::pg::{catalog, scope, sql};
use crate::rules::text::printable;
use crate::shmem::quarantine::{self, Record};
use crate::tables::deaths;
use crate::tables::heartbeats::HeartbeatTable;

/// A table that costs no more than this to read as a whole needs no index.
const SMALL: f64 = 1_000.0;

/// Tables for which there is no time are not checked, and that is said.
pub fn findings(installation: &Installation, deadline: Deadline) -> Vec<Finding> {
    let mut findings = Vec::new();
    match scope::subtransaction(|| watched::watched(installation)) {
        Ok(tables) => {
            findings.push(attempt("job tables", || registry::finding(installation, &tables)));
            tables.iter().for_each(|table| findings.extend(of_table(installation, table, deadline)));
        }
        Err(error) => findings.push(attempt("job tables", || Err(error))),
    }
    findings
}

/// The checks of one table, and what they share.
pub(super) struct TableCheck<'a> {
    pub(super) installation: &'a Installation,
    table: &'a JobTable,
    columns: Columns,
    /// Whether rows of the table are on another server.
    is_elsewhere: bool,
}

fn of_table<'a>(installation: &'a Installation, table: &'a JobTable, deadline: Deadline) -> Vec<Finding> {
    let named = |check: &str| format!("{check} {}", table.watched.name);
    if deadline.remaining().is_zero() {
        let error = Error::TimedOut { limit: deadline.limit() };
        return vec![super::not_checked(&named("job table"), &error)];
    }
    if !catalog::try_lock_for_reading(table.relation.oid) {
        return vec![Finding::warning(
            named("job table"),
            "Another session has locked the whole table, for example to alter or drop it. Its jobs are not settled until \
             the lock is released.",
            "Wait, or find the session in pg_locks.",
        )];
    }
    let mut findings =
        vec![attempt(&named("job table"), || fitness(named("job table"), installation, table))];
    findings.push(attempt(&named("fence"), || fence_state(named("fence"), installation, table)));
    let look = || TableCheck::of(installation, table);
    let Ok((table_check, idle)) = scope::subtransaction_until(deadline, look) else { return findings };
    if let Some(idle) = idle {
        findings.extend(idle::findings(idle, named));
        return findings;
    }
    let mut check = |name: &str, look: fn(&TableCheck<'a>, String) -> Result<Finding>| {
        let read = || match table_check.is_elsewhere {
            true => Ok(Finding::good(named(name), "Not checked: rows of the table are on another server.")),
            false => look(&table_check, named(name)),
        };
        // To read a table may run code of its owner, too.
        let finding = match quarantine::record(table.watched.oid) {
            Record::Clean => {
                quarantine::at_work(table.watched.oid, || attempt_until(deadline, &named(name), read))
            }
            _ => Finding::good(
                named(name),
                "Not checked: code of its owner has ended a process or held it up.",
            ),
        };
        findings.push(finding);
    };
    check("job index", TableCheck::index);
    check("jobs without worker", TableCheck::without_worker);
    check("jobs of unknown workers", TableCheck::of_unknown_workers);
    check("locked jobs", TableCheck::locked);
    check("jobs before failover", TableCheck::before_failover);
    findings
}

impl<'a> TableCheck<'a> {
    /// What the checks need, and whether a quick look answers them all.
    fn of(installation: &'a Installation, table: &'a JobTable) -> Result<(Self, Option<Idle>)> {
        let columns = table.columns()?;
        let is_elsewhere = table.is_elsewhere() || table.parts()?.iter().any(JobTable::is_elsewhere);
        let idle =
            if is_elsewhere { None } else { table.as_owner(|| quick_look::idle(table, &columns, None))? };
        Ok((Self { installation, table, columns, is_elsewhere }, idle))
    }

    fn statements(&self) -> Statements<'_> {
        Statements::new(self.table, &self.columns, None)
    }

    /// Reads the table as its owner.
    fn read<T>(&self, work: impl FnOnce() -> T) -> T {
        self.table.scope().run(work)
    }

    /// Whether PostgreSQL can find the running jobs of a worker without reading the whole table. The planner decides,
    /// so any index counts that it can use for the condition: on the worker or the status, whole or partial.
    fn index(&self, check: String) -> Result<Finding> {
        let statements = self.statements();
        let jobs = statements.with_some_workers(&statements.running_jobs());
        let statement = format!("SELECT j.ctid FROM {} WHERE {jobs}", statements.target());
        let with_index = self.table.scope().preferring_indexes().run(|| sql::plan(&statement))?;
        if !has_sequential_scan(&with_index) {
            return Ok(Finding::good(check, idle::HAS_INDEX));
        }
        if cost(self.table, &statement)? <= SMALL {
            return Ok(Finding::good(check, idle::IS_SMALL));
        }
        let is_partitioned = self.table.relation.kind == pg_sys::RELKIND_PARTITIONED_TABLE;
        Ok(Finding::warning(
            check,
            "No index finds the running jobs of a worker: each sweep with a dead worker reads the whole table.",
            format!(
                "CREATE INDEX{} ON {} ({}) WHERE {};",
                if is_partitioned { "" } else { " CONCURRENTLY" },
                self.table.watched.name,
                self.indexed_worker(),
                statements.is_running().trim_start_matches("j.").replace("OPERATOR(pg_catalog.=)", "="),
            ),
        ))
    }

    /// What an index has that finds a worker.
    fn indexed_worker(&self) -> String {
        let worker = self.columns.worker_id("");
        if worker == self.columns.worker.name { worker } else { format!("({worker})") }
    }

    fn without_worker(&self, check: String) -> Result<Finding> {
        let statements = self.statements();
        let statement = format!(
            "SELECT count(*) FROM {} WHERE {} IS NULL AND {}",
            statements.target(),
            self.columns.worker_id("j."),
            statements.is_running()
        );
        if !is_affordable(self.table, &statement)? {
            return Ok(not_checked(check));
        }
        let count = self.read(|| sql::read(&statement, &[], |row| row.required::<i64>(1, "count")))?;
        Ok(match count.first() {
            None | Some(0) => Finding::good(check, idle::ALL_HAVE_WORKERS),
            Some(count) => Finding::warning(
                check,
                format!("{count} running jobs have no worker; nothing ever settles them."),
                "Workers must write their id when they claim a job. Settle these by hand.",
            ),
        })
    }

    fn of_unknown_workers(&self, check: String) -> Result<Finding> {
        match self.running_by_worker("true")? {
            Some(running) => Ok(unknown_workers(check, &self.unknown(running)?)),
            None => Ok(not_checked(check)),
        }
    }

    /// How many of the running jobs that meet a condition each worker has; `None` when it costs too much to find out.
    pub(super) fn running_by_worker(&self, condition: &str) -> Result<Option<Vec<(String, i64)>>> {
        let statements = self.statements();
        let statement = format!(
            "SELECT {}, count(*) FROM {} WHERE {} IS NOT NULL AND {} AND {condition} GROUP BY 1 ORDER BY 1",
            statements.worker(),
            statements.target(),
            self.columns.worker_id("j."),
            statements.is_running()
        );
        if !is_affordable(self.table, &statement)? {
            return Ok(None);
        }
        let count = |row: sql::Row<'_>| Ok((row.required(1, "worker")?, row.required(2, "count")?));
        self.read(|| sql::read(&statement, &[], count)).map(Some)
    }

    /// Of these workers and their jobs, those without a row in the table of heartbeats that are not dead either.
    fn unknown(&self, mut running: Vec<(String, i64)>) -> Result<Vec<(String, i64)>> {
        let ids: Vec<String> = running.iter().map(|(worker, _)| worker.clone()).collect();
        let heartbeats = HeartbeatTable::open(self.installation)?;
        let mut known: HashSet<String> = heartbeats.existing(&ids)?;
        known.extend(self.dead()?);
        running.retain(|(worker, _)| !known.contains(worker));
        if self.columns.worker_values.is_some() && !running.is_empty() {
            let ids: Vec<String> = running.iter().map(|(worker, _)| worker.clone()).collect();
            let mut others = heartbeats.ids()?;
            others.append(&mut self.dead()?);
            let spelled = self.table.spelled_as(&self.columns, &ids, &others)?;
            let known: HashSet<&str> = spelled.iter().map(|(worker, _)| *worker).collect();
            running.retain(|(worker, _)| !known.contains(worker.as_str()));
        }
        Ok(running)
    }

    pub(super) fn dead(&self) -> Result<Vec<String>> {
        Ok(deaths::dead(self.installation)?.into_iter().map(|worker| worker.id).collect())
    }

    fn locked(&self, check: String) -> Result<Finding> {
        let dead = self.dead()?;
        if dead.is_empty() {
            return Ok(Finding::good(check, "No worker is dead."));
        }
        let statements = self.statements();
        let statement = format!(
            "SELECT j.xmax::text FROM {} WHERE {} AND j.xmax <> 0",
            statements.target(),
            statements.running_jobs()
        );
        if !is_affordable(self.table, &statements.with_some_workers(&statement))? {
            return Ok(not_checked(check));
        }
        let dead = self.table.possible_workers(&self.columns, &dead)?.into_owned();
        let lockers: Vec<String> = self
            .table
            .as_owner(|| sql::read(&statement, &[dead.into()], |row| row.required(1, "transaction")))?;
        let holders = locks::holders(&lockers)?;
        if holders.is_empty() {
            return Ok(Finding::good(check, idle::NONE_IS_LOCKED));
        }
        Ok(Finding::warning(
            check,
            format!("Running jobs of dead workers cannot be settled, because they are locked: {holders}."),
            holders.hint(),
        ))
    }
}

fn unknown_workers(check: String, unknown: &[(String, i64)]) -> Finding {
    let Some((worker, _)) = unknown.first() else {
        return Finding::good(check, idle::ALL_ARE_KNOWN);
    };
    let worker = quote_literal(printable(worker));
    Finding::warning(
        check,
        format!(
            "{} running jobs belong to {} workers that never sent a heartbeat, or whose row was deleted, such as \
             {worker}; nothing ever settles them.",
            unknown.iter().map(|(_, count)| count).sum::<i64>(),
            unknown.len()
        ),
        format!(
            "Workers must register before they claim. If this one is gone: SELECT rgrid_register({worker}); \
             SELECT rgrid_deregister({worker});"
        ),
    )
}

pub(super) fn not_checked(check: String) -> Finding {
    Finding::good(check, "Not checked, because that would read the whole table: see the check \"job index\".")
}
