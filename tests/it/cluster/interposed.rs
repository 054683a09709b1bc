//! Libraries that are preloaded into a server and stand between it and the system.

use super::{Cluster, programs};
use std::process::Command;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Interposed {
    /// `clock.c`: the wall clock is the test's.
    Clock,
    /// `requests.c`: a process that asks the postmaster for something is held up after it.
    Requests,
}

impl Interposed {
    fn name(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Requests => "requests",
        }
    }
}

impl Cluster {
    /// A program with such a library between it and the system; all that it starts have it, too.
    pub(super) fn program_with(&self, interposed: Interposed, name: &str) -> Command {
        let library = programs::compile(interposed.name()).display().to_string();
        let clock = self.clock_file().display().to_string();
        programs::server_program_with(&[("LD_PRELOAD", &library), ("TEST_CLOCK", &clock)], name)
    }
}
