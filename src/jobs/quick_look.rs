//! A quick look into a table of very many partitions: nearly always nothing runs in them, and to plan one statement for
//! all of them takes half a second.
//!
//! Where an index of the table has an entry for each running job, the indexes of its partitions are looked at;
//! otherwise whether a partition has any page. An entry may be of a row that is dead or not committed: then it takes a
//! statement.

use std::collections::HashMap;

use pgrx::{pg_sys, spi};

use super::columns::Columns;
use super::table::JobTable;
use super::worker_column::Holds;
use crate::error::Result;
use crate::pg::pages::{self, Entries};
use crate::pg::{self, scope, sql};
use crate::tables::inheritance;

/// Partitions from which on a quick look saves time.
const MANY: usize = 100;

/// Workers that are looked for one by one. For more of them it is a statement that looks.
const MOST_WORKERS: usize = 16;

/// An index of the table that finds running jobs.
struct Index {
    oid: pg_sys::Oid,
    serves: Serves,
}

/// Which entries of the index are those of running jobs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Serves {
    /// All, and the first column is the worker.
    RunningByWorker,
    /// All.
    Running,
    /// Those with the status "running" in the first column.
    AnyByStatus,
    /// The first column is the worker, of jobs of any status.
    AnyByWorker,
}

/// A table in which nothing runs.
#[derive(Clone, Copy)]
pub struct Idle {
    /// Whether an index has told so; otherwise its partitions have no page.
    pub has_index: bool,
}

/// Whether a table with very many partitions has no running job, of these workers or at all; `None` where it has one,
/// and where a quick look cannot tell. Runs as the table's owner.
pub fn idle(table: &JobTable, columns: &Columns, workers: Option<&[String]>) -> Result<Option<Idle>> {
    let is_partitioned = table.relation.kind == pg_sys::RELKIND_PARTITIONED_TABLE && !table.only;
    // A transaction that keeps its snapshot may be a serializable one, whose reads are noted in what a statement opens.
    if !is_partitioned || scope::has_one_snapshot() || workers.is_some_and(|ids| ids.len() > MOST_WORKERS) {
        return Ok(None);
    }
    let tree = inheritance::tree(&table.relation)?;
    if tree.len() < MANY || table.is_elsewhere() {
        return Ok(None);
    }
    let index = best_index(table, columns, workers.is_some())?;
    let indexes = index.as_ref().map_or(Ok(HashMap::new()), |index| indexes_of_parts(index.oid))?;
    let running: Vec<String> = table.mapping.running_statuses().cloned().collect();
    let entries = match (index.as_ref().map(|index| index.serves), workers) {
        (Some(Serves::RunningByWorker | Serves::AnyByWorker), Some(workers)) => Entries::Of(workers),
        (Some(Serves::AnyByStatus), _) => Entries::Of(&running),
        _ => Entries::All,
    };
    let is_idle = |part: pg_sys::Oid| match indexes.get(&part) {
        Some(index) => pages::is_without(*index, entries),
        None => pages::is_without_pages(part),
    };
    let mut parts = tree.iter().filter(|part| part.kind != pg_sys::RELKIND_PARTITIONED_TABLE);
    let is_idle = parts.all(|part| {
        pg::check_for_interrupts();
        part.kind == pg_sys::RELKIND_RELATION && is_idle(part.oid)
    });
    Ok(is_idle.then_some(Idle { has_index: index.is_some() }))
}

/// The index that tells most, if there is one.
fn best_index(table: &JobTable, columns: &Columns, of_workers: bool) -> Result<Option<Index>> {
    let statement = "SELECT i.indexrelid, a.attname::pg_catalog.text, \
                            pg_catalog.pg_get_expr(i.indpred, i.indrelid) \
                     FROM pg_catalog.pg_index i \
                     JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid \
                     JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid \
                      AND a.attnum OPERATOR(pg_catalog.=) i.indkey[0] \
                     WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND i.indisvalid \
                       AND c.relam OPERATOR(pg_catalog.=) $2";
    let is_running = is_running(table, columns);
    let found = sql::read(statement, &[table.relation.oid.into(), pg_sys::BTREE_AM_OID.into()], |row| {
        let (oid, column): (_, String) = (row.required(1, "index")?, row.required(2, "column")?);
        let is_id = columns.worker_holds == Holds::Id;
        let by_worker = of_workers && is_id && column == table.mapping.worker_column;
        let serves = match row.optional::<String>(3)? {
            Some(predicate) if !is_running.contains(&predicate) => None,
            Some(_) if by_worker => Some(Serves::RunningByWorker),
            Some(_) => Some(Serves::Running),
            None if column == table.mapping.status_column => Some(Serves::AnyByStatus),
            None if by_worker => Some(Serves::AnyByWorker),
            None => None,
        };
        Ok(serves.map(|serves| Index { oid, serves }))
    })?;
    Ok(found.into_iter().flatten().min_by_key(|index| index.serves as u8))
}

/// The condition for a running job as PostgreSQL writes it in an index, for columns of text, varchar and an enum. Of
/// several statuses, in the order of the watch.
fn is_running(table: &JobTable, columns: &Columns) -> Vec<String> {
    let (status, mapping) = (&columns.status, &table.mapping);
    let of_type = match status.column.base_type() {
        pg_sys::TEXTOID | pg_sys::VARCHAROID => "text".to_owned(),
        _ => status.column.type_name(),
    };
    let name = &status.name;
    let mut running = mapping.running_statuses().map(spi::quote_literal);
    if mapping.also_running.is_empty() {
        let running = running.next().unwrap_or_default();
        return vec![
            format!("({name} = {running}::{of_type})"),
            format!("(({name})::text = {running}::text)"),
        ];
    }
    let listed = |of_type: &str| {
        let running = running.clone().map(|status| format!("{status}::{of_type}"));
        format!("ARRAY[{}]", running.collect::<Vec<_>>().join(", "))
    };
    let plain = spi::quote_literal(format!(
        "{{{}}}",
        mapping.running_statuses().cloned().collect::<Vec<_>>().join(",")
    ));
    vec![
        format!("({name} = ANY ({}))", listed(&of_type)),
        format!("(({name})::text = ANY (({})::text[]))", listed("character varying")),
        // Where no word needs quotes.
        format!("({name} = ANY ({plain}::{of_type}[]))"),
        format!("(({name})::text = ANY ({plain}::text[]))"),
    ]
}

/// The indexes of the partitions that belong to an index of the table, by the partition.
fn indexes_of_parts(index: pg_sys::Oid) -> Result<HashMap<pg_sys::Oid, pg_sys::Oid>> {
    let statement = "WITH RECURSIVE tree AS ( \
                         SELECT $1 AS oid \
                         UNION \
                         SELECT i.inhrelid FROM pg_catalog.pg_inherits i \
                         JOIN tree t ON i.inhparent OPERATOR(pg_catalog.=) t.oid) \
                     SELECT x.indrelid, x.indexrelid FROM tree t \
                     JOIN pg_catalog.pg_index x ON x.indexrelid OPERATOR(pg_catalog.=) t.oid \
                     WHERE x.indisvalid AND x.indisready AND x.indislive AND NOT x.indcheckxmin";
    let found = sql::read(statement, &[index.into()], |row| {
        Ok((row.required(1, "table")?, row.required(2, "index")?))
    })?;
    Ok(found.into_iter().collect())
}
