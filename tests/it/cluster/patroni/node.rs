//! One server and the agent of Patroni that runs it.

use super::super::http_request;
use super::super::programs::{self, Leashed};
use super::super::server::next_number;
use super::configuration;
use std::fs;
use std::path::{Path, PathBuf};

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

    /// The process of the server, if it runs.
    pub fn postmaster(&self) -> Option<i32> {
        programs::postmaster(&self.dir.join("data"))
    }

    pub fn agent_process(&self) -> i32 {
        let file = pid_file(&self.shared, self.name);
        let text = fs::read_to_string(file).expect("the agent was started");
        text.trim().parse().expect("it is a process id")
    }

    pub fn kill_server(&self) {
        if let Some(postmaster) = self.postmaster() {
            programs::kill_with_children(postmaster);
        }
    }
}

/// Starts a program in a process group of its own, with its log and its process id in files of its name.
pub fn start(dir: &Path, name: &str, program: &[&str]) -> Leashed {
    let file = pid_file(dir, name);
    let script = r#"echo $$ >"$0"; exec "$@""#;
    let start = ["sh", "-c", script, &file.display().to_string()].map(String::from);
    let words: Vec<&str> = start.iter().map(String::as_str).chain(program.iter().copied()).collect();
    Leashed::start(configuration::command(dir, "sh"), &words, programs::open_log(&log(dir, name)))
}

fn pid_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.pid"))
}

pub fn log(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.log"))
}
