//! What the model knows at one moment: the committed database, shared memory, and the calls and sweeps under way.
//!
//! Locks are not stored. A row, a job or a row of the ledger is locked while a call or a sweep is at a step that holds
//! it.

/// Workers whose jobs and deaths are followed.
pub const WORKERS: usize = 2;
/// Sweeps at work at once, the sweeper's or one by hand.
pub const SWEEPS: usize = 2;
/// Jobs that a worker runs at once.
pub const JOBS: usize = 2;

/// Counts thresholds: a worker that has not beaten since the last tick has been silent for longer than one.
pub type Time = u8;

/// The promises, numbered as in the list of what always holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// Settled only when dead.
    SettledOnlyWhenDead,
    /// Dead once.
    DeadOnce,
    /// A returning worker is told the number after its last death, and numbers only grow.
    IncarnationsGrow,
    /// A return waits for the sweep, and no job is settled because of an earlier death.
    ReturnsWait,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    pub now: Time,
    pub crashes: u8,
    pub observing_since: Time,
    pub workers: [Worker; WORKERS],
    pub sweeps: [Sweep; SWEEPS],
    /// The promise that was broken on the way here.
    pub broken: Option<Rule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Worker {
    /// `last_heartbeat_at` of its row, as committed.
    pub row: Time,
    pub entry: Option<Entry>,
    /// Its rows in the ledger.
    pub deaths: u8,
    /// Whether the last of them is open.
    pub dead: bool,
    /// Running jobs as committed: the incarnation that each was claimed under, 0 for none.
    pub running: [u8; JOBS],
    /// The incarnation that it was told last.
    pub knows: u8,
    /// The call that it waits for, when the heartbeat was not a fast one.
    pub call: Option<Call>,
    /// Its row is being read, to fill memory.
    pub fill: Option<Fill>,
    /// Its entry was made from its row. To be checked against.
    pub was_filled: bool,
    /// When its last heartbeat counted. No code knows this; it is here to be checked against.
    pub heard: Time,
    /// Whether it was answered since its last death. To be checked against, too.
    pub answered: bool,
    /// The session of its process; 0 before the first.
    pub session: Session,
    /// It is over.
    pub is_session_over: bool,
    /// The server has not noticed yet that the one before is broken.
    pub has_old_session: bool,
    /// A call of this session has been answered whose tie is not made yet.
    pub ties: bool,
    /// Its row has a heartbeat that is later than the end of the session that was lost.
    pub row_is_later: bool,
    /// Its client vanished, and it was not heard since. To be checked against.
    pub vanished: bool,
}

/// An entry in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    pub beat_at: Time,
    pub written: Time,
    pub incarnation: u8,
    pub closed: bool,
    pub tie: Tie,
}

/// The session that the worker is tied to. Sessions of one tick follow each other, so times are not enough to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tie {
    None,
    To(Session),
    Lost {
        session: Session,
        /// It has beaten since the end of the session.
        is_heard: bool,
    },
}

/// The sessions of a worker's process, one after the other.
pub type Session = u8;

/// The filling of memory from a row, which is not locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fill {
    pub step: FillStep,
    /// Nothing was removed from memory since it began.
    pub mark_holds: bool,
    pub row: Time,
    /// What the ledger said.
    pub incarnation: u8,
    pub dead: bool,
}

/// What has been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FillStep {
    /// The removals are marked.
    Marked,
    /// Nobody had locked the row.
    Looked,
    RowRead,
    /// Nothing is left but to add the entry.
    LedgerRead,
}

/// A heartbeat that goes to the row, or a registration, up to the storing of its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Call {
    pub step: CallStep,
    pub registers: bool,
    pub attaches: bool,
    pub beat_at: Time,
    /// What the ledger said, and then what will be answered.
    pub incarnation: u8,
    pub was_dead: bool,
    /// Jobs settled and not committed.
    pub settled: [bool; JOBS],
    /// Nothing was removed from memory since the row was looked at.
    pub mark_holds: bool,
}

/// What has been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallStep {
    /// The row is locked and, by a heartbeat, written.
    Locked,
    /// The ledger was read.
    Judged,
    /// What still ran is settled.
    Settled,
    /// The ledger is written and the entry closed.
    Recorded,
    /// The removals are marked; nothing is left but to commit.
    Marked,
    /// Committed, the row free; the entry is not stored yet.
    Committed,
}

/// What a sweep is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sweep {
    Idle,
    /// Rows of these heartbeats are locked and written.
    Flushing([Option<Time>; WORKERS]),
    /// Committed; the entries do not know yet.
    Flushed([Option<Time>; WORKERS]),
    /// Who is silent, or dead and running something, was looked for without a lock.
    Found {
        silent: [bool; WORKERS],
    },
    /// The sessions of these workers that were lost, by memory.
    FoundDisconnected {
        lost: [Option<Session>; WORKERS],
    },
    Declaring(Declaration),
    /// Committed; those who have lost these sessions are not untied yet.
    Declared([Option<Session>; WORKERS]),
    FoundLeftovers {
        dead: [bool; WORKERS],
    },
    /// Rows of the ledger are locked, then jobs settled.
    SettlingLeftovers {
        locked: [bool; WORKERS],
        settled: [[bool; JOBS]; WORKERS],
        is_settled: bool,
    },
}

/// The transaction that declares workers dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Declaration {
    pub step: DeclarationStep,
    /// Because of their sessions, and not of their silence.
    pub of_disconnected: bool,
    pub cutoff: Time,
    /// Rows that it holds.
    pub locked: [bool; WORKERS],
    /// The sessions that were lost.
    pub lost: [Option<Session>; WORKERS],
    pub dying: [bool; WORKERS],
    pub settled: [[bool; JOBS]; WORKERS],
}

/// What is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeclarationStep {
    /// Look at this worker's entry, and take it out.
    Look(usize),
    Settle,
    Record,
    Commit,
}

impl State {
    /// All workers registered a moment ago, known in memory, running nothing.
    pub fn initial() -> Self {
        let entry = Entry { beat_at: 0, written: 0, incarnation: 1, closed: false, tie: Tie::None };
        let worker = Worker { entry: Some(entry), knows: 1, answered: true, ..Worker::default() };
        Self {
            now: 0,
            crashes: 0,
            observing_since: 0,
            workers: std::array::from_fn(|_| worker.clone()),
            sweeps: [Sweep::Idle; SWEEPS],
            broken: None,
        }
    }

    /// The same for all states that differ in nothing but the numbers of sweeps and, when both do the same, of workers.
    pub fn canonical(mut self, workers_are_alike: bool) -> Self {
        self.sweeps.sort_unstable();
        // A look at the workers one after the other is the one step that tells them apart.
        let in_turn =
            |sweep: &Sweep| matches!(sweep, Sweep::Declaring(d) if d.step == DeclarationStep::Look(1));
        if !workers_are_alike || self.sweeps.iter().any(in_turn) {
            return self;
        }
        let mut mirrored = self.clone();
        mirrored.workers.swap(0, 1);
        mirrored.sweeps = self.sweeps.map(Sweep::mirrored);
        mirrored.sweeps.sort_unstable();
        self.min(mirrored)
    }

    pub fn row_is_locked(&self, worker: usize) -> bool {
        let by_call = self.workers[worker].call.is_some_and(|call| call.is_open());
        by_call || self.sweeps.iter().any(|sweep| sweep.locks_row(worker))
    }

    pub fn job_is_locked(&self, worker: usize, job: usize) -> bool {
        let by_call = self.workers[worker].call.is_some_and(|call| call.is_open() && call.settled[job]);
        by_call || self.sweeps.iter().any(|sweep| sweep.settles(worker, job))
    }

    /// Whether the worker's open row in the ledger is locked.
    pub fn death_is_locked(&self, worker: usize) -> bool {
        let by_sweep =
            |sweep: &Sweep| matches!(sweep, Sweep::SettlingLeftovers { locked, .. } if locked[worker]);
        self.has_recorded(worker) || self.sweeps.iter().any(by_sweep)
    }

    /// Whether there is a row of the worker in the ledger that is not committed.
    pub fn death_is_pending(&self, worker: usize) -> bool {
        let by_sweep = |sweep: &Sweep| matches!(sweep, Sweep::Declaring(d) if d.step == DeclarationStep::Commit && d.dying[worker]);
        self.has_recorded(worker) || self.sweeps.iter().any(by_sweep)
    }

    fn has_recorded(&self, worker: usize) -> bool {
        let recorded = [CallStep::Recorded, CallStep::Marked];
        self.workers[worker].call.is_some_and(|call| call.gives_up() && recorded.contains(&call.step))
    }

    pub fn break_rule(&mut self, rule: Rule) {
        self.broken.get_or_insert(rule);
    }
}

impl Sweep {
    fn mirrored(mut self) -> Self {
        match &mut self {
            Self::Idle => {}
            Self::Flushing(beats) | Self::Flushed(beats) => beats.swap(0, 1),
            Self::Found { silent } => silent.swap(0, 1),
            Self::FoundDisconnected { lost } | Self::Declared(lost) => lost.swap(0, 1),
            Self::FoundLeftovers { dead } => dead.swap(0, 1),
            Self::SettlingLeftovers { locked, settled, .. } => {
                locked.swap(0, 1);
                settled.swap(0, 1);
            }
            Self::Declaring(declaration) => {
                declaration.locked.swap(0, 1);
                declaration.lost.swap(0, 1);
                declaration.dying.swap(0, 1);
                declaration.settled.swap(0, 1);
            }
        }
        self
    }

    fn locks_row(&self, worker: usize) -> bool {
        match self {
            Self::Flushing(beats) => beats[worker].is_some(),
            Self::Declaring(declaration) => declaration.locked[worker],
            _ => false,
        }
    }

    fn settles(&self, worker: usize, job: usize) -> bool {
        match self {
            Self::Declaring(declaration) => declaration.settled[worker][job],
            Self::SettlingLeftovers { settled, .. } => settled[worker][job],
            _ => false,
        }
    }
}

impl Call {
    /// Whether its transaction is open, and so its locks are held.
    pub fn is_open(&self) -> bool {
        self.step != CallStep::Committed
    }

    /// Whether it ends an earlier life: it settles, and writes the ledger.
    pub fn gives_up(&self) -> bool {
        self.registers || self.was_dead
    }
}

impl Worker {
    /// When it last beat, by row and memory.
    pub fn last_beat(&self) -> Time {
        self.entry.map_or(self.row, |entry| entry.beat_at.max(self.row))
    }

    pub fn runs_something(&self) -> bool {
        self.running.iter().any(|claimed| *claimed > 0)
    }

    /// Something was taken out of memory, or looked for in vain: who marked before adds nothing.
    pub fn count_removal(&mut self) {
        if let Some(call) = &mut self.call {
            call.mark_holds = false;
        }
        if let Some(fill) = &mut self.fill {
            fill.mark_holds = false;
        }
    }

    pub fn remove_entry(&mut self) {
        self.entry = None;
        self.count_removal();
    }

    /// The session that was lost, if it was not heard since.
    pub fn lost_session(&self) -> Option<Session> {
        match self.entry?.tie {
            Tie::Lost { session, is_heard: false } => Some(session),
            _ => None,
        }
    }

    /// From here on heartbeats go to the row. What may not be in the row yet stays known: the transaction may fail.
    pub fn take_out(&mut self, is_heard_later_than_row: bool) {
        if is_heard_later_than_row {
            self.close_entry();
        } else {
            self.remove_entry();
        }
    }

    pub fn close_entry(&mut self) {
        if let Some(entry) = &mut self.entry {
            entry.closed = true;
        }
        self.count_removal();
    }
}
