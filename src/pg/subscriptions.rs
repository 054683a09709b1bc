//! Subscriptions of logical replication in the current database, and the tables that they write to.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::collections::HashSet;

use pgrx::pg_sys;

use super::sql;
use crate::error::Result;

/// The OID of pg_subscription, which is not among pgrx's bindings.
const SUBSCRIPTIONS: u32 = 6_100;

/// The beginning of a row of pg_subscription, the same in all versions that are supported.
#[repr(C)]
struct Subscription {
    oid: pg_sys::Oid,
    database: pg_sys::Oid,
    skipped: pg_sys::XLogRecPtr,
    name: pg_sys::NameData,
    owner: pg_sys::Oid,
    is_enabled: bool,
}

/// The databases that have an enabled subscription. Needs a transaction, no database.
pub fn subscribed_databases() -> HashSet<pg_sys::Oid> {
    let mut found = HashSet::new();
    let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: pg_subscription is shared, so it can be opened without a database; closed below.
    let relation = unsafe { pg_sys::table_open(pg_sys::Oid::from(SUBSCRIPTIONS), mode) };
    // SAFETY: the relation is open; no keys; ended below.
    let scan = unsafe { pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut()) };
    loop {
        // SAFETY: the scan is open.
        let tuple = unsafe { pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection) };
        if tuple.is_null() {
            break;
        }
        // SAFETY: a tuple of pg_subscription begins with this struct, and it stays until the next one is fetched.
        let row = unsafe { &*pg_sys::GETSTRUCT(tuple).cast::<Subscription>() };
        if row.is_enabled {
            found.insert(row.database);
        }
    }
    // SAFETY: opened above, ended once.
    unsafe { pg_sys::table_endscan(scan) };
    // SAFETY: opened above, closed once.
    unsafe { pg_sys::table_close(relation, mode) };
    found
}

/// The tables that enabled subscriptions of the current database write to. Empty, without SQL, where there is none.
#[derive(Debug, Default)]
pub struct Targets(Vec<(pg_sys::Oid, String)>);

impl Targets {
    /// Looks them up. What is above and below a target counts, too: a row of a partition may come by its parent.
    pub fn find() -> Result<Self> {
        if !subscribed_databases().contains(&super::current_database()) {
            return Ok(Self::default());
        }
        let targets = sql::read_latest(TARGETS, &[super::current_database().into()], |row| {
            Ok((row.required(1, "table")?, row.required(2, "subscription")?))
        })?;
        Ok(Self(targets))
    }

    /// The name of a subscription that writes to this table.
    pub fn writer(&self, table: pg_sys::Oid) -> Option<&str> {
        self.0.iter().find(|(target, _)| *target == table).map(|(_, subscription)| subscription.as_str())
    }
}

/// $1 is the current database.
const TARGETS: &str = "WITH RECURSIVE target AS ( \
        SELECT r.srrelid AS oid, s.subname::pg_catalog.text AS name FROM pg_catalog.pg_subscription s \
        JOIN pg_catalog.pg_subscription_rel r ON r.srsubid OPERATOR(pg_catalog.=) s.oid \
        WHERE s.subdbid OPERATOR(pg_catalog.=) $1 AND s.subenabled), \
    above AS (SELECT t.oid, t.name FROM target t UNION \
        SELECT i.inhparent, a.name FROM pg_catalog.pg_inherits i \
        JOIN above a ON i.inhrelid OPERATOR(pg_catalog.=) a.oid), \
    below AS (SELECT t.oid, t.name FROM target t UNION \
        SELECT i.inhrelid, b.name FROM pg_catalog.pg_inherits i \
        JOIN below b ON i.inhparent OPERATOR(pg_catalog.=) b.oid) \
    SELECT a.oid, a.name FROM above a UNION SELECT b.oid, b.name FROM below b ORDER BY 1, 2";
