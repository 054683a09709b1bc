//! A client with a process of its own, which can be killed: psql.

use super::{Database, ONE_HOST, attaching, programs};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A client's process. Dropping it kills it.
pub struct ClientProcess {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl ClientProcess {
    /// A process with a session.
    pub fn start(database: &Database<'_>) -> Self {
        Self::start_with(&database.connection_string())
    }

    /// The same by a connection string of libpq.
    pub fn start_with(connection: &str) -> Self {
        let mut psql = Command::new(programs::bindir().join("psql"));
        psql.args(["-XqAt", "-d", connection]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/");
        let mut process = psql.spawn().expect("psql can be started");
        let input = process.stdin.take();
        let output = process.stdout.take().expect("its output is a pipe");
        let mut client = Self { process, input, output: BufReader::new(output) };
        assert_eq!(client.ask("SELECT 'connected'"), ["connected"], "psql connects");
        client
    }

    /// Sends something and does not wait for an answer.
    pub fn send(&mut self, sql: &str) {
        let input = self.input.as_mut().expect("it has not left");
        writeln!(input, "{sql};").expect("psql reads what it is told");
    }

    /// The lines of the answer; errors go to the test's own.
    pub fn ask(&mut self, sql: &str) -> Vec<String> {
        const END: &str = "-- end of the answer --";
        self.send(sql);
        let input = self.input.as_mut().expect("it has not left");
        writeln!(input, "\\echo '{END}'").expect("psql reads what it is told");
        let lines = self.output.by_ref().lines().map(|line| line.expect("psql answers"));
        lines.take_while(|line| line != END).collect()
    }

    /// The process of the server that serves it.
    pub fn backend(&mut self) -> i32 {
        self.ask("SELECT pg_backend_pid()")[0].parse().expect("a number")
    }

    /// Its own process.
    pub fn pid(&self) -> i32 {
        self.process.id().try_into().expect("a process has a number")
    }

    /// A heartbeat that attaches a worker, on the host that most workers of the tests are on; its incarnation.
    pub fn attach(&mut self, worker: &str) -> i64 {
        self.attach_on(worker, Some(ONE_HOST))
    }

    /// The same for a worker on another host, or that does not say where it is.
    pub fn attach_on(&mut self, worker: &str, host: Option<&str>) -> i64 {
        self.ask(&attaching(worker, host))[0].parse().expect("a number")
    }

    /// `kill -9`.
    pub fn kill(self) {
        Self::kill_all([self]);
    }

    /// `kill -9` of many processes, by one command.
    pub fn kill_all(processes: impl IntoIterator<Item = Self>) {
        let processes: Vec<Self> = processes.into_iter().collect();
        let pids = processes.iter().map(|process| process.pid().to_string());
        programs::run_program(Command::new("kill").arg("-9").args(pids));
    }

    /// Ends with a word of goodbye.
    pub fn leave(mut self) {
        drop(self.input.take());
        assert!(self.process.wait().expect("psql ends").success(), "psql fails");
    }
}

impl Drop for ClientProcess {
    fn drop(&mut self) {
        // A process that has ended already cannot be killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
