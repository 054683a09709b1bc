//! A worker process: this test's own program, started again. It beats from one thread and works from another, each
//! over a connection of its own, and writes down what it was told.
//!
//! It goes on like that until it is killed or its standard input ends, which also happens when the test itself is
//! killed. A line on it asks the worker to leave: it deregisters first.

use crate::history::{Recorder, Time, What, now};
use postgres::error::SqlState;
use postgres::{Client, Config, Error, NoTls};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;
use std::{fs, io, process};

/// The database of the run.
pub const DATABASE: &str = "torture";

/// What a process is told when it starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    pub worker: String,
    /// Which process, of all that were started.
    pub process: usize,
    pub seed: u64,
    /// The directory with the histories, and with the file `primary` that names the present server's socket.
    pub directory: PathBuf,
    /// Milliseconds of silence that are too many.
    pub threshold: u64,
    /// Attaches itself to the session in which it beats.
    pub attaches: bool,
    /// Writes results without looking whether the job is still its own, and relies on the fence.
    pub careless: bool,
}

/// What the threads share.
struct Worker {
    order: Order,
    recorder: Recorder,
    incarnation: AtomicI64,
    leaving: AtomicBool,
}

/// The whole life of the process.
pub fn live(order: &str) {
    let order: Order = serde_json::from_str(order).expect("an order");
    let path = order.directory.join(format!("{}.calls", order.process));
    let recorder = Recorder::new(&path, &order.worker, order.process);
    let worker =
        Arc::new(Worker { order, recorder, incarnation: AtomicI64::new(0), leaving: AtomicBool::new(false) });
    worker.session("register", |worker, client, begin| {
        let alone = worker.order.process % 2 == 0;
        let id = if alone { "$1" } else { "ARRAY[$1]" };
        let sql = &format!("SELECT incarnation FROM rgrid_register({id})");
        let incarnation: i64 = client.query_one(sql, &[&worker.order.worker])?.get(0);
        worker.told(incarnation);
        worker.recorder.record(begin, What::Registered { incarnation });
        Ok(())
    });
    let (heart, hands) = (Arc::clone(&worker), Arc::clone(&worker));
    thread::spawn(move || heart.beat_for_ever());
    let hands = thread::spawn(move || hands.work_until_asked_to_leave());
    let mut line = String::new();
    let asked = io::stdin().read_line(&mut line).is_ok_and(|length| length > 0);
    if asked {
        worker.leaving.store(true, SeqCst);
        let _ = hands.join();
        worker.deregister();
    }
    process::exit(0);
}

/// A session on the present server; waits for one.
pub fn connect(directory: &std::path::Path) -> Client {
    loop {
        let socket = fs::read_to_string(directory.join("primary")).unwrap_or_default();
        let mut config = Config::new();
        config.host_path(socket.trim()).port(5432).user("postgres").dbname(DATABASE);
        if let Ok(client) = config.connect_timeout(Duration::from_secs(2)).connect(NoTls) {
            return client;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

impl Worker {
    /// Tries until it succeeds once.
    fn session(&self, call: &str, mut attempt: impl FnMut(&Self, &mut Client, Time) -> Result<(), Error>) {
        let mut client = connect(&self.order.directory);
        loop {
            let begin = now();
            match attempt(self, &mut client, begin) {
                Ok(()) => return,
                Err(error) => self.failed(call, begin, &error, &mut client),
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn failed(&self, call: &str, begin: Time, error: &Error, client: &mut Client) {
        let sqlstate = error.code().map(|code| code.code().to_owned());
        let message =
            error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
        self.recorder.record(begin, What::Failed { call: call.into(), sqlstate, message });
        // Also a session that lives on may be one on a server that is not the primary any more.
        *client = connect(&self.order.directory);
    }

    /// The highest number counts: answers may overtake one another.
    fn told(&self, incarnation: i64) {
        self.incarnation.fetch_max(incarnation, SeqCst);
    }

    fn random(&self, thread: u64) -> StdRng {
        StdRng::seed_from_u64(self.order.seed.wrapping_add(thread))
    }

    fn beat_for_ever(&self) {
        let mut random = self.random(1);
        let mut client = connect(&self.order.directory);
        loop {
            let begin = now();
            let call = match self.order.attaches {
                true => "SELECT rgrid_attach($1, 'one.example')",
                false => "SELECT rgrid_heartbeat($1)",
            };
            match client.query_one(call, &[&self.order.worker]) {
                Ok(row) => {
                    let incarnation = row.get(0);
                    self.told(incarnation);
                    self.recorder.record(begin, What::Beat { incarnation });
                }
                Err(error) => self.failed("heartbeat", begin, &error, &mut client),
            }
            // Now and then it is late, about as late as it may be.
            let threshold = self.order.threshold;
            let is_late = random.random_bool(0.04);
            let range = if is_late { threshold * 8 / 10..threshold * 12 / 10 } else { 100..threshold / 4 };
            thread::sleep(Duration::from_millis(random.random_range(range)));
        }
    }

    fn work_until_asked_to_leave(&self) {
        let mut random = self.random(2);
        let mut client = connect(&self.order.directory);
        while !self.leaving.load(SeqCst) {
            if let Some(job) = self.claim(&mut client) {
                thread::sleep(Duration::from_millis(random.random_range(20..900)));
                let holds_on = random.random_bool(0.2).then(|| random.random_range(20..300));
                self.finish(&mut client, job, holds_on);
            }
            thread::sleep(Duration::from_millis(random.random_range(20..200)));
        }
    }

    fn claim(&self, client: &mut Client) -> Option<i64> {
        let begin = now();
        let incarnation = self.incarnation.load(SeqCst);
        let sql = "UPDATE executions SET status = 'running', worker_id = $1, batch_index = $2::bigint
                   WHERE id = (SELECT id FROM executions WHERE status = 'queued'
                               ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id";
        match client.query_opt(sql, &[&self.order.worker, &incarnation]) {
            Ok(row) => {
                let job = row?.get(0);
                self.recorder.record(begin, What::Claimed { job, incarnation });
                Some(job)
            }
            Err(error) => {
                self.failed("claim", begin, &error, client);
                None
            }
        }
    }

    /// Writes the result; with a pause before the commit, in which the job stays locked.
    fn finish(&self, client: &mut Client, job: i64, holds_on: Option<u64>) {
        let begin = now();
        match self.try_to_finish(client, job, holds_on) {
            Ok(true) => self.recorder.record(begin, What::Finished { job }),
            Ok(false) => self.recorder.record(begin, What::Refused { job }),
            // By the fence.
            Err(error) if error.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => {
                self.recorder.record(begin, What::Refused { job });
            }
            Err(error) => self.failed("finish", begin, &error, client),
        }
    }

    fn try_to_finish(&self, client: &mut Client, job: i64, holds_on: Option<u64>) -> Result<bool, Error> {
        let sql = match self.order.careless {
            true => "UPDATE executions SET status = 'completed' WHERE id = $1 AND $2::text IS NOT NULL",
            false => {
                "UPDATE executions SET status = 'completed'
                 WHERE id = $1 AND worker_id = $2 AND status = 'running'"
            }
        };
        let mut transaction = client.transaction()?;
        let count = transaction.execute(sql, &[&job, &self.order.worker])?;
        if let Some(pause) = holds_on {
            thread::sleep(Duration::from_millis(pause));
        }
        transaction.commit()?;
        Ok(count == 1)
    }

    fn deregister(&self) {
        self.session("deregister", |worker, client, begin| {
            client.query_one("SELECT rgrid_deregister($1)", &[&worker.order.worker])?;
            worker.recorder.record(begin, What::Deregistered);
            Ok(())
        });
    }
}
