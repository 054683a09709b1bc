//! A program around a client: `program.py` and `program.js` understand the same options and commands, and say the same.

use crate::cluster::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Seconds between heartbeats, a tenth of the threshold of [`Cluster::quick`], so that a loaded machine kills nobody.
const INTERVAL: f64 = 0.2;

#[derive(Clone, Copy, PartialEq)]
pub enum Client {
    Threads,
    Asyncio,
    Node,
}

impl Client {
    /// Starts it on the server of a connection string, with options over those that tests want.
    pub fn start(self, connection: &str, options: Value) -> Program {
        Program::start(self.command(connection, options))
    }

    pub fn command(self, connection: &str, options: Value) -> Command {
        let mut all =
            json!({"conninfo": connection, "interval": INTERVAL, "deadline": 2.0, "hostname": "node-7"});
        for (name, value) in options.as_object().expect("options are an object") {
            all[name] = value.clone();
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(if self == Self::Node { "node" } else { "/usr/bin/python3" });
        match self {
            Self::Node => command.arg(root.join("tests/it/clients/program.js")),
            Self::Threads => command.arg("-B").arg(root.join("tests/it/clients/program.py")).arg("threads"),
            Self::Asyncio => command.arg("-B").arg(root.join("tests/it/clients/program.py")).arg("asyncio"),
        };
        command.env("PYTHONPATH", root.join("clients/python")).arg(all.to_string());
        command
    }
}

/// Killed with the handle. The end of its input ends it, too.
pub struct Program {
    child: Child,
    said: Arc<Mutex<Vec<Value>>>,
}

impl Program {
    pub fn start(mut command: Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().expect("the client's program starts");
        let said: Arc<Mutex<Vec<Value>>> = Arc::default();
        let output = BufReader::new(child.stdout.take().expect("it was asked for"));
        let heard = Arc::clone(&said);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("the program says JSON");
                heard.lock().expect("nobody fails with it").push(line);
            }
        });
        Self { child, said }
    }

    /// The last line with this field, once it is there.
    pub fn last(&self, field: &str) -> Value {
        let find = || self.said.lock().unwrap().iter().rev().find(|line| line.get(field).is_some()).cloned();
        wait_until(&format!("the program to say \"{field}\""), || find().is_some());
        find().unwrap()
    }

    pub fn worker(&self) -> String {
        self.last("worker")["worker"].as_str().expect("the worker has an id").to_owned()
    }

    /// Returns when its last state says so.
    pub fn await_state(&self, field: &str, value: impl Into<Value>) {
        let value = value.into();
        wait_until(&format!("{field} to be {value}"), || self.last("worker")[field] == value);
    }

    pub fn tell(&mut self, command: &str) {
        let input = self.child.stdin.as_mut().expect("its input is open");
        writeln!(input, "{command}").expect("the program reads");
    }

    pub fn signal(&self, name: &str) {
        signal(i32::try_from(self.child.id()).expect("it is a process id"), name);
    }

    /// How it has ended, of its own accord.
    pub fn end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the end of the program", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status.unwrap()
    }

    pub fn stop(mut self) {
        self.tell("stop");
        assert!(self.end().success(), "the program failed");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection string that all clients understand, for servers in the order in which they are to be tried.
pub fn connection_string(servers: &[&Cluster], database: &str, role: &str) -> String {
    let hosts =
        servers.iter().map(|server| server.socket_directory().display().to_string().replace('/', "%2F"));
    format!("postgresql://{role}@{}/{database}", hosts.collect::<Vec<_>>().join(","))
}

/// How long a claim about something that does not happen is watched.
pub const WHILE: Duration = Duration::from_secs(3);
