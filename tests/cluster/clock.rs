//! Servers whose wall clock can be stepped while they run, by libfaketime, and servers that stand still.

use super::{Cluster, programs};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Where Debian has it.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

impl Cluster {
    /// Steps the server's wall clock so far ahead of the machine's; behind when negative. The monotonic clock goes on.
    pub fn step_clock(&self, seconds: i64) {
        // Written beside and renamed: the server reads the file at any moment.
        let (file, new) = (self.clock_file(), self.dir.join("clock.new"));
        fs::write(&new, format!("{seconds:+}")).expect("a file can be written");
        fs::rename(&new, &file).expect("a file can be renamed");
    }

    fn clock_file(&self) -> std::path::PathBuf {
        self.dir.join("clock")
    }

    /// A program that sees the server's own clock, and so do all that it starts.
    pub(super) fn program_with_own_clock(&self, name: &str) -> Command {
        assert!(Path::new(LIBRARY).exists(), "libfaketime is missing: make deps");
        let file = self.clock_file().display().to_string();
        let environment = [
            ("LD_PRELOAD", LIBRARY),
            ("FAKETIME_TIMESTAMP_FILE", file.as_str()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        programs::server_program_with(&environment, name)
    }

    /// Has all processes of the server stand still while `meanwhile` runs, as in a frozen container or on a machine
    /// that sleeps.
    pub fn freeze(&self, meanwhile: impl FnOnce()) {
        let pid_file =
            fs::read_to_string(self.data().join("postmaster.pid")).expect("a running server has a pid file");
        let postmaster: i32 = pid_file.lines().next().and_then(|line| line.trim().parse().ok()).expect("a pid");
        // The postmaster first: then it starts no others.
        programs::signal("STOP", postmaster);
        let children = children_of(postmaster);
        children.iter().for_each(|pid| programs::signal("STOP", *pid));
        meanwhile();
        children.iter().for_each(|pid| programs::signal("CONT", *pid));
        programs::signal("CONT", postmaster);
    }
}

/// The processes that it started and that have not ended.
fn children_of(pid: i32) -> Vec<i32> {
    let list = programs::run_program(Command::new("ps").args(["-o", "pid=,stat=", "--ppid"]).arg(pid.to_string()));
    let alive = list.lines().filter(|line| !line.contains('Z'));
    alive.filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}
