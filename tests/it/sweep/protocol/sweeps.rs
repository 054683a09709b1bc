//! What a sweep does: write heartbeats, find the silent, declare them dead, settle what is left over. Each function
//! makes the step and says whether it was possible.

use std::array::from_fn;

use super::model::Protocol;
use super::state::{Declaration, DeclarationStep, JOBS, Rule, Session, State, Sweep, Tie, Time, WORKERS};
use super::workers::settle_jobs;

/// Writes the heartbeats that are not in their rows and whose rows are not locked.
pub fn flush(protocol: &Protocol, state: &mut State, sweep: usize) -> bool {
    let beats = from_fn(|number| {
        let worker = &state.workers[number];
        let unwritten =
            worker.entry.filter(|entry| entry.beat_at != entry.written && worker.row < entry.beat_at);
        unwritten.map(|entry| entry.beat_at).filter(|_| !protocol.row_is_locked(state, number))
    });
    begin(state, sweep, Sweep::Flushing(beats), beats.iter().any(Option::is_some))
}

fn begin(state: &mut State, sweep: usize, work: Sweep, is_any: bool) -> bool {
    let is_possible = state.sweeps[sweep] == Sweep::Idle && is_any;
    state.sweeps[sweep] = work;
    is_possible
}

/// Frees the entries of those whose rows say that they are silent.
pub fn forget_silent(protocol: &Protocol, state: &mut State) -> bool {
    let Some(cutoff) = protocol.cutoff(state) else { return false };
    let mut is_any = false;
    for worker in &mut state.workers {
        if worker.entry.is_some_and(|entry| entry.beat_at < cutoff && entry.beat_at == entry.written) {
            worker.remove_entry();
            is_any = true;
        }
    }
    is_any
}

/// Looks for whom to declare dead, without a lock.
pub fn look_for_silent(protocol: &Protocol, state: &mut State, sweep: usize) -> bool {
    let Some(cutoff) = protocol.cutoff(state) else { return false };
    let silent = from_fn(|number| {
        let worker = &state.workers[number];
        number < protocol.workers && !worker.dead && worker.last_beat() < cutoff
    });
    begin(state, sweep, Sweep::Found { silent }, silent.contains(&true))
}

/// Looks into memory for lost sessions, without a lock on a row. The grace is over.
pub fn look_for_disconnected(protocol: &Protocol, state: &mut State, sweep: usize) -> bool {
    let lost = from_fn(|number| state.workers[number].lost_session().filter(|_| number < protocol.workers));
    begin(state, sweep, Sweep::FoundDisconnected { lost }, lost.iter().any(Option::is_some))
}

/// Looks for the dead that run something, without a lock.
pub fn look_for_leftovers(state: &mut State, sweep: usize) -> bool {
    let dead = from_fn(|number| state.workers[number].dead && state.workers[number].runs_something());
    begin(state, sweep, Sweep::FoundLeftovers { dead }, dead.contains(&true))
}

/// The next step of a sweep.
pub fn go_on(protocol: &Protocol, state: &mut State, number: usize) -> bool {
    let next = match state.sweeps[number] {
        Sweep::Idle => None,
        Sweep::Flushing(beats) => Some(commit_flush(state, beats)),
        Sweep::Flushed(beats) => Some(note_written(state, beats)),
        Sweep::Found { silent } => Some(lock_silent(protocol, state, silent)),
        Sweep::FoundDisconnected { lost } => Some(lock_disconnected(protocol, state, lost)),
        Sweep::Declaring(declaration) => declare(protocol, state, number, declaration),
        Sweep::Declared(lost) => Some(untie(state, lost)),
        Sweep::FoundLeftovers { dead } => Some(lock_dead(state, dead)),
        Sweep::SettlingLeftovers { locked, settled, is_settled } => {
            Some(if is_settled { commit_leftovers(state, settled) } else { settle_leftovers(state, locked) })
        }
    };
    let is_possible = next.is_some();
    state.sweeps[number] = next.unwrap_or(Sweep::Idle);
    is_possible
}

/// The sweep's transaction fails, or its process is terminated. What it did in memory stays.
pub fn abort(state: &mut State, sweep: usize) -> bool {
    let has_open = !matches!(state.sweeps[sweep], Sweep::Idle | Sweep::Flushed(_) | Sweep::Declared(_));
    state.sweeps[sweep] = Sweep::Idle;
    has_open
}

fn commit_flush(state: &mut State, beats: [Option<u8>; WORKERS]) -> Sweep {
    for (worker, beat) in state.workers.iter_mut().zip(beats) {
        worker.row = beat.unwrap_or(worker.row);
    }
    Sweep::Flushed(beats)
}

fn note_written(state: &mut State, beats: [Option<u8>; WORKERS]) -> Sweep {
    for (worker, beat) in state.workers.iter_mut().zip(beats) {
        if let (Some(entry), Some(beat)) = (&mut worker.entry, beat) {
            entry.written = beat;
        }
    }
    Sweep::Idle
}

/// Begins the transaction, with a clock read anew; locked rows are skipped.
fn lock_silent(protocol: &Protocol, state: &State, silent: [bool; WORKERS]) -> Sweep {
    let Some(cutoff) = protocol.cutoff(state) else { return Sweep::Idle };
    let locked = from_fn(|number| {
        silent[number] && !protocol.row_is_locked(state, number) && state.workers[number].row < cutoff
    });
    begin_declaration(cutoff, locked, None)
}

/// Locked rows are skipped.
fn lock_disconnected(protocol: &Protocol, state: &State, lost: [Option<Session>; WORKERS]) -> Sweep {
    let locked = from_fn(|number| lost[number].is_some() && !protocol.row_is_locked(state, number));
    begin_declaration(0, locked, Some(lost))
}

fn begin_declaration(
    cutoff: Time,
    locked: [bool; WORKERS],
    lost: Option<[Option<Session>; WORKERS]>,
) -> Sweep {
    if !locked.contains(&true) {
        return Sweep::Idle;
    }
    Sweep::Declaring(Declaration {
        step: DeclarationStep::Look(0),
        of_disconnected: lost.is_some(),
        cutoff,
        locked,
        lost: lost.unwrap_or_default(),
        dying: [false; WORKERS],
        settled: [[false; JOBS]; WORKERS],
    })
}

fn declare(protocol: &Protocol, state: &mut State, number: usize, declaration: Declaration) -> Option<Sweep> {
    match declaration.step {
        DeclarationStep::Look(worker) => Some(look_again(protocol, state, declaration, worker)),
        DeclarationStep::Settle => Some(settle(state, declaration)),
        DeclarationStep::Record => record(state, number, declaration),
        DeclarationStep::Commit => Some(commit(state, declaration)),
    }
}

/// With the row locked: is it in the ledger already, and has it beaten meanwhile?
fn look_again(protocol: &Protocol, state: &mut State, mut declaration: Declaration, worker: usize) -> Sweep {
    let this = &mut state.workers[worker];
    let has_beaten = match declaration.of_disconnected {
        true => this.row_is_later || this.lost_session() != declaration.lost[worker],
        false => this.entry.is_some_and(|entry| entry.beat_at >= declaration.cutoff),
    };
    if declaration.locked[worker] && !this.dead && !(protocol.second_look && has_beaten) {
        this.take_out(declaration.of_disconnected);
        declaration.dying[worker] = true;
    }
    declaration.step = match worker + 1 {
        WORKERS => DeclarationStep::Settle,
        next => DeclarationStep::Look(next),
    };
    match declaration.step {
        DeclarationStep::Settle if !declaration.dying.contains(&true) => Sweep::Idle,
        _ => Sweep::Declaring(declaration),
    }
}

/// Running jobs that are not locked.
fn settleable(state: &State, worker: usize, is_dead: bool) -> [bool; JOBS] {
    from_fn(|job| is_dead && state.workers[worker].running[job] > 0 && !state.job_is_locked(worker, job))
}

fn settle(state: &State, declaration: Declaration) -> Sweep {
    let settled = from_fn(|worker| settleable(state, worker, declaration.dying[worker]));
    Sweep::Declaring(Declaration { step: DeclarationStep::Record, settled, ..declaration })
}

/// Waits for the transaction that writes down a death of one of them; a death that is there already is not written
/// again.
fn record(state: &mut State, number: usize, mut declaration: Declaration) -> Option<Sweep> {
    // This sweep's own step is not a pending one.
    state.sweeps[number] = Sweep::Declaring(declaration);
    if (0..WORKERS).any(|worker| declaration.dying[worker] && state.death_is_pending(worker)) {
        return None;
    }
    for (dying, worker) in declaration.dying.iter_mut().zip(&mut state.workers) {
        if *dying {
            worker.close_entry();
            *dying = !worker.dead;
        }
    }
    declaration.step = DeclarationStep::Commit;
    Some(Sweep::Declaring(declaration))
}

fn commit(state: &mut State, declaration: Declaration) -> Sweep {
    for number in 0..WORKERS {
        let worker = &mut state.workers[number];
        if declaration.dying[number] {
            worker.deaths += 1;
            worker.dead = true;
            let was_silent = match declaration.of_disconnected {
                true => worker.vanished,
                false => worker.heard < declaration.cutoff,
            };
            let was_alive = worker.answered;
            worker.answered = false;
            if !was_silent {
                state.break_rule(Rule::SettledOnlyWhenDead);
            }
            if !was_alive {
                state.break_rule(Rule::DeadOnce);
            }
        }
        settle_jobs(state, number, declaration.settled[number]);
    }
    match declaration.of_disconnected {
        true => {
            let dead = declaration.dying;
            Sweep::Declared(from_fn(|number| declaration.lost[number].filter(|_| dead[number])))
        }
        false => Sweep::Idle,
    }
}

fn untie(state: &mut State, lost: [Option<Session>; WORKERS]) -> Sweep {
    for (worker, lost) in state.workers.iter_mut().zip(lost) {
        if let Some(entry) = &mut worker.entry
            && let Tie::Lost { session, .. } = entry.tie
            && lost == Some(session)
        {
            entry.tie = Tie::None;
        }
    }
    Sweep::Idle
}

fn lock_dead(state: &State, dead: [bool; WORKERS]) -> Sweep {
    let locked =
        from_fn(|worker| dead[worker] && state.workers[worker].dead && !state.death_is_locked(worker));
    match locked.contains(&true) {
        true => Sweep::SettlingLeftovers { locked, settled: [[false; JOBS]; WORKERS], is_settled: false },
        false => Sweep::Idle,
    }
}

fn settle_leftovers(state: &State, locked: [bool; WORKERS]) -> Sweep {
    let settled = from_fn(|worker| settleable(state, worker, locked[worker]));
    Sweep::SettlingLeftovers { locked, settled, is_settled: true }
}

fn commit_leftovers(state: &mut State, settled: [[bool; JOBS]; WORKERS]) -> Sweep {
    for (worker, settled) in settled.into_iter().enumerate() {
        if settled.contains(&true) && !state.workers[worker].dead {
            state.break_rule(Rule::SettledOnlyWhenDead);
        }
        settle_jobs(state, worker, settled);
    }
    Sweep::Idle
}
