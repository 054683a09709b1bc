//! Six sessions of random calls and DDL in three databases, with sweeps every 50 ms, while processes are killed, and
//! extensions and databases come and go.
//!
//! `make torture` runs it for two minutes. `CHAOS_SECONDS` sets another length, and `CHAOS_SEED` the seed that an
//! earlier run has printed: then each session does the same in the same order. What meets what is chance.
//!
//! `arena` is the server and its databases, `statements` what a session may do, `session` a session, `upheaval` drops
//! and creates, `killer` kills, `verdict` judges what is left.

mod arena;
mod killer;
mod session;
mod statements;
mod upheaval;
mod verdict;

use arena::Arena;
use std::thread;
use std::time::Duration;

/// The length of the run that is one test among others.
const SHORT: u64 = 12;

const SESSIONS: u64 = 6;

/// The whole run.
///
/// # Panics
/// With all that is wrong.
pub fn chaos() {
    let seconds = crate::number("CHAOS_SECONDS").unwrap_or(SHORT);
    let seed = crate::number("CHAOS_SEED").unwrap_or_else(crate::any_seed);
    println!("chaos for {seconds} s; again with CHAOS_SEED={seed} CHAOS_SECONDS={seconds}");
    let arena = Arena::start();
    thread::scope(|scope| {
        let arena = &arena;
        for number in 1..=SESSIONS {
            scope.spawn(move || session::live(arena, seed + number));
        }
        scope.spawn(move || upheaval::rage(arena, seed));
        scope.spawn(move || killer::kill(arena, seed, seconds));
        thread::sleep(Duration::from_secs(seconds));
        arena.end();
    });
    let wrong = verdict::judge(&arena);
    let (summary, never) = arena.summary();
    println!("{summary}");
    if !wrong.is_empty() {
        let log = std::env::temp_dir().join(format!("rgh-chaos-{}.log", std::process::id()));
        std::fs::write(&log, arena.cluster.log()).expect("a log can be kept");
        println!("the server's log is in {}\n{}", log.display(), wrong.join("\n"));
        panic!("{} things are wrong with CHAOS_SEED={seed} CHAOS_SECONDS={seconds}", wrong.len());
    }
    assert!(never.is_empty(), "nothing was proven, without {never:?}");
    println!("nothing is wrong");
}
