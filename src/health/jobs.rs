//! Checks of each watched table of jobs.
//!
//! A table of ten million jobs without an index must not be read because somebody asks how things are: what the planner
//! says would cost too much is not done, and it is said.

use std::collections::HashSet;

use pgrx::pg_sys;
use pgrx::spi::quote_literal;
use serde_json::Value;

use super::{Finding, attempt, locks};
use crate::databases;
use crate::error::Result;
use crate::installation::Installation;
use crate::jobs::{self, JobTable};
use crate::ledger;
use crate::pg::{catalog, scope, sql};
use crate::sweep::printable;
use crate::workers::HeartbeatTable;

/// What a table may cost to read, in the planner's units: about as many pages.
const AFFORDABLE: f64 = 100_000.0;

/// A table that costs no more than this to read as a whole needs no index.
const SMALL: f64 = 1_000.0;

pub fn findings(installation: &Installation) -> Vec<Finding> {
    let mut findings = Vec::new();
    match scope::subtransaction(|| jobs::watched(installation)) {
        Ok(tables) => {
            findings.push(attempt("job tables", || registry(installation, &tables)));
            tables.iter().for_each(|table| findings.extend(of_table(installation, table)));
        }
        Err(error) => findings.push(attempt("job tables", || Err(error))),
    }
    findings
}

/// Whether there is anything to settle, and no table is missing.
fn registry(installation: &Installation, tables: &[JobTable]) -> Result<Finding> {
    const CHECK: &str = "job tables";
    let statement = installation.sql(
        "SELECT j.job_table::oid::text FROM @extschema@.rgrid_job_tables j \
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = j.job_table) ORDER BY 1",
    );
    let missing: Vec<String> =
        installation.as_owner(|| sql::select(&statement, &[], |row| row.required(1, "table")))?;
    if let Some(oid) = missing.first() {
        let registry = installation.sql("@extschema@.rgrid_job_tables");
        return Ok(Finding::warning(
            CHECK,
            format!("{} watched tables were dropped; one had the OID {oid}.", missing.len()),
            format!("DELETE FROM {registry} WHERE job_table = {oid};"),
        ));
    }
    if tables.is_empty() {
        return Ok(Finding::warning(
            CHECK,
            "No table of jobs is watched: the extension's schema has no table \"executions\".",
            installation
                .sql("Create it there, or have another table watched: see @extschema@.rgrid_job_tables."),
        ));
    }
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    Ok(Finding::good(CHECK, format!("Watched: {}.", names.join(", "))))
}

fn of_table(installation: &Installation, table: &JobTable) -> Vec<Finding> {
    let named = |check: &str| format!("{check} {}", table.name);
    if !catalog::try_lock_for_reading(table.relation().oid) {
        let check = named("job table");
        return vec![Finding::warning(
            check,
            "Somebody has locked the whole table, to alter it or to drop it: its jobs wait for that.",
            "Wait, or see pg_locks for who it is.",
        )];
    }
    let fitness = attempt(&named("job table"), || Ok(fitness(named("job table"), table)));
    if table.check_columns().is_err() {
        return vec![fitness];
    }
    let mut findings = vec![fitness];
    let mut check = |name: &str, look: &dyn Fn(String) -> Result<Finding>| {
        findings.push(attempt(&named(name), || look(named(name))));
    };
    check("job index", &|check| index(check, table));
    check("jobs without worker", &|check| without_worker(check, table));
    check("jobs of unknown workers", &|check| of_unknown_workers(check, installation, table));
    check("locked jobs", &|check| locked(check, installation, table));
    findings
}

/// Whether the table can be settled.
fn fitness(check: String, table: &JobTable) -> Finding {
    if let Err(error) = table.check_columns() {
        return Finding::error(
            check,
            format!("Its jobs cannot be settled: {}.", error.message()),
            "Alter the table, or its row in rgrid_job_tables.",
        );
    }
    let attempt = format!("could not settle jobs in table {}: ", table.name);
    let problem = databases::present().and_then(|state| state.problem());
    match problem
        .as_ref()
        .and_then(|problem| problem.split("; ").find_map(|line| line.strip_prefix(&attempt)))
    {
        Some(reason) => Finding::error(
            check,
            format!("The last sweep could not settle its jobs: {reason}."),
            "Mend what the message says; each sweep tries again.",
        ),
        None => {
            Finding::good(check, "It has the columns that are needed, and the last sweep had no trouble.")
        }
    }
}

/// Whether PostgreSQL can find the running jobs of a worker without reading the whole table. It is asked, so an index
/// of any kind counts, on the worker or the status, whole or partial, if it can be used for the condition.
fn index(check: String, table: &JobTable) -> Result<Finding> {
    let statement = format!(
        "SELECT j.ctid FROM {} j WHERE j.{} = ANY ('{{a,b}}') AND {}",
        table.name,
        table.worker_column(),
        table.is_running()
    );
    let with_index = plan(table, &statement, scope::as_role_preferring_indexes)?;
    if !has_sequential_scan(&with_index) {
        return Ok(Finding::good(check, "Running jobs of a worker are found by an index."));
    }
    let without = plan(table, &statement, scope::as_role)?;
    if cost(&without) <= SMALL {
        return Ok(Finding::good(check, "There is none for running jobs, and the table is small."));
    }
    let partitioned = table.relation().kind == pg_sys::RELKIND_PARTITIONED_TABLE;
    Ok(Finding::warning(
        check,
        "No index finds the running jobs of a worker: each sweep with a dead worker reads the whole table.",
        format!(
            "CREATE INDEX{} ON {} ({}) WHERE {};",
            if partitioned { "" } else { " CONCURRENTLY" },
            table.name,
            table.worker_column(),
            table.is_running().trim_start_matches("j."),
        ),
    ))
}

fn without_worker(check: String, table: &JobTable) -> Result<Finding> {
    let statement = format!(
        "SELECT pg_catalog.count(*) FROM {} j WHERE j.{} IS NULL AND {}",
        table.name,
        table.worker_column(),
        table.is_running()
    );
    if !is_affordable(table, &statement)? {
        return Ok(not_checked(check));
    }
    let count = read(table, || sql::select(&statement, &[], |row| row.required::<i64>(1, "count")))?;
    Ok(match count.first() {
        None | Some(0) => Finding::good(check, "Every running job has a worker."),
        Some(count) => Finding::warning(
            check,
            format!("{count} running jobs have no worker; nothing ever settles them."),
            "Workers must write their id when they claim a job. Settle these by hand.",
        ),
    })
}

fn of_unknown_workers(check: String, installation: &Installation, table: &JobTable) -> Result<Finding> {
    let statement = format!(
        "SELECT j.{0}::text, pg_catalog.count(*) FROM {1} j WHERE j.{0} IS NOT NULL AND {2} GROUP BY 1 ORDER BY 1",
        table.worker_column(),
        table.name,
        table.is_running()
    );
    if !is_affordable(table, &statement)? {
        return Ok(not_checked(check));
    }
    let mut running: Vec<(String, i64)> = read(table, || {
        sql::select(&statement, &[], |row| Ok((row.required(1, "worker")?, row.required(2, "count")?)))
    })?;
    let ids: Vec<String> = running.iter().map(|(worker, _)| worker.clone()).collect();
    let mut known: HashSet<String> = HeartbeatTable::open(installation)?.existing(&ids)?;
    known.extend(ledger::dead(installation)?.into_iter().map(|worker| worker.id));
    running.retain(|(worker, _)| !known.contains(worker));
    let Some((worker, _)) = running.first() else {
        return Ok(Finding::good(check, "The worker of every running job is known."));
    };
    let worker = quote_literal(printable(worker));
    Ok(Finding::warning(
        check,
        format!(
            "{} running jobs belong to {} workers who never sent a heartbeat, or whose row was deleted, such as {worker}; \
             nothing ever settles them.",
            running.iter().map(|(_, count)| count).sum::<i64>(),
            running.len()
        ),
        format!(
            "Workers must register before they claim. If this one is gone: SELECT rgrid_register({worker}); \
             SELECT rgrid_deregister({worker});"
        ),
    ))
}

fn locked(check: String, installation: &Installation, table: &JobTable) -> Result<Finding> {
    let dead: Vec<String> = ledger::dead(installation)?.into_iter().map(|worker| worker.id).collect();
    if dead.is_empty() {
        return Ok(Finding::good(check, "Nobody is dead."));
    }
    let statement = format!(
        "SELECT j.xmax::text FROM {} j WHERE j.{} = ANY ($1) AND {} AND j.xmax <> 0",
        table.name,
        table.worker_column(),
        table.is_running()
    );
    let explained = statement.replace("($1)", "('{a,b}')");
    if !is_affordable(table, &explained)? {
        return Ok(not_checked(check));
    }
    let lockers: Vec<String> =
        read(table, || sql::select(&statement, &[dead.into()], |row| row.required(1, "transaction")))?;
    let holders = locks::holders(&lockers)?;
    if holders.is_empty() {
        return Ok(Finding::good(check, "No running job of a dead worker is locked."));
    }
    Ok(Finding::warning(
        check,
        format!("Running jobs of dead workers cannot be settled, because they are locked: {holders}."),
        holders.hint(),
    ))
}

fn not_checked(check: String) -> Finding {
    Finding::good(check, "Not checked: the table would have to be read as a whole, see \"job index\".")
}

/// Reads the table as its owner.
fn read<T>(table: &JobTable, work: impl FnOnce() -> T) -> T {
    let relation = table.relation();
    scope::as_role(relation.owner, &[relation.oid], work)
}

fn is_affordable(table: &JobTable, statement: &str) -> Result<bool> {
    Ok(cost(&plan(table, statement, scope::as_role)?) <= AFFORDABLE)
}

/// How PostgreSQL would run a statement on the table, as its topmost node.
fn plan(table: &JobTable, statement: &str, as_role: AsRole) -> Result<Value> {
    let relation = table.relation();
    let statement = statement.to_owned();
    as_role(relation.owner, &[relation.oid], Box::new(move || sql::plan(&statement)))
}

/// One of the functions that run something as a role, for a plan.
type AsRole = fn(pg_sys::Oid, &[pg_sys::Oid], Box<dyn FnOnce() -> Result<Value>>) -> Result<Value>;

fn cost(plan: &Value) -> f64 {
    plan["Total Cost"].as_f64().unwrap_or(f64::INFINITY)
}

fn has_sequential_scan(plan: &Value) -> bool {
    let below = plan["Plans"].as_array().into_iter().flatten();
    plan["Node Type"] == "Seq Scan" || below.into_iter().any(has_sequential_scan)
}
