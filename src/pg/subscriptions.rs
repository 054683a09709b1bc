//! Subscriptions of logical replication, and the tables of the current database that they write to.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ffi::CStr;

use pgrx::pg_sys;

use super::{arrays, roles, sql};
use crate::error::Result;

/// The OID of pg_subscription, which is not among pgrx's bindings.
const SUBSCRIPTIONS: u32 = 6_100;

/// The beginning of a row of pg_subscription, the same in all versions that are supported.
#[repr(C)]
struct Form {
    oid: pg_sys::Oid,
    database: pg_sys::Oid,
    skipped: pg_sys::XLogRecPtr,
    name: pg_sys::NameData,
    owner: pg_sys::Oid,
    is_enabled: bool,
}

/// A subscription that is enabled.
pub struct Subscription {
    /// The database that it writes to.
    pub database: pg_sys::Oid,
    oid: pg_sys::Oid,
    name: String,
    owner: pg_sys::Oid,
    /// Whether its owner is a superuser, so that it may write to every table.
    pub is_a_superusers: bool,
}

/// The enabled subscriptions of all databases. Needs a transaction, no database. `None` while one is being dropped:
/// that locks the catalog until it commits, and may have to wait for the publisher.
pub fn enabled() -> Option<Vec<Subscription>> {
    let (catalog, mode) = (pg_sys::Oid::from(SUBSCRIPTIONS), pg_sys::AccessShareLock as pg_sys::LOCKMODE);
    // SAFETY: an ordinary heavyweight lock that is not waited for; released below.
    if !unsafe { pg_sys::ConditionalLockRelationOid(catalog, mode) } {
        return None;
    }
    let found = scan(catalog);
    // SAFETY: taken above.
    unsafe { pg_sys::UnlockRelationOid(catalog, mode) };
    Some(found)
}

fn scan(catalog: pg_sys::Oid) -> Vec<Subscription> {
    let mut found = Vec::new();
    let locked = pg_sys::NoLock as pg_sys::LOCKMODE;
    // SAFETY: pg_subscription is shared, so it can be opened without a database; locked by the caller, closed below.
    let relation = unsafe { pg_sys::table_open(catalog, locked) };
    // SAFETY: the relation is open; no keys; ended below.
    let scan = unsafe { pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut()) };
    loop {
        // SAFETY: the scan is open.
        let tuple = unsafe { pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection) };
        if tuple.is_null() {
            break;
        }
        // SAFETY: a tuple of pg_subscription begins with this struct, and it stays until the next one is fetched.
        let row = unsafe { &*pg_sys::GETSTRUCT(tuple).cast::<Form>() };
        if row.is_enabled {
            // SAFETY: a NameData is always terminated.
            let name = unsafe { CStr::from_ptr(row.name.data.as_ptr()) }.to_string_lossy().into_owned();
            let (database, oid, owner) = (row.database, row.oid, row.owner);
            let is_a_superusers = roles::is_superuser(owner);
            found.push(Subscription { database, oid, name, owner, is_a_superusers });
        }
    }
    // SAFETY: opened above, ended once.
    unsafe { pg_sys::table_endscan(scan) };
    // SAFETY: opened above, closed once.
    unsafe { pg_sys::table_close(relation, locked) };
    found
}

/// The tables that enabled subscriptions of the current database write to.
#[derive(Debug)]
pub enum Targets {
    /// These, each with the name of the subscription.
    Known(Vec<(pg_sys::Oid, String)>),
    /// It is not known now: any table may be one.
    Any,
}

impl Targets {
    /// Looks them up, without SQL where there is no subscription. What is above and below a target counts, too: a row
    /// of a partition may come by its parent. `None` while a subscription is being dropped.
    pub fn find() -> Result<Option<Self>> {
        let Some(mut enabled) = enabled() else { return Ok(None) };
        enabled.retain(|subscription| subscription.database == super::current_database());
        if enabled.is_empty() {
            return Ok(Some(Self::Known(Vec::new())));
        }
        let number = |oid: pg_sys::Oid| i64::from(oid.to_u32());
        let oids: Vec<i64> = enabled.iter().map(|subscription| number(subscription.oid)).collect();
        let owners: Vec<i64> = enabled.iter().map(|subscription| number(subscription.owner)).collect();
        let names = arrays::texts(enabled.iter().map(|subscription| subscription.name.as_str()));
        let targets = sql::read_latest(TARGETS, &[oids.into(), names, owners.into()], |row| {
            Ok((row.required(1, "table")?, row.required(2, "subscription")?))
        })?;
        Ok(Some(Self::Known(targets)))
    }

    /// The name of a subscription that writes to this table.
    pub fn writer(&self, table: pg_sys::Oid) -> Option<&str> {
        match self {
            Self::Known(targets) => targets
                .iter()
                .find(|(target, _)| *target == table)
                .map(|(_, subscription)| subscription.as_str()),
            Self::Any => Some("(being dropped)"),
        }
    }
}

/// $1 are subscriptions, $2 their names, $3 their owners. Since 16 a role that is no superuser can have one to any
/// table: it counts where its owner may write to the table, or may act as the table's owner.
const TARGETS: &str = "WITH RECURSIVE target AS ( \
        SELECT r.srrelid AS oid, s.name \
        FROM unnest($1::pg_catalog.int8[], $2::pg_catalog.text[], $3::pg_catalog.int8[]) AS s (oid, name, owner) \
        JOIN pg_catalog.pg_subscription_rel r ON r.srsubid::pg_catalog.int8 OPERATOR(pg_catalog.=) s.oid \
        JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) r.srrelid \
        WHERE pg_catalog.has_table_privilege(s.owner::pg_catalog.oid, c.oid, 'INSERT, UPDATE') \
           OR pg_catalog.pg_has_role(s.owner::pg_catalog.oid, c.relowner, 'MEMBER')), \
    above AS (SELECT t.oid, t.name FROM target t UNION \
        SELECT i.inhparent, a.name FROM pg_catalog.pg_inherits i \
        JOIN above a ON i.inhrelid OPERATOR(pg_catalog.=) a.oid), \
    below AS (SELECT t.oid, t.name FROM target t UNION \
        SELECT i.inhrelid, b.name FROM pg_catalog.pg_inherits i \
        JOIN below b ON i.inhparent OPERATOR(pg_catalog.=) b.oid) \
    SELECT a.oid, a.name FROM above a UNION SELECT b.oid, b.name FROM below b ORDER BY 1, 2";
