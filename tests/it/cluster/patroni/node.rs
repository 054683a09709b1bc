//! One server and the agent of Patroni that runs it.

use super::super::http_request;
use super::super::programs::{self, Leashed};
use super::super::server::next_number;
use super::configuration;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub struct Node {
    pub name: &'static str,
    /// Its `data` is the server's; a directory of its own, where servers that a killed test leaves behind are found.
    pub dir: PathBuf,
    /// What all nodes share.
    shared: PathBuf,
    pub port: u16,
    pub rest_port: u16,
    pub agent: Option<Leashed>,
}

impl Node {
    pub fn new(shared: &Path, name: &'static str) -> Self {
        let dir = programs::new_empty_directory(next_number());
        let [port, rest_port] = [(); 2].map(|()| programs::free_port());
        Self { name, dir, shared: shared.into(), port, rest_port, agent: None }
    }

    /// The agent's configuration file.
    pub fn configuration(&self) -> PathBuf {
        self.dir.join("patroni.yml")
    }

    pub fn start_agent(&mut self) {
        let file = self.configuration().display().to_string();
        self.agent = Some(start(&self.shared, self.name, &["patroni", &file]));
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        http_request(self.rest_port, "GET", path)
    }

    /// What HAProxy asks.
    pub fn is_primary(&self) -> bool {
        self.agent.is_some() && self.get("/primary").0 == 200
    }

    /// The process of the server, if it runs: a file that a killed one left behind may name anybody's by now.
    pub fn postmaster(&self) -> Option<i32> {
        let data = self.dir.join("data");
        let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let pid = file.lines().next()?.trim().parse().ok()?;
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        command.contains(&data.display().to_string()).then_some(pid)
    }

    /// The postmaster first, then its children.
    pub fn server_processes(&self) -> Vec<i32> {
        let Some(postmaster) = self.postmaster() else { return Vec::new() };
        let mut children = String::new();
        programs::try_program(
            Command::new("ps").args(["-o", "pid=", "--ppid", &postmaster.to_string()]),
            &mut children,
        );
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(postmaster).chain(children).collect()
    }

    pub fn agent_process(&self) -> i32 {
        let file = pid_file(&self.shared, self.name);
        let text = fs::read_to_string(file).expect("the agent was started");
        text.trim().parse().expect("it is a process id")
    }

    pub fn kill_server(&self) {
        let processes = self.server_processes();
        for pid in &processes {
            send(*pid, "KILL");
        }
        super::wait_within(super::DEADLINE, "a killed server to be gone", || {
            !processes.iter().any(|pid| programs::is_alive(*pid))
        });
    }
}

/// Processes that are stopped until this is dropped.
pub struct Stopped(Vec<i32>);

impl Stopped {
    pub fn new(pids: Vec<i32>) -> Self {
        let mut stopped = Self(Vec::new());
        stopped.add(pids);
        stopped
    }

    pub fn add(&mut self, pids: Vec<i32>) {
        for pid in &pids {
            send(*pid, "STOP");
        }
        self.0.extend(pids);
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            send(*pid, "CONT");
        }
    }
}

/// A child may be gone by now.
fn send(pid: i32, name: &str) {
    programs::try_program(
        Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()),
        &mut String::new(),
    );
}

/// Starts a program in a process group of its own, with its log and its process id in files of its name.
pub fn start(dir: &Path, name: &str, program: &[&str]) -> Leashed {
    let file = pid_file(dir, name);
    let script = r#"echo $$ >"$0"; exec "$@""#;
    let start = ["sh", "-c", script, &file.display().to_string()].map(String::from);
    let words: Vec<&str> = start.iter().map(String::as_str).chain(program.iter().copied()).collect();
    Leashed::start(configuration::command(dir, "sh"), &words, log(dir, name))
}

fn pid_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.pid"))
}

pub fn log(dir: &Path, name: &str) -> Stdio {
    let path = dir.join(format!("{name}.log"));
    fs::OpenOptions::new().create(true).append(true).open(path).expect("a log can be opened").into()
}
