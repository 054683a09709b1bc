//! Two thousand workers on ten connections of the server: clients that speak the protocol themselves, so that one
//! process can have them all.

use super::*;
use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

const WORKERS: usize = 2_000;

#[test]
fn two_thousand_workers_beat_through_ten_connections() {
    // A connection is a file, and many systems give a process no more than 1,024 if it does not ask for more.
    let me = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--nofile=8192:", "--pid", &me]).status();
    assert!(raised.is_ok_and(|status| status.success()), "this process may open many files");
    let cluster = Cluster::builder().setting("rgrid_heartbeat.stale_threshold", "1h").start();
    let database = cluster.database("fleet");
    let pooler = Pooler::start(&cluster, "pool_mode = transaction\ndefault_pool_size = 10");
    let mut client = database.connect();
    let mut fleet: Vec<Raw> = (0..WORKERS).map(|number| Raw::connect(&pooler, number)).collect();
    beat_all(&mut fleet);
    let (silent, living) = fleet.split_at_mut(WORKERS / 2);

    let shortest_and_longest = "SELECT min(seconds_since_heartbeat) FILTER (WHERE worker_id < 'worker-1000'),
                                       max(seconds_since_heartbeat) FILTER (WHERE worker_id >= 'worker-1000')
                                FROM rgrid_workers";
    let mut silence: f64 = 0.0;
    wait_until("one half to be silent for longer than the other", || {
        beat_all(living);
        let row = client.query_one(shortest_and_longest, &[]).unwrap();
        silence = row.get(0);
        silence - row.get::<_, f64>(1) > 6.0
    });
    // The sweep may come seconds later than the look before it.
    let threshold = ((silence - 1.0) * 1000.0) as u64;
    run(&mut client, &format!("SET rgrid_heartbeat.stale_threshold = {threshold}; SELECT rgrid_sweep()"));
    let dead = "SELECT count(*) || ' up to ' || max(worker_id) FROM rgrid_worker_deaths";
    assert_eq!(ask::<String>(&mut client, dead, &[]), "1000 up to worker-0999", "half, and nobody else");
    let sessions = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = 'fleet' AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    assert!(ask::<i64>(&mut client, sessions, &[]) <= 10, "the pool is small");
    for raw in silent {
        raw.ask_for_a_heartbeat();
        assert_eq!(raw.answer(), "2", "who comes back is told");
    }
}

/// All ask at once, so most wait for one of the connections.
fn beat_all(fleet: &mut [Raw]) {
    fleet.iter_mut().for_each(Raw::ask_for_a_heartbeat);
    for raw in fleet {
        assert_eq!(raw.answer(), "1", "the heartbeat of {}", raw.worker);
    }
}

/// A worker's connection.
struct Raw {
    worker: String,
    stream: BufReader<UnixStream>,
}

impl Raw {
    fn connect(pooler: &Pooler, number: usize) -> Self {
        let stream = UnixStream::connect(pooler.socket()).expect("the pooler takes connections");
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut raw =
            Self { worker: format!("worker-{number:04}"), stream: BufReader::with_capacity(256, stream) };
        // Version 3.0 of the protocol.
        let startup =
            [&196_608_u32.to_be_bytes(), b"user\0postgres\0database\0fleet\0\0".as_slice()].concat();
        raw.send(&[], &startup);
        raw.answer();
        raw
    }

    fn ask_for_a_heartbeat(&mut self) {
        let sql = format!("SELECT rgrid_heartbeat('{}', 'node')\0", self.worker);
        self.send(b"Q", sql.as_bytes());
    }

    fn send(&mut self, kind: &[u8], body: &[u8]) {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        self.stream.get_mut().write_all(&[kind, &length, body].concat()).expect("the pooler reads");
    }

    /// The one value of the answer, when the server is ready for another query; nothing after the login.
    fn answer(&mut self) -> String {
        let mut value = String::new();
        loop {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head).expect("the pooler answers");
            let mut body = vec![0; u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4];
            self.stream.read_exact(&mut body).expect("the pooler answers");
            match head[0] {
                b'Z' => return value,
                b'E' => panic!("{}: {}", self.worker, String::from_utf8_lossy(&body)),
                // The number of columns, the length of the first, and the first.
                b'D' => value = String::from_utf8_lossy(&body[6..]).into_owned(),
                _ => {}
            }
        }
    }
}
