//! What happened in a run: the calls as the workers saw them, the faults, and what was in the database at the end.
//!
//! All times are microseconds of the machine's wall clock, which the server's timestamps are of, too. Each process
//! appends its calls to a file of its own, one JSON object a line and one write a line: what a killed process leaves
//! is whole, but for the last line at most.

use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970.
pub type Time = i64;

pub const SECOND: Time = 1_000_000;

pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is later than 1970");
    Time::try_from(since.as_micros()).expect("the clock is earlier than the end of time")
}

/// A call of a worker, from before it was sent to after it was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub begin: Time,
    pub end: Time,
    pub worker: String,
    /// Which process, of all that were started.
    pub process: usize,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A heartbeat was answered.
    Beat {
        incarnation: i64,
    },
    Registered {
        incarnation: i64,
    },
    Deregistered,
    /// A job was claimed by a process that knew itself as this incarnation.
    Claimed {
        job: i64,
        incarnation: i64,
    },
    /// The result of a job was written.
    Finished {
        job: i64,
    },
    /// The result was not taken: the job is not the worker's own any more.
    Refused {
        job: i64,
    },
    /// No answer, or an error: what became of it is not known. Without an SQLSTATE the connection broke.
    Failed {
        call: String,
        sqlstate: Option<String>,
        message: String,
    },
}

impl Call {
    /// The incarnation that the worker was told.
    pub fn answer(&self) -> Option<i64> {
        match self.what {
            What::Beat { incarnation } | What::Registered { incarnation } => Some(incarnation),
            _ => None,
        }
    }
}

/// What was done to processes and servers, for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub begin: Time,
    pub end: Time,
    pub text: String,
}

/// The server lost its memory: from before it was stopped or killed until it was heard again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    pub begin: Time,
    pub end: Time,
}

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    pub worker: String,
    pub incarnation: i64,
    pub reason: String,
    pub last_heartbeat_at: Time,
    pub declared_dead_at: Time,
    pub returned_at: Option<Time>,
    pub jobs_failed: i64,
}

impl Death {
    /// Whether it was declared because the worker was not heard, with its session or without.
    pub fn is_of_silence(&self) -> bool {
        self.reason == "stale" || self.is_of_lost_session()
    }

    pub fn is_of_lost_session(&self) -> bool {
        self.reason == "disconnected"
    }
}

/// A change of a job's status, noted by a trigger in the transaction that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub job: i64,
    pub at: Time,
    pub worker: String,
    /// The incarnation that the job was claimed under.
    pub claimed_under: i64,
    pub old: String,
    pub new: String,
}

/// A job that somebody has claimed, as it is at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: i64,
    pub worker: String,
    pub status: String,
}

/// A row of `worker_heartbeats`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub worker: String,
    pub last_heartbeat_at: Time,
}

/// A whole run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// `stale_threshold`.
    pub threshold: Time,
    /// `disconnect_grace`.
    pub grace: Time,
    /// How long a heartbeat may be in memory alone: the flush interval, and what locked rows and load add to it.
    pub unwritten: Time,
    pub calls: Vec<Call>,
    pub faults: Vec<Fault>,
    pub outages: Vec<Outage>,
    pub deaths: Vec<Death>,
    pub changes: Vec<Change>,
    pub jobs: Vec<Job>,
    pub rows: Vec<Row>,
    /// The worker of each line of the log that tells of a death.
    pub log: Vec<String>,
    /// Workers of whom no process was left in the end, long enough for all of it to be settled.
    pub left_dead: Vec<String>,
    /// When the tables were read.
    pub read_at: Time,
}

/// The file that a process writes its calls to.
pub struct Recorder {
    file: File,
    worker: String,
    process: usize,
}

impl Recorder {
    pub fn new(path: &Path, worker: &str, process: usize) -> Self {
        let file = OpenOptions::new().append(true).create(true).open(path).expect("a history can be opened");
        Self { file, worker: worker.into(), process }
    }

    pub fn record(&self, begin: Time, what: What) {
        let call = Call { begin, end: now(), worker: self.worker.clone(), process: self.process, what };
        let mut line = serde_json::to_string(&call).expect("a call can be written as JSON");
        line.push('\n');
        (&self.file).write_all(line.as_bytes()).expect("a history can be written");
    }
}

/// The calls of all processes, in the order of their ends.
pub fn read_calls(directory: &Path) -> Vec<Call> {
    let mut calls = Vec::new();
    for entry in fs::read_dir(directory).expect("the directory of histories can be read") {
        let path = entry.expect("the directory of histories can be read").path();
        if path.extension().is_some_and(|extension| extension == "calls") {
            let text = fs::read_to_string(path).expect("a history can be read");
            calls.extend(text.lines().filter_map(|line| serde_json::from_str::<Call>(line).ok()));
        }
    }
    calls.sort_by_key(|call| call.end);
    calls
}

/// The worker of each line of a log that tells of a death.
pub fn deaths_in(log: &str) -> Vec<String> {
    let words = ["declared dead:", "was registered again:", "deregistered with running jobs:"];
    let lines = log.lines().filter(|line| words.iter().any(|word| line.contains(word)));
    lines
        .filter_map(|line| line.split_once("worker \"")?.1.split_once('"').map(|(id, _)| id.into()))
        .collect()
}
