//! Servers whose wall clock can be stepped while they run, by the library `clock.c`, and servers that stand still.

use super::Cluster;
use super::programs::Stopped;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
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
        let stopped = Stopped::with_children(self.postmaster());
        meanwhile();
        let over = Instant::now();
        drop(stopped);
        over
    }
}
