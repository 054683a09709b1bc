//! A session: connects to one of the databases, does some steps, and goes on to another one.

use super::arena::{Arena, DATABASES};
use super::statements;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::thread;
use std::time::Duration;

/// Until the next attempt to connect.
const REST: Duration = Duration::from_millis(30);

pub fn live(arena: &Arena, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while !arena.is_over() {
        // All of it before anything is tried: what succeeds must not change what is done later.
        let place = random.random_range(0..DATABASES);
        let mut steps = vec![statements::role(&mut random)];
        steps.extend((0..random.random_range(5..40)).map(|_| statements::step(&mut random)));
        let Some(mut client) = arena.connect(&arena.life(place).name) else {
            arena.count("connections refused");
            thread::sleep(REST);
            continue;
        };
        for step in steps {
            if arena.is_over() || client.is_closed() {
                break;
            }
            arena.attempt(&mut client, &step);
        }
    }
}
