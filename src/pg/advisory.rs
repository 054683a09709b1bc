//! Advisory locks of a session that code of a table's owner leaves behind.
//!
//! A security-restricted operation keeps that code from leaving prepared statements, cursors, temporary tables or
//! LISTEN behind, and the scope takes its settings back; but not locks of pg_advisory_lock().
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::collections::HashSet;

use pgrx::pg_sys;

use super::sql;
use crate::error::Result;

/// Runs `work` and releases the advisory locks of this session that were not there before. Those of the transaction end
/// with it.
pub fn without_leftovers<T>(work: impl FnOnce() -> T) -> Result<T> {
    let before = held()?;
    let result = work();
    let left: Vec<Lock> = held()?.into_iter().filter(|lock| !before.contains(lock)).collect();
    if before.is_empty() && !left.is_empty() {
        // SAFETY: releases what this session holds of its own; nothing was there before the work.
        unsafe { pg_sys::LockReleaseSession(pg_sys::USER_LOCKMETHOD as pg_sys::LOCKMETHODID) };
    } else {
        left.iter().try_for_each(release)?;
    }
    Ok(result)
}

/// Class, object, 1 for a key of one part and 2 for two, and whether it is shared; as `pg_locks` has them.
type Lock = (i64, i64, i32, bool);

fn held() -> Result<HashSet<Lock>> {
    let locks = sql::read(
        "SELECT l.classid::pg_catalog.int8, l.objid::pg_catalog.int8, l.objsubid::pg_catalog.int4, \
                l.mode OPERATOR(pg_catalog.=) 'ShareLock' \
         FROM pg_catalog.pg_lock_status() l \
         WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted \
           AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()",
        &[],
        |row| {
            Ok((
                row.required(1, "class")?,
                row.required(2, "object")?,
                row.required(3, "kind")?,
                row.required(4, "mode")?,
            ))
        },
    )?;
    Ok(locks.into_iter().collect())
}

/// Releases a lock as often as this session has it. One that only the transaction has stays, and PostgreSQL warns of
/// it.
fn release(lock: &Lock) -> Result<()> {
    let &(class, object, kind, is_shared) = lock;
    let function = if is_shared { "pg_advisory_unlock_shared" } else { "pg_advisory_unlock" };
    let key = match kind {
        1 => format!("{}", (class << 32) | object),
        _ => format!("{}, {}", class as i32, object as i32),
    };
    let statement = format!("SELECT pg_catalog.{function}({key})");
    while held()?.contains(lock) {
        if sql::read(&statement, &[], |row| row.required(1, "release"))?.first() != Some(&true) {
            break;
        }
    }
    Ok(())
}
