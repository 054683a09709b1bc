//! The worker that the documents tell people to copy, as a process.

use super::database::ask;
use super::programs::Leashed;
use postgres::Client;
use std::process::{Command, Stdio};

/// Dropping it kills it.
pub struct ExampleWorker {
    pub name: &'static str,
    _process: Leashed,
}

impl ExampleWorker {
    /// It says that it runs on a host of this name, beats twice a second, and works on each job so long.
    pub fn start(connection_string: &str, name: &'static str, job_seconds: f64) -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/worker.py");
        let job_seconds = job_seconds.to_string();
        let worker = ["/usr/bin/python3", "-B", program, "--dsn", connection_string, "--hostname", name];
        let pace = ["--heartbeat-interval", "0.5", "--job-seconds", &job_seconds];
        let process = Leashed::start(Command::new("sh"), &[worker.as_slice(), &pace].concat(), Stdio::null());
        Self { name, _process: process }
    }

    /// The id that it was given when it registered.
    pub fn id(&self, client: &mut Client) -> String {
        ask(client, "SELECT worker_id FROM worker_heartbeats WHERE hostname = $1", &[&self.name])
    }

    pub fn running(&self, client: &mut Client) -> i64 {
        let sql = "SELECT count(*) FROM executions e JOIN worker_heartbeats h USING (worker_id)
                   WHERE h.hostname = $1 AND e.status = 'running'";
        ask(client, sql, &[&self.name])
    }
}
