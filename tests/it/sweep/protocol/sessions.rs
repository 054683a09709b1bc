//! The sessions that workers are tied to: a worker attaches itself, its client vanishes, and the server may notice the
//! end of an older session late. Each function makes the step and says whether it was possible.

use super::model::Protocol;
use super::state::{State, Tie};
use super::workers;

/// A heartbeat in a new session that also ties the worker to it. The session before is broken.
pub fn attach(protocol: &Protocol, state: &mut State, worker: usize) -> bool {
    let this = &mut state.workers[worker];
    if this.session >= protocol.sessions || this.ties || !workers::beat(protocol, state, worker) {
        return false;
    }
    let this = &mut state.workers[worker];
    this.has_old_session = this.session > 0 && !this.is_session_over;
    this.session += 1;
    this.is_session_over = false;
    match (&mut this.call, &mut this.entry) {
        (Some(call), _) => call.attaches = true,
        (None, _) => this.ties = true,
    }
    if let Some(entry) = &mut this.entry
        && protocol.release
        && matches!(entry.tie, Tie::To(_))
    {
        entry.tie = Tie::None;
    }
    true
}

/// The transaction of the call commits, or what it waits for is done after that.
pub fn commit_tie(state: &mut State, worker: usize) -> bool {
    let this = &mut state.workers[worker];
    let (session, knows) = (this.session, this.knows);
    if let Some(entry) = this.entry.as_mut().filter(|entry| !entry.closed && entry.incarnation == knows)
        && this.ties
    {
        entry.tie = Tie::To(session);
    }
    std::mem::take(&mut this.ties)
}

/// The transaction is rolled back.
pub fn abort_tie(state: &mut State, worker: usize) -> bool {
    std::mem::take(&mut state.workers[worker].ties)
}

/// The client of the newest session vanishes, and the server notices.
pub fn vanish(state: &mut State, worker: usize) -> bool {
    let this = &mut state.workers[worker];
    if this.session == 0 || this.is_session_over || this.call.is_some() || this.ties {
        return false;
    }
    this.is_session_over = true;
    this.vanished = true;
    let session = this.session;
    if let Some(entry) = this.entry.as_mut().filter(|entry| entry.tie == Tie::To(session)) {
        entry.tie = Tie::Lost { session, is_heard: false };
        this.row_is_later = false;
    }
    true
}

/// The server notices that the session before the newest is broken.
pub fn notice_old_end(protocol: &Protocol, state: &mut State, worker: usize) -> bool {
    let this = &mut state.workers[worker];
    let old = this.session.saturating_sub(1);
    let is_lost = |tie: Tie| match tie {
        Tie::To(session) => session == old || !protocol.own_ties,
        _ => false,
    };
    if let Some(entry) = this.entry.as_mut().filter(|entry| is_lost(entry.tie) && this.has_old_session) {
        entry.tie = Tie::Lost { session: old, is_heard: false };
        this.row_is_later = false;
    }
    std::mem::take(&mut this.has_old_session)
}
