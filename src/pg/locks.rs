//! Which sessions have locked whole tables.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use super::{process, sql};
use crate::error::Result;

/// A lock on a table that keeps others from writing, or from reading it.
pub struct TableLock {
    /// The table's qualified name, quoted where SQL needs it.
    pub table: String,
    /// The process that holds the lock; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// The lock's mode, as `pg_locks` has it.
    pub mode: String,
}

/// The first lock that another session holds on one of these tables, if there is one. Sweepers do not count: they hold
/// such locks for a moment.
pub fn of_tables(tables: &[pg_sys::Oid]) -> Result<Option<TableLock>> {
    let arguments: [DatumWithOid<'_>; 2] = [tables.to_vec().into(), process::SWEEPER.into()];
    let found = sql::read(
        "SELECT pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.||) '.' \
                    OPERATOR(pg_catalog.||) pg_catalog.quote_ident(c.relname), l.pid, l.mode \
         FROM pg_catalog.pg_locks l \
         JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) l.relation \
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
         WHERE l.locktype OPERATOR(pg_catalog.=) 'relation' AND l.granted \
           AND l.relation OPERATOR(pg_catalog.=) ANY ($1) \
           AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d \
                           WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()) \
           AND l.mode OPERATOR(pg_catalog.=) \
               ANY ('{ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'::pg_catalog.text[]) \
           AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() \
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(l.pid) s \
                           WHERE l.pid IS NOT NULL AND s.backend_type OPERATOR(pg_catalog.=) $2) \
         ORDER BY c.oid, l.pid LIMIT 1",
        &arguments,
        |row| {
            Ok(TableLock {
                table: row.required(1, "table")?,
                pid: row.optional(2)?,
                mode: row.required(3, "mode")?,
            })
        },
    )?;
    Ok(found.into_iter().next())
}
