//! What a worker does: beat, register, claim, finish. Each function makes the step and says whether it was possible.

use super::model::Protocol;
use super::state::{Call, CallStep, Entry, JOBS, Rule, State, Tie};

/// A heartbeat: one store when the worker is known in memory; otherwise the beginning of a call.
pub fn beat(protocol: &Protocol, state: &mut State, worker: usize) -> bool {
    let now = state.now;
    let this = &mut state.workers[worker];
    if this.call.is_some() {
        return false;
    }
    match &mut this.entry {
        Some(entry) if !entry.closed => {
            entry.beat_at = now;
            if let Tie::Lost { is_heard, .. } = &mut entry.tie {
                *is_heard = true;
            }
            let incarnation = entry.incarnation;
            this.heard = now;
            this.vanished = false;
            answer(state, worker, incarnation);
            true
        }
        _ => begin(protocol, state, worker, false),
    }
}

/// Another process of the same id starts, and the one before it is given up.
pub fn register(protocol: &Protocol, state: &mut State, worker: usize) -> bool {
    let this = &state.workers[worker];
    let may_register = this.call.is_none() && this.deaths < protocol.registrations;
    if !may_register || !begin(protocol, state, worker, true) {
        return false;
    }
    let this = &mut state.workers[worker];
    this.close_entry();
    if let Some(entry) = &mut this.entry {
        entry.tie = Tie::None;
    }
    true
}

fn begin(protocol: &Protocol, state: &mut State, worker: usize, registers: bool) -> bool {
    if protocol.row_is_locked(state, worker) {
        return false;
    }
    state.workers[worker].call = Some(Call {
        step: CallStep::Locked,
        registers,
        attaches: false,
        beat_at: state.now,
        incarnation: 0,
        was_dead: false,
        settled: [false; JOBS],
        mark_holds: false,
    });
    true
}

/// The next step of a call.
pub fn go_on(protocol: &Protocol, state: &mut State, worker: usize) -> bool {
    let Some(call) = state.workers[worker].call else { return false };
    match call.step {
        CallStep::Locked => judge(state, worker, call),
        CallStep::Judged if call.gives_up() => return settle(state, worker, call),
        CallStep::Judged | CallStep::Recorded => mark(state, worker, call),
        CallStep::Settled => return record(state, worker, call),
        CallStep::Marked => commit(state, worker, call),
        CallStep::Committed => store_entry(protocol, state, worker, call),
    }
    true
}

fn judge(state: &mut State, worker: usize, call: Call) {
    let this = &mut state.workers[worker];
    let (incarnation, was_dead) = (this.deaths + 1, this.dead);
    this.call = Some(Call { step: CallStep::Judged, incarnation, was_dead, ..call });
}

/// Waits for the lock on any of the jobs.
fn settle(state: &mut State, worker: usize, call: Call) -> bool {
    if (0..JOBS).any(|job| state.job_is_locked(worker, job)) {
        return false;
    }
    let this = &mut state.workers[worker];
    let settled = this.running.map(|claimed| claimed > 0);
    this.call = Some(Call { step: CallStep::Settled, settled, ..call });
    true
}

/// Closes the death, or writes a new one down; waits for the lock on it.
fn record(state: &mut State, worker: usize, call: Call) -> bool {
    if state.death_is_locked(worker) || state.death_is_pending(worker) {
        return false;
    }
    let incarnation = call.incarnation + u8::from(!call.was_dead);
    let this = &mut state.workers[worker];
    this.close_entry();
    this.call = Some(Call { step: CallStep::Recorded, incarnation, ..call });
    true
}

fn mark(state: &mut State, worker: usize, call: Call) {
    state.workers[worker].call = Some(Call { step: CallStep::Marked, mark_holds: true, ..call });
}

fn commit(state: &mut State, worker: usize, call: Call) {
    let this = &mut state.workers[worker];
    this.row = call.beat_at;
    this.heard = call.beat_at;
    (this.vanished, this.row_is_later) = (false, true);
    if call.gives_up() {
        this.deaths += u8::from(!call.was_dead);
        this.dead = false;
    }
    settle_jobs(state, worker, call.settled);
    answer(state, worker, call.incarnation);
    let call = Call { step: CallStep::Committed, settled: [false; JOBS], ..call };
    state.workers[worker].call = Some(call);
}

/// Jobs are settled because of the worker's last death.
pub fn settle_jobs(state: &mut State, worker: usize, settled: [bool; JOBS]) {
    let this = &mut state.workers[worker];
    let because_of = this.deaths;
    let mut is_of_later_life = false;
    for (claimed, _) in this.running.iter_mut().zip(settled).filter(|(_, settled)| *settled) {
        is_of_later_life |= *claimed > because_of;
        *claimed = 0;
    }
    if is_of_later_life {
        state.break_rule(Rule::ReturnsWait);
    }
}

fn store_entry(protocol: &Protocol, state: &mut State, worker: usize, call: Call) {
    let this = &mut state.workers[worker];
    if call.mark_holds || !protocol.marks {
        let beat_at = this.entry.map_or(call.beat_at, |entry| entry.beat_at.max(call.beat_at));
        let written = call.beat_at;
        let tie = match this.entry.map_or(Tie::None, |entry| entry.tie) {
            Tie::Lost { session, .. } => Tie::Lost { session, is_heard: true },
            tie => tie,
        };
        this.entry = Some(Entry { beat_at, written, incarnation: call.incarnation, closed: false, tie });
    }
    this.ties = call.attaches;
    this.call = None;
}

/// A worker is told its incarnation.
fn answer(state: &mut State, worker: usize, incarnation: u8) {
    let this = &mut state.workers[worker];
    let is_present = !this.dead && incarnation == this.deaths + 1 && incarnation >= this.knows;
    let runs_earlier = this.running.iter().any(|claimed| (1..incarnation).contains(claimed));
    this.knows = incarnation;
    this.answered = true;
    if !is_present {
        state.break_rule(Rule::IncarnationsGrow);
    }
    if runs_earlier {
        state.break_rule(Rule::ReturnsWait);
    }
}

/// The call's session is terminated, or its statement fails.
pub fn abort(state: &mut State, worker: usize) -> bool {
    let this = &mut state.workers[worker];
    let is_open = this.call.is_some_and(|call| call.is_open());
    this.call = this.call.filter(|_| !is_open);
    is_open
}

pub fn claim(protocol: &Protocol, state: &mut State, worker: usize) -> bool {
    let this = &mut state.workers[worker];
    let free = this.running[..protocol.jobs].iter_mut().find(|claimed| **claimed == 0);
    let Some(job) = free.filter(|_| this.call.is_none()) else { return false };
    *job = this.knows;
    true
}

/// Waits for the lock on the job; a job that is settled by then stays so.
pub fn finish(state: &mut State, worker: usize, job: usize) -> bool {
    let is_possible = state.workers[worker].running[job] > 0 && !state.job_is_locked(worker, job);
    if is_possible {
        state.workers[worker].running[job] = 0;
    }
    is_possible
}
