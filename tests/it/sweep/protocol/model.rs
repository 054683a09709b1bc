//! The protocol of heartbeat, sweep and return, as steps that interleave in every order.
//!
//! A step is what nothing can come between: a store under the lock of a partition, one statement, a commit. What a
//! call or a sweep does after its commit are further steps, for others see the commit first. A transaction may be
//! aborted at each step, and the server may crash. A worker claims a job only between two answers; one that does not
//! know of its death goes on claiming. An answer counts as known once it is committed.

use stateright::{Model, Property};

use super::state::{JOBS, Rule, SWEEPS, State, Sweep, WORKERS, Worker};
use super::{GROW, ONCE, SETTLED, WAIT, filling, sessions, sweeps, workers};

const DEAD: &str = "a worker is dead";
const BACK: &str = "a dead worker is back";
const DEAD_AGAIN: &str = "a worker dies in its second life";
const CUT_OFF: &str = "a worker dies of its lost session";
const FILLED: &str = "a worker beats by an entry that was made from its row";
const LEFT_OVER: &str = "a job is left over and settled";

/// How far the model goes, and which safeguards it has.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// Workers that live; the others do nothing.
    pub workers: usize,
    /// How often a threshold may pass.
    pub thresholds: u8,
    pub crashes: u8,
    /// Jobs that a worker runs at once.
    pub jobs: usize,
    /// How many deaths a worker may have for its id to be registered again; 0 for never.
    pub registrations: u8,
    /// The lock on the row of `worker_heartbeats`.
    pub row_lock: bool,
    /// The second look into memory, with the row locked.
    pub second_look: bool,
    /// Silence counts from the start of the server.
    pub observation: bool,
    /// A mark of the removals, without which no entry is added.
    pub marks: bool,
    /// After a crash, memory is filled from the rows.
    pub fills: bool,
    /// Of a row that somebody has locked, no entry is made.
    pub skips_locked: bool,
    /// The ledger is read after the row.
    pub reads_ledger_last: bool,
    /// A mark of the removals, without which no entry is made from a row.
    pub marks_fills: bool,
    /// Sessions that a worker may attach itself to, one after the other.
    pub sessions: u8,
    /// A call that attaches takes the worker from the session before at once.
    pub release: bool,
    /// The end of a session is that of the workers that are tied to it alone.
    pub own_ties: bool,
}

impl Protocol {
    /// Everything as the code has it.
    pub const COMPLETE: Self = Self {
        workers: WORKERS,
        thresholds: 1,
        crashes: 1,
        jobs: 1,
        registrations: 0,
        row_lock: true,
        second_look: true,
        observation: true,
        marks: true,
        fills: false,
        skips_locked: true,
        reads_ledger_last: true,
        marks_fills: true,
        sessions: 0,
        release: true,
        own_ties: true,
    };
}

/// What happens next. Workers and sweeps by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    ThresholdPasses,
    Crash,
    Beat(usize),
    Register(usize),
    Attach(usize),
    CommitTie(usize),
    AbortTie(usize),
    Vanish(usize),
    NoticeOldEnd(usize),
    GoOn(usize),
    AbortCall(usize),
    Claim(usize),
    Finish(usize, usize),
    BeginToFill(usize),
    FillOn(usize),
    Flush(usize),
    Forget,
    LookForSilent(usize),
    LookForDisconnected(usize),
    LookForLeftovers(usize),
    SweepOn(usize),
    AbortSweep(usize),
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::initial()]
    }

    /// All that can be thought of; what is impossible in this state has no next one.
    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        actions.extend([Action::ThresholdPasses, Action::Crash, Action::Forget]);
        for worker in 0..self.workers {
            actions.extend([Action::Beat(worker), Action::Register(worker), Action::Claim(worker)]);
            actions.extend([Action::GoOn(worker), Action::AbortCall(worker)]);
            actions.extend([Action::Attach(worker), Action::CommitTie(worker), Action::AbortTie(worker)]);
            actions.extend([Action::BeginToFill(worker), Action::FillOn(worker)]);
            actions.extend([Action::Vanish(worker), Action::NoticeOldEnd(worker)]);
            actions.extend((0..JOBS).map(|job| Action::Finish(worker, job)));
        }
        for sweep in 0..SWEEPS {
            actions.extend([Action::Flush(sweep), Action::LookForSilent(sweep)]);
            actions.push(Action::LookForDisconnected(sweep));
            actions.extend([
                Action::LookForLeftovers(sweep),
                Action::SweepOn(sweep),
                Action::AbortSweep(sweep),
            ]);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let is_possible = match action {
            Action::ThresholdPasses => self.let_time_pass(&mut next),
            Action::Crash => self.crash(&mut next),
            Action::Beat(worker) => workers::beat(self, &mut next, worker),
            Action::Register(worker) => workers::register(self, &mut next, worker),
            Action::Attach(worker) => sessions::attach(self, &mut next, worker),
            Action::CommitTie(worker) => sessions::commit_tie(&mut next, worker),
            Action::AbortTie(worker) => sessions::abort_tie(&mut next, worker),
            Action::Vanish(worker) => sessions::vanish(&mut next, worker),
            Action::NoticeOldEnd(worker) => sessions::notice_old_end(self, &mut next, worker),
            Action::GoOn(worker) => workers::go_on(self, &mut next, worker),
            Action::AbortCall(worker) => workers::abort(&mut next, worker),
            Action::Claim(worker) => workers::claim(self, &mut next, worker),
            Action::Finish(worker, job) => workers::finish(&mut next, worker, job),
            Action::BeginToFill(worker) => filling::begin(self, &mut next, worker),
            Action::FillOn(worker) => filling::go_on(self, &mut next, worker),
            Action::Flush(sweep) => sweeps::flush(self, &mut next, sweep),
            Action::Forget => sweeps::forget_silent(self, &mut next),
            Action::LookForSilent(sweep) => sweeps::look_for_silent(self, &mut next, sweep),
            Action::LookForDisconnected(sweep) => sweeps::look_for_disconnected(self, &mut next, sweep),
            Action::LookForLeftovers(sweep) => sweeps::look_for_leftovers(&mut next, sweep),
            Action::SweepOn(sweep) => sweeps::go_on(self, &mut next, sweep),
            Action::AbortSweep(sweep) => sweeps::abort(&mut next, sweep),
        };
        is_possible.then(|| next.canonical(self.workers == WORKERS))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SETTLED, |_, state| holds(state, Rule::SettledOnlyWhenDead)),
            Property::always(ONCE, |_, state| holds(state, Rule::DeadOnce)),
            Property::always(GROW, |_, state| holds(state, Rule::IncarnationsGrow)),
            Property::always(WAIT, |_, state| holds(state, Rule::ReturnsWait)),
            Property::sometimes(DEAD, |_, state| has_worker(state, |worker| worker.dead)),
            Property::sometimes(BACK, |_, state| {
                has_worker(state, |worker| worker.deaths > 0 && !worker.dead && worker.entry.is_some())
            }),
            Property::sometimes(DEAD_AGAIN, |_, state| has_worker(state, |worker| worker.deaths > 1)),
            Property::sometimes(CUT_OFF, |_, state| {
                has_worker(state, |worker| worker.dead && worker.vanished)
            }),
            Property::sometimes(FILLED, |_, state| {
                has_worker(state, |worker| worker.was_filled && worker.deaths > 0 && worker.entry.is_some())
            }),
            Property::sometimes(LEFT_OVER, |_, state| settles_leftovers(state)),
        ]
    }
}

fn holds(state: &State, rule: Rule) -> bool {
    state.broken != Some(rule)
}

fn has_worker(state: &State, condition: impl Fn(&Worker) -> bool) -> bool {
    state.workers.iter().any(condition)
}

fn settles_leftovers(state: &State) -> bool {
    let settles = |sweep: &Sweep| matches!(sweep, Sweep::SettlingLeftovers { settled, .. } if settled.concat().contains(&true));
    state.sweeps.iter().any(settles)
}

impl Protocol {
    /// What would make the rules true of nothing if it were never seen.
    pub fn must_happen(&self) -> Vec<&'static str> {
        let mut events = vec![DEAD, BACK, LEFT_OVER];
        if self.thresholds > 1 {
            events.push(DEAD_AGAIN);
        }
        if self.fills {
            events.push(FILLED);
        }
        if self.sessions > 0 {
            events.push(CUT_OFF);
        }
        events
    }

    fn let_time_pass(&self, state: &mut State) -> bool {
        state.now += 1;
        state.now <= self.thresholds
    }

    /// Memory is empty, transactions are gone, and observation starts anew.
    fn crash(&self, state: &mut State) -> bool {
        state.crashes += 1;
        state.observing_since = state.now;
        for worker in &mut state.workers {
            worker.entry = None;
            (worker.call, worker.fill) = (None, None);
            (worker.has_old_session, worker.ties, worker.is_session_over) = (false, false, true);
        }
        state.sweeps = [Sweep::Idle; SWEEPS];
        state.crashes <= self.crashes
    }

    pub fn row_is_locked(&self, state: &State, worker: usize) -> bool {
        self.row_lock && state.row_is_locked(worker)
    }

    /// A worker that beat before this is silent; `None` while none can be judged.
    pub fn cutoff(&self, state: &State) -> Option<u8> {
        let can_judge = if self.observation { state.observing_since < state.now } else { state.now > 0 };
        can_judge.then_some(state.now)
    }
}
