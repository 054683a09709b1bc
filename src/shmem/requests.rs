//! What sessions ask of sweepers: to have the queues settle the jobs of a worker's earlier life, before the worker is
//! told its new number. A session has one request at a time, and takes it back when it stops waiting.
#![allow(unsafe_code, reason = "shared memory of our own")]

use std::time::Duration;

use pgrx::lwlock::PgLwLock;
use pgrx::shmem::PGRXSharedMemory;
use pgrx::{pg_guard, pg_sys};

use super::is_preloaded;
use crate::pg::{self, process};

/// Requests at a time, over all databases. Whoever finds no room waits like one whose request is not answered.
const CAPACITY: usize = 64;

/// Bytes of the longest worker id: 255 characters.
const ID: usize = 1_020;

/// A request of a session that has ended without taking it back is nobody's after this time.
const LONGEST: Duration = Duration::from_secs(120);

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All queues of the worker have settled its jobs: so many were failed, and so many requeued.
    Settled {
        /// Failed jobs.
        failed: i64,
        /// Requeued jobs.
        requeued: i64,
    },
    /// One of them could not be called.
    Failed,
}

#[derive(Clone, Copy)]
struct Request {
    /// The session that asks; 0 for a free place.
    pid: i32,
    database: pg_sys::Oid,
    /// By the monotonic clock.
    asked: Duration,
    answer: Option<Answer>,
    length: usize,
    id: [u8; ID],
}

impl Request {
    const NONE: Self = Self {
        pid: 0,
        database: pg_sys::InvalidOid,
        asked: Duration::ZERO,
        answer: None,
        length: 0,
        id: [0; ID],
    };

    fn is_free(&self, now: Duration) -> bool {
        self.pid == 0 || now.saturating_sub(self.asked) > LONGEST
    }
}

#[derive(Clone, Copy)]
struct Shared([Request; CAPACITY]);

impl Default for Shared {
    fn default() -> Self {
        Self([Request::NONE; CAPACITY])
    }
}

// SAFETY: plain values.
unsafe impl PGRXSharedMemory for Shared {}

// SAFETY: the name is this extension's own.
static REQUESTS: PgLwLock<Shared> = unsafe { PgLwLock::new(c"rgrid_heartbeat_requests") };

/// Asks for the shared memory. Only while the library is being preloaded.
pub fn request() {
    pgrx::pg_shmem_init!(REQUESTS);
}

/// A request of this session, which is taken back when this is dropped.
pub struct Asked(usize);

impl Drop for Asked {
    fn drop(&mut self) {
        let mut shared = REQUESTS.exclusive();
        if shared.0[self.0].pid == process::my_pid() {
            shared.0[self.0].pid = 0;
        }
    }
}

impl Asked {
    /// What came of it, once something has.
    pub fn answer(&self) -> Option<Answer> {
        let shared = REQUESTS.share();
        Some(&shared.0[self.0]).filter(|request| request.pid == process::my_pid())?.answer
    }
}

/// Asks for a worker of the current database; `None` without shared memory, or where there is no room.
pub fn ask(worker: &str) -> Option<Asked> {
    if !is_preloaded() || worker.len() > ID {
        return None;
    }
    let now = pg::monotonic();
    let mut shared = REQUESTS.exclusive();
    let place = shared.0.iter().position(|request| request.is_free(now))?;
    let request = &mut shared.0[place];
    *request = Request {
        pid: process::my_pid(),
        database: pg::current_database(),
        asked: now,
        length: worker.len(),
        ..Request::NONE
    };
    request.id[..worker.len()].copy_from_slice(worker.as_bytes());
    Some(Asked(place))
}

/// A request that has no answer yet.
pub struct Open {
    place: usize,
    pid: i32,
    asked: Duration,
    /// The worker.
    pub worker: String,
}

/// The requests in the current database that have no answer.
pub fn open() -> Vec<Open> {
    if !is_preloaded() {
        return Vec::new();
    }
    let (now, database) = (pg::monotonic(), pg::current_database());
    let shared = REQUESTS.share();
    let is_open =
        |request: &Request| !request.is_free(now) && request.database == database && request.answer.is_none();
    let requests = shared.0.iter().enumerate().filter(|(_, request)| is_open(request));
    let open = requests.map(|(place, request)| Open {
        place,
        pid: request.pid,
        asked: request.asked,
        worker: String::from_utf8_lossy(&request.id[..request.length]).into_owned(),
    });
    open.collect()
}

impl Open {
    /// Answers it, if the session still waits.
    pub fn answer(&self, answer: Answer) {
        let mut shared = REQUESTS.exclusive();
        let request = &mut shared.0[self.place];
        if (request.pid, request.asked) == (self.pid, self.asked) {
            request.answer = Some(answer);
        }
    }
}
