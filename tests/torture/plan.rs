//! The plan of faults of a run. The same seed and length give the same plan.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Workers, by their number.
pub const WORKERS: usize = 12;

/// A worker is dead after this many milliseconds of silence.
pub const THRESHOLD: u64 = 2_000;

/// A worker that is attached to a session may take so many milliseconds to come back when that is lost.
pub const GRACE: u64 = 700;

/// What is done to a worker. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerFault {
    /// `kill -9`; a process of the same id registers after a rest.
    Kill { rest: u64 },
    /// SIGSTOP, and SIGCONT after longer than the threshold: a zombie wakes up.
    Pause { length: u64 },
    /// SIGSTOP, and while it lasts another process registers under the id. The zombie wakes up and lives on
    /// beside it for a while.
    Replace { length: u64, beside: u64 },
    /// The worker deregisters; a process of the same id registers after a rest.
    Leave { rest: u64 },
    /// A session locks its running jobs.
    LockJobs { length: u64 },
    /// A session locks its row of `worker_heartbeats`.
    LockRow { length: u64 },
}

/// What is done to the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFault {
    /// `pg_ctl stop -m fast`, and a start after a while.
    StopFast {
        down: u64,
    },
    /// `pg_ctl stop -m immediate`, and a start after a while.
    StopImmediate {
        down: u64,
    },
    /// `kill -9` of a backend or the launcher, which ends all the others.
    KillBackend,
    /// The primary is stopped for good, and the standby takes its place.
    Promote,
    TerminateLauncher,
    /// The sessions of all attached workers are terminated, which proves nothing.
    TerminateAttached,
    CheckInterval {
        length: u64,
    },
    FlushInterval {
        length: u64,
    },
    SweepByHand,
}

/// Faults with the milliseconds after the beginning at which they are due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub workers: Vec<(u64, usize, WorkerFault)>,
    pub servers: Vec<(u64, ServerFault)>,
}

/// Between the faults that empty the server's memory: long enough for deaths to be found in between.
const BETWEEN_OUTAGES: u64 = 5_500;

impl Plan {
    pub fn new(seed: u64, seconds: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let length = seconds * 1_000;
        let workers = worker_faults(&mut random, length);
        let mut servers = outages(&mut random, length);
        servers.append(&mut small_faults(&mut random, length));
        servers.sort_by_key(|(at, _)| *at);
        Self { workers, servers }
    }
}

fn worker_faults(random: &mut StdRng, length: u64) -> Vec<(u64, usize, WorkerFault)> {
    let mut faults = Vec::new();
    let mut busy_until = [0; WORKERS];
    let mut at = 500;
    while at < length {
        let worker = random.random_range(0..WORKERS);
        if busy_until[worker] <= at {
            let fault = worker_fault(random);
            // Then it lives for a while, so that it has something to lose.
            busy_until[worker] = at + fault.length() + 1_500;
            faults.push((at, worker, fault));
        }
        at += random.random_range(100..500);
    }
    faults
}

fn worker_fault(random: &mut StdRng) -> WorkerFault {
    match random.random_range(0..10) {
        0..3 => WorkerFault::Kill { rest: random.random_range(100..3 * THRESHOLD) },
        3..6 => WorkerFault::Pause { length: random.random_range(THRESHOLD + 500..3 * THRESHOLD) },
        6 => WorkerFault::Replace { length: random.random_range(200..2 * THRESHOLD), beside: 1_500 },
        7 => WorkerFault::Leave { rest: random.random_range(100..THRESHOLD) },
        8 => WorkerFault::LockJobs { length: random.random_range(200..2 * THRESHOLD) },
        _ => WorkerFault::LockRow { length: random.random_range(200..1_500) },
    }
}

/// Each kind once before any comes again.
fn outages(random: &mut StdRng, length: u64) -> Vec<(u64, ServerFault)> {
    let mut faults = Vec::new();
    let mut bag = Vec::new();
    let mut at = 3_000;
    while at + 2_000 < length {
        if bag.is_empty() {
            let mut down = || if random.random_bool(0.2) { 3_000 } else { random.random_range(100..1_500) };
            bag = vec![
                ServerFault::StopFast { down: down() },
                ServerFault::StopImmediate { down: down() },
                ServerFault::KillBackend,
                ServerFault::Promote,
            ];
        }
        faults.push((at, bag.swap_remove(random.random_range(0..bag.len()))));
        at += BETWEEN_OUTAGES + random.random_range(0..500);
    }
    faults
}

/// What empties no memory.
fn small_faults(random: &mut StdRng, length: u64) -> Vec<(u64, ServerFault)> {
    let mut faults = Vec::new();
    let mut at = 1_000;
    while at < length {
        let fault = match random.random_range(0..8) {
            0 => ServerFault::TerminateLauncher,
            7 => ServerFault::TerminateAttached,
            1..3 => ServerFault::CheckInterval { length: random.random_range(100..1_000) },
            3 => ServerFault::FlushInterval { length: random.random_range(100..600) },
            _ => ServerFault::SweepByHand,
        };
        faults.push((at, fault));
        at += random.random_range(400..1_600);
    }
    faults
}

impl WorkerFault {
    fn length(&self) -> u64 {
        match self {
            Self::Kill { rest } | Self::Leave { rest } => *rest,
            Self::Pause { length } | Self::LockJobs { length } | Self::LockRow { length } => *length,
            Self::Replace { length, beside } => length + beside,
        }
    }
}
