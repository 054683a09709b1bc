//! Which rows of a table other transactions are changing or have locked, found out without locking a row.
//!
//! SQL shows the transaction that has last locked or replaced a row, but not whether the number is one of a transaction
//! or of several together, so the pages are read here. What is looked at is a few bytes of each row, of all its
//! versions.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ops::Range;

use pgrx::pg_sys;

use super::relcache::OpenRelation;

/// The access method of tables in PostgreSQL's own format.
const HEAP: pg_sys::Oid = pg_sys::Oid::from_u32(2);

/// The place of a version of a row in its table: page and line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The page, counted from 0.
    pub page: u32,
    /// The line in it, counted from 1.
    pub line: u16,
}

/// A table whose pages are in PostgreSQL's own format. It cannot be altered while this is there.
pub struct HeapTable(OpenRelation);

impl HeapTable {
    /// The caller holds a lock on the table. `None` when it is stored in another way, or not here.
    pub fn open(table: pg_sys::Oid) -> Option<Self> {
        let table = OpenRelation::open(table, pg_sys::NoLock)?;
        let is_heap = table.class().relkind as u8 == pg_sys::RELKIND_RELATION && table.class().relam == HEAP;
        is_heap.then_some(Self(table))
    }

    /// How many pages it has.
    pub fn pages(&self) -> u32 {
        // SAFETY: an open table.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.0.as_ptr(), pg_sys::ForkNumber::MAIN_FORKNUM) }
    }

    /// The versions of rows on these pages that a transaction which has not ended has locked or replaced, and those
    /// that several transactions have locked, ended or not.
    pub fn locked(&self, pages: Range<u32>) -> Vec<Place> {
        let mut locked = Vec::new();
        for page in pages.start..pages.end.min(self.pages()) {
            super::check_for_interrupts();
            for (line, locker) in Page::read(&self.0, page).lockers() {
                if locker.may_be_at_work() {
                    locked.push(Place { page, line });
                }
            }
        }
        locked
    }
}

/// Who has last locked or replaced a version of a row.
enum Locker {
    One(pg_sys::TransactionId),
    Several,
}

impl Locker {
    fn may_be_at_work(&self) -> bool {
        match self {
            // SAFETY: a transaction's id from a row; also those of prepared transactions and of subtransactions.
            Self::One(id) => unsafe { pg_sys::TransactionIdIsInProgress(*id) },
            Self::Several => true,
        }
    }
}

/// A page that no process changes while this is there.
struct Page(pg_sys::Buffer);

impl Page {
    fn read(table: &OpenRelation, page: u32) -> Self {
        // SAFETY: an open table and one of its pages; released by `drop`.
        let buffer = unsafe {
            pg_sys::ReadBufferExtended(
                table.as_ptr(),
                pg_sys::ForkNumber::MAIN_FORKNUM,
                page,
                pg_sys::ReadBufferMode::RBM_NORMAL,
                std::ptr::null_mut(),
            )
        };
        // SAFETY: just pinned.
        unsafe { pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32) };
        Self(buffer)
    }

    /// The lines whose rows somebody has locked or replaced, in a copy: whether that has ended is asked later, when the
    /// page is free again.
    fn lockers(self) -> Vec<(u16, Locker)> {
        // SAFETY: pinned and locked.
        let page = unsafe { pg_sys::BufferGetPage(self.0) };
        // SAFETY: as above.
        let last = unsafe { pg_sys::PageGetMaxOffsetNumber(page) };
        (1..=last).filter_map(|line| Some((line, Self::locker(page, line)?))).collect()
    }

    fn locker(page: pg_sys::Page, line: u16) -> Option<Locker> {
        // SAFETY: a page that is locked, and one of its lines.
        let item = unsafe { pg_sys::PageGetItemId(page, line) };
        // SAFETY: as above.
        if unsafe { (*item).lp_flags() } != pg_sys::LP_NORMAL {
            return None;
        }
        // SAFETY: the line has a row, which begins with this header.
        let header = unsafe { &*pg_sys::PageGetItem(page, item).cast::<pg_sys::HeapTupleHeaderData>() };
        let flags = u32::from(header.t_infomask);
        if flags & pg_sys::HEAP_XMAX_INVALID != 0 {
            return None;
        }
        if flags & pg_sys::HEAP_XMAX_IS_MULTI != 0 {
            return Some(Locker::Several);
        }
        // SAFETY: a row in a table has this part of the union.
        Some(Locker::One(unsafe { header.t_choice.t_heap.t_xmax }))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // SAFETY: read by `read`, and released only here.
        unsafe { pg_sys::UnlockReleaseBuffer(self.0) };
    }
}
