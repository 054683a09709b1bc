//! What the names in our own statements mean, checked each time that Postgres looks them up.
//!
//! The check stands between the look-up of a statement's names and everything that could run code of the objects
//! found: rewriting, planning, execution. It also sees the repeated look-up of a kept plan. Statements of others,
//! such as those of a trigger that ours sets off, are told by their text and left alone.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::cell::{Cell, RefCell};
use std::ffi::CStr;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::Error;

thread_local! {
    /// The relations that statements may name; `None` where nothing is checked.
    static ALLOWED: RefCell<Option<Vec<pg_sys::Oid>>> = const { RefCell::new(None) };
    /// The statement of ours that is being run.
    static STATEMENT: RefCell<Option<String>> = const { RefCell::new(None) };
    /// The hook that was there before.
    static PREVIOUS: Cell<pg_sys::post_parse_analyze_hook_type> = const { Cell::new(None) };
}

/// Puts the check in place. Called once, when the library is loaded.
pub fn install() {
    // SAFETY: a global that is only changed while a library is loaded.
    PREVIOUS.set(unsafe { pg_sys::post_parse_analyze_hook });
    // SAFETY: as above; the function lives as long as the process.
    unsafe { pg_sys::post_parse_analyze_hook = Some(check_names) };
}

/// Narrows what statements may name until the result is dropped.
pub fn allow(relations: &[pg_sys::Oid]) -> impl Drop + use<> {
    struct Restored(Option<Vec<pg_sys::Oid>>);
    impl Drop for Restored {
        fn drop(&mut self) {
            ALLOWED.replace(self.0.take());
        }
    }
    Restored(ALLOWED.replace(Some(relations.to_vec())))
}

/// Declares a statement as ours until the result is dropped.
pub fn run(statement: &str) -> impl Drop + use<> {
    struct Restored(Option<String>);
    impl Drop for Restored {
        fn drop(&mut self) {
            STATEMENT.replace(self.0.take());
        }
    }
    Restored(STATEMENT.replace(Some(statement.to_owned())))
}

#[pg_guard]
unsafe extern "C-unwind" fn check_names(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: called with what it was installed for.
        unsafe { previous(state, query, jumble) };
    }
    // SAFETY: valid for the call; the text is null or terminated.
    let text = unsafe { (*state).p_sourcetext };
    // SAFETY: as above.
    if text.is_null() || !is_ours(unsafe { CStr::from_ptr(text) }) {
        return;
    }
    // SAFETY: a query that was just analysed.
    let named = unsafe { relations_of(query) };
    let stranger = ALLOWED.with_borrow(|allowed| {
        let allowed = allowed.as_ref()?;
        named.into_iter().find(|oid| !allowed.contains(oid) && !is_catalog(*oid))
    });
    if let Some(oid) = stranger {
        let table = super::catalog::qualified_name(oid).unwrap_or_default();
        ErrorReport::from(Error::Replaced { table }).report(PgLogLevel::ERROR);
    }
}

fn is_ours(text: &CStr) -> bool {
    STATEMENT.with_borrow(|statement| {
        statement.as_ref().is_some_and(|statement| statement.as_bytes() == text.to_bytes())
    })
}

/// The system's own relations have OIDs below those of users' objects.
fn is_catalog(oid: pg_sys::Oid) -> bool {
    oid.to_u32() < pg_sys::FirstNormalObjectId
}

/// All relations that a query names, in whatever part of it.
///
/// # Safety
///
/// The query is valid and not yet rewritten.
unsafe fn relations_of(query: *mut pg_sys::Query) -> Vec<pg_sys::Oid> {
    let mut relations: *mut pg_sys::List = std::ptr::null_mut();
    let mut others: *mut pg_sys::List = std::ptr::null_mut();
    let mut has_row_security = false;
    // SAFETY: the caller's promise; the pointers are valid for the call.
    unsafe {
        pg_sys::extract_query_dependencies(query.cast(), &mut relations, &mut others, &mut has_row_security)
    };
    super::catalog::oids_of(relations)
}
