//! Whether a table is left alone for now: because another server settles its jobs, because code of its owner has ended
//! a process, or because it has failed not long ago.

use std::cell::RefCell;
use std::collections::HashSet;

use chrono::{DateTime, Utc};
use pgrx::pg_sys;

use super::table::JobTable;
use crate::error::{Error, Result};
use crate::pg::scope;
use crate::shmem::problems::{self, Place, Problem};
use crate::shmem::quarantine::{self, Record};

pub(super) fn place(table: &JobTable) -> Place {
    Place::JobTable { table: table.watched.oid, part: table.relation.oid }
}

thread_local! {
    /// What took too long in this process, where that is a sweeper.
    static OVERDUE: RefCell<HashSet<Place>> = RefCell::default();
}

/// So many of the tables that are known to take too long are tried in one round.
const OVERDUE_AT_ONCE: usize = 2;

/// A problem of a table. In a sweeper, one that took too long is not tried again in this round.
pub(super) fn problem(table: &JobTable, error: &Error) -> Problem {
    note_overdue(place(table), error);
    let problem = Problem::new(place(table), format!("settle jobs in table {}", table.watched.name), error);
    if table.only { problem.in_part(&table.target) } else { problem }
}

/// A sweeper does not try again in this round what took too long.
pub(super) fn note_overdue(place: Place, error: &Error) {
    if error.is_interrupt() && scope::statement_limit().is_some() {
        OVERDUE.with_borrow_mut(|places| places.insert(place));
    }
}

/// Why jobs are settled. It decides whether a table is touched that has ended or held up a sweeper before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Workers are declared dead: if the process ends here, their deaths are lost until the next sweep.
    Death,
    /// Dead workers have orphaned jobs: a table can be tried again without holding up a death.
    Orphans,
}

/// Checks whether jobs of a table may be settled.
///
/// # Errors
///
/// [`Error::JobsReplicated`] where a subscription writes to it, and those of [`may_read`].
pub(super) fn may_settle(table: &JobTable, occasion: Occasion) -> Result<()> {
    match &table.subscription {
        Some(subscription) => Err(Error::JobsReplicated { subscription: subscription.clone() }),
        None => may_read(table, occasion),
    }
}

/// Checks whether jobs of a table may be looked at.
///
/// # Errors
///
/// [`Error::InQuarantine`]; in a session always, where the table has ended or held up a process.
pub(super) fn may_read(table: &JobTable, occasion: Occasion) -> Result<()> {
    may_touch(table.watched.oid, occasion)
}

/// The same for what has this OID: a table, or a function.
pub(super) fn may_touch(oid: pg_sys::Oid, occasion: Occasion) -> Result<()> {
    let may = match quarantine::record(oid) {
        Record::Clean => true,
        _ if scope::statement_limit().is_none() => false,
        Record::Settled => true,
        Record::OnTrial => occasion == Occasion::Orphans,
        Record::LeftOut => false,
    };
    if may { Ok(()) } else { Err(Error::InQuarantine) }
}

/// Whether a sweeper leaves a table alone for now, because it has tried to settle it not long ago. A death waits for no
/// table that takes too long.
pub(super) fn is_paused(table: &JobTable, occasion: Occasion, now: DateTime<Utc>) -> bool {
    is_paused_at(place(table), occasion, now)
}

/// The same for what a place is about.
pub(super) fn is_paused_at(place: Place, occasion: Occasion, now: DateTime<Utc>) -> bool {
    if scope::statement_limit().is_none() {
        return false;
    }
    let (is_overdue, count) = OVERDUE.with_borrow(|places| (places.contains(&place), places.len()));
    let is_standing = || problems::is_standing(place, now);
    let is_orphans = occasion == Occasion::Orphans;
    match problems::is_overdue(place) {
        true => is_overdue || !is_orphans || count >= OVERDUE_AT_ONCE || is_standing(),
        false => is_overdue || is_orphans && is_standing(),
    }
}
