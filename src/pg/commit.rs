//! Work that waits for the commit of the current transaction.
//!
//! Waiting work is dropped when the transaction, or the subtransaction in which it was asked for, is rolled back, and
//! also when the transaction is prepared: `COMMIT PREPARED`, perhaps years later in another session, calls nothing.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::cell::{Cell, RefCell};
use std::ffi::c_void;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::Error;

/// What waits, and what it waits for.
struct Pending {
    /// The subtransaction in which it was asked for.
    asked_in: pg_sys::SubTransactionId,
    /// The transaction must not be prepared.
    is_of_session: bool,
    work: Box<dyn FnOnce()>,
}

thread_local! {
    static PENDING: RefCell<Vec<Pending>> = const { RefCell::new(Vec::new()) };
    /// Whether PostgreSQL calls this process's callbacks.
    static IS_REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` when the current transaction has committed; never, when it or a subtransaction that this is called in
/// is rolled back, nor when it is prepared. The work must not fail: the transaction is over.
pub fn at_commit(work: impl FnOnce() + 'static) {
    wait_for_commit(false, Box::new(work));
}

/// The same for what is about this session: the transaction cannot be prepared.
pub fn at_commit_of_session(work: impl FnOnce() + 'static) {
    wait_for_commit(true, Box::new(work));
}

fn wait_for_commit(is_of_session: bool, work: Box<dyn FnOnce()>) {
    if !IS_REGISTERED.replace(true) {
        // SAFETY: the function lives as long as the process.
        unsafe { pg_sys::RegisterXactCallback(Some(transaction_ends), std::ptr::null_mut()) };
        // SAFETY: as above.
        unsafe { pg_sys::RegisterSubXactCallback(Some(subtransaction_ends), std::ptr::null_mut()) };
    }
    // SAFETY: in a transaction.
    let asked_in = unsafe { pg_sys::GetCurrentSubTransactionId() };
    PENDING.with_borrow_mut(|pending| pending.push(Pending { asked_in, is_of_session, work }));
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_ends(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT => {
            PENDING.take().into_iter().for_each(|pending| (pending.work)());
        }
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => refuse_to_prepare(),
        pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PREPARE => drop(PENDING.take()),
        _ => {}
    }
}

/// Here an error still rolls back.
fn refuse_to_prepare() {
    if PENDING.with_borrow(|pending| pending.iter().any(|pending| pending.is_of_session)) {
        ErrorReport::from(Error::AttachedAndPrepared).report(PgLogLevel::ERROR);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction_ends(
    event: pg_sys::SubXactEvent::Type,
    ended: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    PENDING.with_borrow_mut(|pending| match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => pending.retain(|pending| pending.asked_in != ended),
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
            pending
                .iter_mut()
                .filter(|pending| pending.asked_in == ended)
                .for_each(|pending| pending.asked_in = parent);
        }
        _ => {}
    });
}
