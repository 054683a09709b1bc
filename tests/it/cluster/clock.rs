//! Servers whose wall clock can be stepped while they run, by the library `clock.c`, and servers that stand still.

use super::{Cluster, programs};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

impl Cluster {
    /// Steps the server's wall clock so far ahead of the machine's; behind when negative. The monotonic clock goes on.
    pub fn step_clock(&self, seconds: i64) {
        // In place, and never shorter: the server's processes have mapped the file.
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(self.clock_file());
        let written = file.and_then(|mut file| file.write_all(&seconds.to_ne_bytes()));
        written.expect("the file of the clock can be written");
    }

    pub(super) fn clock_file(&self) -> PathBuf {
        self.dir.join("clock")
    }

    /// Has all processes of the server stand still while `meanwhile` runs, as in a frozen container or on a machine
    /// that sleeps. Returns when they began to go on: it takes a while until all of them do.
    pub fn freeze(&self, meanwhile: impl FnOnce()) -> Instant {
        let pid_file =
            fs::read_to_string(self.data().join("postmaster.pid")).expect("a running server has a pid file");
        let postmaster: i32 =
            pid_file.lines().next().and_then(|line| line.trim().parse().ok()).expect("a pid");
        // The postmaster first: then it starts no others.
        programs::signal(postmaster, "STOP");
        let children = children_of(postmaster);
        children.iter().for_each(|pid| programs::signal(*pid, "STOP"));
        meanwhile();
        let over = Instant::now();
        children.iter().for_each(|pid| programs::signal(*pid, "CONT"));
        programs::signal(postmaster, "CONT");
        over
    }
}

/// The processes that it started and that have not ended.
fn children_of(pid: i32) -> Vec<i32> {
    let list =
        programs::run_program(Command::new("ps").args(["-o", "pid=,stat=", "--ppid"]).arg(pid.to_string()));
    let alive = list.lines().filter(|line| !line.contains('Z'));
    alive.filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}
