//! A dozen worker processes claim, finish, die, pause, restart and beat late, while the server is stopped, killed and
//! replaced by its standby. A checker then judges what was written down.
//!
//! `make torture` runs it for three minutes. `TORTURE_SECONDS` sets another length and `TORTURE_SEED` the seed that an
//! earlier run has printed: then the same is done at the same times. What the processes and the server make of it is
//! their own. After it comes the other half, [`chaos`].
//!
//! `plan` is what will be done, `fleet` does it to workers and `servers` to servers; `worker` is a worker process,
//! `history` what was written down, `checker` the judge, `story` what people read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, unused_imports, reason = "the servers of the other tests, of which this one uses a part")]
#[path = "../it/cluster/mod.rs"]
mod cluster;

mod chaos;
mod checker;
mod fleet;
mod history;
mod notes;
mod plan;
mod servers;
mod story;
mod tables;
mod worker;

use cluster::wait_until;
use fleet::Fleet;
use history::{History, SECOND, now};
use notes::Notes;
use plan::{GRACE, Plan, THRESHOLD};
use servers::{FLUSH_INTERVAL, Servers};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

/// The length of the run that is one test among others.
const SHORT: u64 = 25;

/// What locked rows, a launcher that is on its way back and a busy machine add to the flush interval.
const LATE: i64 = 4 * SECOND;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker", order] => worker::live(order),
        // As other tests, they are left out when the name that is asked for is another one.
        [name, ..] if !name.starts_with('-') => run_those_named(name),
        _ => run_those_named(""),
    }
}

fn run_those_named(name: &str) {
    if "torture".contains(name) {
        torture();
    }
    if "chaos".contains(name) {
        chaos::chaos();
    }
}

fn torture() {
    let seconds = number("TORTURE_SECONDS").unwrap_or(SHORT);
    let seed = number("TORTURE_SEED").unwrap_or_else(any_seed);
    println!("torture for {seconds} s; again with TORTURE_SEED={seed} TORTURE_SECONDS={seconds}");
    let directory = env::temp_dir().join(format!("rgh-torture-{}", process::id()));
    fs::create_dir(&directory).expect("a directory can be made");
    let (history, started) = run(&Plan::new(seed, seconds), seed, seconds, &directory);
    let (summary, never) = story::summary(&history);
    println!("{summary}");
    let violations = checker::check(&history);
    if !violations.is_empty() {
        println!("{}", story::tell(&history, &violations, started));
        println!("the calls of all processes are in {}", directory.display());
        panic!("{} violations with TORTURE_SEED={seed} TORTURE_SECONDS={seconds}", violations.len());
    }
    let _ = fs::remove_dir_all(&directory);
    assert!(never.is_empty(), "nothing was proven, without {never:?}");
    println!("nothing is wrong");
}

fn any_seed() -> u64 {
    now().unsigned_abs() % 1_000_000
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

/// Carries out the plan, and lets everything come to rest.
fn run(plan: &Plan, seed: u64, seconds: u64, directory: &Path) -> (History, i64) {
    let notes = Notes::new();
    let mut history = History {
        threshold: i64::try_from(THRESHOLD).unwrap() * 1_000,
        grace: i64::try_from(GRACE).unwrap() * 1_000,
        unwritten: i64::try_from(FLUSH_INTERVAL).unwrap() * 1_000 + LATE,
        ..History::default()
    };
    let mut servers = Servers::start(&notes, PathBuf::from(directory), seed, seconds);
    let mut fleet = Fleet::start(&notes, directory, seed);
    thread::scope(|scope| {
        scope.spawn(|| servers.suffer(&plan.servers));
        fleet.suffer(scope, &plan.workers);
    });
    servers.calm();
    history.left_dead = notes.during("kill half of the workers for good", || fleet.kill_half());
    come_to_rest(&servers, &notes, &history.left_dead, &fleet.alive());
    fleet.freeze();
    tables::read(&mut servers.client(), &mut history);
    history.log = servers.deaths_in_the_logs();
    drop(fleet);
    history.calls = history::read_calls(directory);
    drop(servers);
    let started = notes.started;
    (history.faults, history.outages) = notes.into_parts();
    (history, started)
}

/// Waits until the dead are settled and the living are written, for as long as a test may wait; what is missing
/// then, the checker tells.
fn come_to_rest(servers: &Servers<'_>, notes: &Notes, dead: &[String], alive: &[String]) {
    let (began, since) = (Instant::now(), now() + SECOND);
    let mut client = servers.client();
    notes.during("everything comes to rest", || {
        wait_until("the end of the run", || {
            began.elapsed() > Duration::from_secs(25) || tables::are_at_rest(&mut client, dead, alive, since)
        });
    });
}
