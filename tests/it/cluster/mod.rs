//! Throw-away PostgreSQL servers for the tests that need a real one: with worker processes, crashes, restarts
//! and several sessions. A server listens on a socket in a directory of its own, and both are gone when the
//! test is over.
//!
//! `server` starts and stops one, `programs` runs the server's programs, `observe` looks at processes and log,
//! `database` gives each test a database, `rgrid` plays RGrid's workers, `heartbeats` has their heartbeats one at a
//! time, `example_worker` starts the worker of examples/, `http` asks programs over HTTP, `standby` copies a server,
//! `subscription` has one copied row by row, `attack` makes roles of workers and roles that mean harm, `formation` has
//! a primary and a standby under pg_auto_failover, `patroni` has three servers under Patroni, `pooler` has PgBouncer in
//! front of a server, `copies` dumps, restores and upgrades, `interposed` puts libraries between a server and the
//! system, `clock` steps a server's clock or stops it, `client_process` has clients that can be killed. `elsewhere.c`
//! has tables whose rows are on other servers.

mod attack;
mod client_process;
mod clock;
mod copies;
mod database;
mod example_worker;
mod formation;
mod heartbeats;
mod http;
mod interposed;
mod observe;
mod patroni;
mod pooler;
mod programs;
mod rgrid;
mod server;
mod standby;
mod subscription;

pub use attack::*;
pub use client_process::ClientProcess;
pub use copies::rows;
pub use database::{Database, ask, has_available, run, sqlstate};
pub use example_worker::ExampleWorker;
pub use formation::Formation;
pub use heartbeats::*;
pub use http::http_request;
pub use observe::{LAUNCHER, SWEEPER, next_notice};
pub use patroni::Patroni;
pub use pooler::Pooler;
pub use programs::{
    Leashed, bindir, free_port, has_library, is_alive, open_log, print_tail, run_program, signal,
};
pub use rgrid::*;
pub use server::{Builder, Cluster, Shared};
pub use standby::archive;
pub use subscription::*;

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up: far above what it takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Polls until `done` says yes, and answers how long that took.
///
/// # Panics
/// After the deadline, naming what was awaited.
pub fn wait_until(awaited: &str, done: impl FnMut() -> bool) -> Duration {
    wait_within(DEADLINE, awaited, done)
}

/// The same with a deadline of its own. The only place where tests sleep.
pub fn wait_within(deadline: Duration, awaited: &str, mut done: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < deadline, "waited {deadline:?} in vain for: {awaited}");
        thread::sleep(POLL);
    }
    started.elapsed()
}

/// Checks again and again, for the whole of `window`, that something stays as it is.
pub fn stays(window: Duration, claim: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    wait_until(claim, || {
        assert!(holds(), "not for {window:?}: {claim}");
        started.elapsed() >= window
    });
}
