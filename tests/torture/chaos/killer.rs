//! Ends processes: politely, and now and then by SIGKILL, which makes the server start anew.

use super::arena::Arena;
use crate::cluster::wait_until;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between two crashes.
const CRASHES: Duration = Duration::from_secs(15);

pub fn kill(arena: &Arena, seed: u64, seconds: u64) {
    let mut random = StdRng::seed_from_u64(seed.wrapping_mul(31));
    let mut next_crash = Instant::now() + CRASHES.min(Duration::from_secs(seconds) / 2);
    while !arena.is_over() {
        arena.pause(&mut random, 50..400);
        if Instant::now() < next_crash {
            end_one(arena, &mut random);
        } else if crash(arena, &mut random) {
            next_crash = Instant::now() + CRASHES;
        }
    }
}

/// One of the server's processes of this kind, and what it is.
fn victim(arena: &Arena, random: &mut StdRng) -> Option<(i64, &'static str)> {
    let kind = match random.random_range(0..10) {
        0 => "rgrid_heartbeat launcher",
        1..5 => "rgrid_heartbeat sweeper",
        _ => "client backend",
    };
    let mut client = arena.connect("postgres")?;
    let sql = format!(
        "SELECT pid::bigint FROM pg_stat_activity WHERE backend_type = '{kind}' AND pid <> pg_backend_pid()
         ORDER BY random() LIMIT 1"
    );
    Some((arena.number(&mut client, &sql)?, kind))
}

fn end_one(arena: &Arena, random: &mut StdRng) {
    let function = if random.random_bool(0.7) { "pg_terminate_backend" } else { "pg_cancel_backend" };
    let Some((pid, kind)) = victim(arena, random) else { return };
    let Some(mut client) = arena.connect("postgres") else { return };
    if arena.attempt(&mut client, &format!("SELECT {function}({pid})")) {
        arena.count(&format!("{function} of a {kind}"));
        arena.count("processes terminated");
    }
}

/// Whether there was a process to kill.
fn crash(arena: &Arena, random: &mut StdRng) -> bool {
    let Some((pid, kind)) = victim(arena, random) else { return false };
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
    if !killed.is_ok_and(|status| status.success()) {
        return false;
    }
    arena.count(&format!("SIGKILL of a {kind}"));
    arena.count("processes killed by SIGKILL");
    wait_until("connections are taken again", || arena.connect("postgres").is_some());
    true
}
