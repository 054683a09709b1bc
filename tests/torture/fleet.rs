//! The worker processes, and what is done to them.

use crate::notes::Notes;
use crate::plan::{THRESHOLD, WORKERS, WorkerFault};
use crate::worker::{Order, connect};
use std::collections::{BTreeMap, HashSet};
use std::env;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

const LOCK_JOBS: &str =
    "SELECT FROM executions WHERE worker_id = $1 AND status = 'running' FOR UPDATE SKIP LOCKED";
const LOCK_ROW: &str = "SELECT FROM worker_heartbeats WHERE worker_id = $1 FOR UPDATE";

/// A process and the worker that it is.
struct Process {
    worker: usize,
    child: Child,
}

/// All processes that were started and not ended.
pub struct Fleet<'a> {
    notes: &'a Notes,
    directory: &'a Path,
    seed: u64,
    started: usize,
    processes: BTreeMap<usize, Process>,
}

/// The second half of a fault.
enum Later {
    Start(usize),
    Wake(usize, Vec<usize>),
    Kill(usize, Vec<usize>),
}

pub fn id(worker: usize) -> String {
    format!("worker-{worker}")
}

impl<'a> Fleet<'a> {
    /// Every other worker is a careless one, and every third is not attached to its session.
    pub fn start(notes: &'a Notes, directory: &'a Path, seed: u64) -> Self {
        let mut fleet = Self { notes, directory, seed, started: 0, processes: BTreeMap::new() };
        (0..WORKERS).for_each(|worker| fleet.start_process(worker));
        fleet
    }

    fn start_process(&mut self, worker: usize) {
        let process = self.started;
        self.started += 1;
        let order = Order {
            worker: id(worker),
            process,
            seed: self.seed ^ ((process as u64) << 32),
            directory: self.directory.into(),
            threshold: THRESHOLD,
            attaches: !worker.is_multiple_of(3),
            careless: worker.is_multiple_of(2),
        };
        let order = serde_json::to_string(&order).expect("an order can be written as JSON");
        let program = env::current_exe().expect("this program has a path");
        let child = Command::new(program).arg("worker").arg(order).stdin(Stdio::piped()).spawn();
        self.processes
            .insert(process, Process { worker, child: child.expect("this program can be started") });
    }

    fn processes_of(&self, worker: usize) -> Vec<usize> {
        self.processes
            .iter()
            .filter(|(_, process)| process.worker == worker)
            .map(|(number, _)| *number)
            .collect()
    }

    /// Does the faults when they are due; returns when the last of them is over.
    pub fn suffer<'s>(&mut self, scope: &'s Scope<'s, '_>, faults: &[(u64, usize, WorkerFault)])
    where
        'a: 's,
    {
        let started = Instant::now();
        let mut later: Vec<(u64, Later)> = Vec::new();
        let mut faults = faults.iter().peekable();
        while faults.peek().is_some() || !later.is_empty() {
            let now = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            while let Some((_, worker, fault)) = faults.next_if(|(at, ..)| *at <= now) {
                later.extend(
                    self.begin(scope, *worker, fault).into_iter().map(|(rest, then)| (now + rest, then)),
                );
            }
            let (due, not_yet) = later.into_iter().partition(|(at, _)| *at <= now);
            later = not_yet;
            due.into_iter().for_each(|(_, then): (u64, Later)| self.end(then));
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn begin<'s>(&mut self, scope: &'s Scope<'s, '_>, worker: usize, fault: &WorkerFault) -> Vec<(u64, Later)>
    where
        'a: 's,
    {
        let processes = self.processes_of(worker);
        let name = id(worker);
        match fault {
            WorkerFault::Kill { rest } => {
                self.notes.during(&format!("kill -9 {name}"), || self.kill(&processes));
                vec![(*rest, Later::Start(worker))]
            }
            WorkerFault::Pause { length } => {
                self.notes
                    .during(&format!("pause {name} for {length} ms"), || self.signal("-STOP", &processes));
                vec![(*length, Later::Wake(worker, processes))]
            }
            WorkerFault::Replace { length, beside } => {
                self.notes.during(&format!("pause {name}, start another"), || {
                    self.signal("-STOP", &processes);
                    self.start_process(worker);
                });
                let ends = Later::Kill(worker, processes.clone());
                vec![(*length, Later::Wake(worker, processes)), (length + beside, ends)]
            }
            WorkerFault::Leave { rest } => {
                self.notes.during(&format!("{name} is asked to leave"), || self.ask_to_leave(&processes));
                vec![(*rest, Later::Start(worker))]
            }
            WorkerFault::LockJobs { length } => {
                self.lock(scope, worker, "jobs", LOCK_JOBS, *length);
                vec![]
            }
            WorkerFault::LockRow { length } => {
                self.lock(scope, worker, "row", LOCK_ROW, *length);
                vec![]
            }
        }
    }

    fn end(&mut self, then: Later) {
        match then {
            Later::Start(worker) => self.start_process(worker),
            Later::Wake(worker, processes) => {
                let text = format!("wake {}, process {processes:?}", id(worker));
                self.notes.during(&text, || self.signal("-CONT", &processes));
            }
            Later::Kill(worker, processes) => {
                let text = format!("kill -9 {}, process {processes:?}", id(worker));
                self.notes.during(&text, || self.kill(&processes));
            }
        }
    }

    /// A session that holds locks for a while; it may end before, with the server.
    fn lock<'s>(&self, scope: &'s Scope<'s, '_>, worker: usize, what: &str, sql: &'static str, length: u64)
    where
        'a: 's,
    {
        let (notes, directory) = (self.notes, self.directory);
        let text = format!("lock the {what} of {} for {length} ms", id(worker));
        scope.spawn(move || {
            notes.during(&text, || {
                let mut client = connect(directory);
                let Ok(mut transaction) = client.transaction() else { return };
                if transaction.execute(sql, &[&id(worker)]).is_ok() {
                    thread::sleep(Duration::from_millis(length));
                }
            });
        });
    }

    /// A process that is asked to leave ends by itself.
    fn ask_to_leave(&mut self, processes: &[usize]) {
        let asked = self.processes.iter_mut().filter(|(number, _)| processes.contains(number));
        for input in asked.filter_map(|(_, process)| process.child.stdin.as_mut()) {
            let _ = input.write_all(b"leave\n");
        }
    }

    fn kill(&mut self, processes: &[usize]) {
        for mut process in processes.iter().filter_map(|number| self.processes.remove(number)) {
            process.child.kill().expect("a process can be killed");
            process.child.wait().expect("a killed process ends");
        }
    }

    fn signal(&self, signal: &str, processes: &[usize]) {
        for process in processes.iter().filter_map(|number| self.processes.get(number)) {
            let mut kill = Command::new("kill");
            let sent = kill.arg(signal).arg(process.child.id().to_string()).stderr(Stdio::null()).status();
            assert!(sent.is_ok(), "there is a program to send signals");
        }
    }

    /// Kills every other worker for good, after taking leave of those who have left by themselves. Returns their ids.
    pub fn kill_half(&mut self) -> Vec<String> {
        self.processes.retain(|_, process| matches!(process.child.try_wait(), Ok(None)));
        let alive: HashSet<usize> = self.processes.values().map(|process| process.worker).collect();
        let doomed: Vec<usize> = alive.into_iter().filter(|worker| !worker.is_multiple_of(2)).collect();
        for worker in &doomed {
            let processes = self.processes_of(*worker);
            self.kill(&processes);
        }
        doomed.into_iter().map(id).collect()
    }

    /// Stops everybody, so that what is read now is the end.
    pub fn freeze(&self) {
        let all: Vec<usize> = self.processes.keys().copied().collect();
        self.signal("-STOP", &all);
    }

    /// The workers that have a process.
    pub fn alive(&self) -> Vec<String> {
        let workers: HashSet<usize> = self.processes.values().map(|process| process.worker).collect();
        workers.into_iter().map(id).collect()
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        let all: Vec<usize> = self.processes.keys().copied().collect();
        self.kill(&all);
    }
}
