//! Which versions of rows were there at a moment, in a form that a table can keep: a `pg_snapshot`.
//!
//! `pg_current_snapshot()` leaves out subtransactions, and the transaction that asks. A row that a running
//! subtransaction has written would seem to be older than the snapshot. So this one lists them as running, too.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::collections::BTreeSet;
use std::slice;

use pgrx::pg_sys;

use super::relcache::OpenRelation;

/// Transactions that are looked at one by one, where the snapshot does not list them all.
const LOOKED_AT: u64 = 200_000;

/// Transactions that may begin between the moment and the use of a condition without being taken for very old ones.
const AHEAD: u64 = 1 << 24;

/// The transactions that have ended by now, as the text of a `pg_snapshot`; `None` when too many would have to be
/// looked at: a session has more subtransactions than PostgreSQL lists, or is the caller, and its transaction is old.
pub fn ended_by_now() -> Option<String> {
    // SAFETY: in a transaction; it stays valid until the next call, and is only read here.
    let snapshot = unsafe { pg_sys::GetLatestSnapshot().as_ref() }?;
    // SAFETY: the counter of transactions in shared memory.
    let next = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
    let (begin, end) = (widened(snapshot.xmin, next), widened(snapshot.xmax, next));
    // SAFETY: in a transaction. Its own are not listed.
    let own = unsafe { pg_sys::GetTopTransactionIdIfAny() };
    let unlisted = match (snapshot.suboverflowed, own) {
        (true, _) => begin,
        (false, pg_sys::InvalidTransactionId) => end,
        (false, own) => widened(own, next).max(begin),
    };
    if end.saturating_sub(unlisted) > LOOKED_AT {
        return None;
    }
    // SAFETY: the transactions that are not older than the snapshot's oldest.
    let is_running = |id: &u64| unsafe { pg_sys::TransactionIdIsInProgress((*id as u32).into()) };
    let mut running: BTreeSet<u64> = (unlisted..end).filter(is_running).collect();
    let subtransactions = usize::try_from(snapshot.subxcnt).unwrap_or(0);
    for (ids, count) in [(snapshot.xip, snapshot.xcnt as usize), (snapshot.subxip, subtransactions)] {
        if !ids.is_null() {
            // SAFETY: the snapshot has so many of them.
            let ids = unsafe { slice::from_raw_parts(ids, count) };
            running.extend(ids.iter().map(|id| widened(*id, next)));
        }
    }
    let running = running.range(begin..end).map(u64::to_string).collect::<Vec<_>>();
    Some(format!("{begin}:{end}:{}", running.join(",")))
}

/// The number of the next transaction, with its epoch.
pub fn next_transaction() -> u64 {
    // SAFETY: the counter of transactions in shared memory.
    unsafe { pg_sys::ReadNextFullTransactionId() }.value
}

/// The condition, in SQL, that the version of a row was written by this transaction or a later one, which began not so
/// long ago that numbers repeat.
pub fn is_since(row: &str, transaction: u64) -> String {
    let first = format!("'{}'::pg_catalog.xid", transaction as u32);
    format!("pg_catalog.age({row}.xmin) OPERATOR(pg_catalog.<=) pg_catalog.age({first})")
}

/// Whether versions of rows can be compared with this transaction: numbers repeat later.
pub fn is_comparable(transaction: u64) -> bool {
    next_transaction().saturating_sub(transaction) < 1 << 31
}

/// The oldest transaction of which somebody may still need the versions of rows of this table that it replaced; `None`
/// when the table was dropped.
pub fn oldest_needed(table: pg_sys::Oid) -> Option<u32> {
    let table = OpenRelation::open(table, pg_sys::AccessShareLock)?;
    // SAFETY: an open table, in a transaction.
    Some(unsafe { pg_sys::GetOldestNonRemovableTransactionId(table.as_ptr()) }.into_inner())
}

/// A transaction's id with its epoch; it began before `next`, less than an epoch ago.
fn widened(id: pg_sys::TransactionId, next: u64) -> u64 {
    next.saturating_sub(u64::from((next as u32).wrapping_sub(id.into_inner())))
}

/// The condition, in SQL, that the version of a row was written by a transaction that had ended by then.
pub fn is_of_then(row: &str, snapshot: &str) -> String {
    // SAFETY: the counter of transactions in shared memory.
    let limit = unsafe { pg_sys::ReadNextFullTransactionId() }.value + AHEAD;
    // The id of the row's transaction has no epoch: it is the highest below the limit with these digits. Those below 3
    // stand for transactions of old.
    let id = format!("{row}.xmin::pg_catalog.text::pg_catalog.int8");
    let age = format!("(({limit} OPERATOR(pg_catalog.-) {id}) OPERATOR(pg_catalog.&) 4294967295)");
    format!(
        "CASE WHEN {id} OPERATOR(pg_catalog.<) 3 THEN true \
         ELSE pg_catalog.pg_visible_in_snapshot(\
             ({limit} OPERATOR(pg_catalog.-) {age})::pg_catalog.text::pg_catalog.xid8, \
             {}::pg_catalog.text::pg_catalog.pg_snapshot) END",
        pgrx::spi::quote_literal(snapshot)
    )
}
