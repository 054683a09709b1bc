//! The sessions that have locked rows, which a sweep therefore skips.
//!
//! A row says which transaction locked it last, and the session that runs a transaction holds a lock on its number. So
//! nothing has to be locked to find out. When several sessions share the lock of a row, none of them is found. Sweepers
//! do not count: a worker that a sweeper has locked is being dealt with.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::Result;
use crate::pg::{process, sql};

/// The processes that have rows locked, and how many each.
pub struct Holders {
    /// `None` for prepared transactions, which no process runs.
    rows: BTreeMap<Option<i32>, usize>,
}

/// Finds the processes that run the transactions which have locked rows. Transactions that are over have no rows
/// locked.
pub fn holders(lockers: &[String]) -> Result<Holders> {
    let mut rows = BTreeMap::new();
    if lockers.is_empty() {
        return Ok(Holders { rows });
    }
    let running = sql::read(
        "SELECT l.transactionid::pg_catalog.text, l.pid FROM pg_catalog.pg_locks l \
         WHERE l.locktype OPERATOR(pg_catalog.=) 'transactionid' AND l.granted \
           AND l.mode OPERATOR(pg_catalog.=) 'ExclusiveLock' \
           AND l.transactionid::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($1) \
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(l.pid) s \
                           WHERE l.pid IS NOT NULL AND s.backend_type OPERATOR(pg_catalog.=) $2)",
        &[lockers.to_vec().into(), process::SWEEPER.into()],
        |row| Ok((row.required::<String>(1, "transaction")?, row.optional::<i32>(2)?)),
    )?;
    for (transaction, pid) in running {
        let locked = lockers.iter().filter(|locker| **locker == transaction).count();
        *rows.entry(pid).or_default() += locked;
    }
    Ok(Holders { rows })
}

impl Holders {
    /// Whether no row is locked.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How to end the transactions.
    pub fn hint(&self) -> String {
        let end = |pid: &Option<i32>| match pid {
            Some(pid) => format!("SELECT pg_terminate_backend({pid});"),
            None => "Look into pg_prepared_xacts and COMMIT PREPARED or ROLLBACK PREPARED.".to_owned(),
        };
        let ends: Vec<String> = self.rows.keys().map(end).collect();
        format!("End the transaction, or its session: {}", ends.join(" "))
    }
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (pid, rows)) in self.rows.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            match pid {
                Some(pid) => write!(f, "{comma}{rows} by process {pid}")?,
                None => write!(f, "{comma}{rows} by a prepared transaction")?,
            }
        }
        Ok(())
    }
}
