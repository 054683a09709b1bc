//! Many sessions beat in many databases while flushes and sweeps run as often as they can: in the end every
//! row has the last heartbeat of its worker, and no worker has died.

use crate::cluster::*;
use chrono::{DateTime, Utc};
use postgres::Client;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

const DATABASES: usize = 20;
const SESSIONS: usize = 8;
const WORKERS: usize = 40;
const LENGTH: Duration = Duration::from_secs(30);

/// More than fit: the ones that find no room go to their rows.
const ROOM: usize = DATABASES * WORKERS * 3 / 4;

/// A database by its number, and a worker in it.
type Worker = (usize, usize);

/// The server's clock before and after a heartbeat.
type Span = (DateTime<Utc>, DateTime<Utc>);

#[test]
fn after_a_storm_every_row_has_its_last_heartbeat() {
    let cluster = Cluster::builder()
        .setting("rgrid_heartbeat.stale_threshold", "1h")
        .setting("rgrid_heartbeat.max_workers", &ROOM.to_string())
        .setting("max_connections", &(SESSIONS * DATABASES + 40).to_string())
        .start();
    run(&mut cluster.connect("template1"), "CREATE EXTENSION rgrid_heartbeat");
    let databases: Vec<_> = (0..DATABASES).map(|n| cluster.empty_database(&format!("storm{n}"))).collect();
    cluster.set("rgrid_heartbeat.flush_interval", "10ms");
    cluster.set("rgrid_heartbeat.check_interval", "50ms");
    let storms: Vec<_> = (0..SESSIONS)
        .map(|_| {
            let sessions: Vec<_> = databases.iter().map(Database::connect).collect();
            thread::spawn(move || Storm::new(sessions).rage())
        })
        .collect();
    let ended: Vec<_> = storms.into_iter().map(thread::JoinHandle::join).collect();
    let last: Vec<_> = ended.into_iter().map(|last| last.expect("every heartbeat is answered")).collect();
    let beaten: usize = last.iter().map(HashMap::len).sum();
    assert!(beaten > DATABASES * WORKERS, "hardly any worker beat");
    for (number, database) in databases.iter().enumerate() {
        all_rows_are_right_and_nobody_is_dead(&mut database.connect(), number, &last);
    }
    // Databases are dropped at once where no sweeper comes by every 50 ms.
    cluster.set("rgrid_heartbeat.check_interval", "1h");
    assert_eq!(cluster.worker_errors().iter().filter(|line| !is_about_room(line)).count(), 0);
}

fn all_rows_are_right_and_nobody_is_dead(
    client: &mut Client,
    database: usize,
    last: &[HashMap<Worker, Span>],
) {
    for worker in 0..WORKERS {
        let spans: Vec<Span> =
            last.iter().filter_map(|last| last.get(&(database, worker)).copied()).collect();
        the_row_has_the_last(client, worker, &spans);
    }
    assert_eq!(ask::<i64>(client, "SELECT count(*) FROM rgrid_worker_deaths", &[]), 0);
}

fn is_about_room(line: &str) -> bool {
    line.contains("do not fit in shared memory")
}

/// Of each session the last heartbeat of a worker is known. The one that was stored last is in the row: it
/// ended after all of them had begun.
fn the_row_has_the_last(client: &mut Client, worker: usize, spans: &[Span]) {
    let Some(latest_begin) = spans.iter().map(|span| span.0).max() else { return };
    let possible: Vec<&Span> = spans.iter().filter(|span| span.1 >= latest_begin).collect();
    let id = worker_id(worker);
    wait_until(&format!("the row of {id} to have the last of {spans:?}"), || {
        let row = row_time(client, &id).expect("a worker that beat has a row");
        possible.iter().any(|span| span.0 <= row && row <= span.1)
    });
}

fn worker_id(worker: usize) -> String {
    format!("worker-{worker}")
}

/// One session in each database, and the last heartbeat of each worker among them.
struct Storm {
    sessions: Vec<Client>,
    random: u64,
    last: HashMap<Worker, Span>,
}

impl Storm {
    fn new(sessions: Vec<Client>) -> Self {
        Self { sessions, random: RandomState::new().hash_one(0) | 1, last: HashMap::new() }
    }

    fn rage(mut self) -> HashMap<Worker, Span> {
        let started = Instant::now();
        while started.elapsed() < LENGTH {
            let database = self.below(DATABASES);
            let worker = self.below(WORKERS);
            match self.below(20) {
                0 => self.agent(database),
                1 => self.rolled_back(database, worker),
                2 => self.new_host(database, worker),
                _ => self.one(database, worker),
            }
        }
        self.last
    }

    /// A random number (xorshift).
    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % u64::try_from(bound).unwrap()).unwrap()
    }

    fn one(&mut self, database: usize, worker: usize) {
        self.beat(database, worker, "SELECT clock_timestamp(), rgrid_heartbeat($1), clock_timestamp()");
    }

    fn new_host(&mut self, database: usize, worker: usize) {
        let host = self.below(4);
        let sql = format!("SELECT clock_timestamp(), rgrid_heartbeat($1, 'host-{host}'), clock_timestamp()");
        self.beat(database, worker, &sql);
    }

    fn beat(&mut self, database: usize, worker: usize, sql: &str) {
        let row = self.sessions[database].query_one(sql, &[&worker_id(worker)]).expect("a heartbeat");
        assert_eq!(row.get::<_, i64>(1), 1);
        self.last.insert((database, worker), (row.get(0), row.get(2)));
    }

    /// Counts when the worker was known in memory, and is nothing when it was not: so another one follows.
    fn rolled_back(&mut self, database: usize, worker: usize) {
        run(&mut self.sessions[database], "BEGIN");
        self.one(database, worker);
        run(&mut self.sessions[database], "ROLLBACK");
        self.one(database, worker);
    }

    /// Every third worker of a database, in one call.
    fn agent(&mut self, database: usize) {
        let workers: Vec<usize> = (self.below(3)..WORKERS).step_by(3).collect();
        let ids: Vec<String> = workers.iter().map(|worker| worker_id(*worker)).collect();
        let sql = "SELECT min(b), count(*), max(clock_timestamp())
                   FROM (SELECT clock_timestamp() AS b OFFSET 0) AS b, rgrid_heartbeat($1::text[]) AS a
                   WHERE a = 1";
        let row = self.sessions[database].query_one(sql, &[&ids]).expect("heartbeats");
        assert_eq!(usize::try_from(row.get::<_, i64>(1)), Ok(ids.len()));
        for worker in workers {
            self.last.insert((database, worker), (row.get(0), row.get(2)));
        }
    }
}
