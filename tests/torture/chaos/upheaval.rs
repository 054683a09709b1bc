//! Drops and creates extensions and databases. Every ledger is counted before it is dropped, but for those that go with
//! their database.

use super::arena::{Arena, DATABASES, ORIGIN};
use super::statements;
use crate::cluster::wait_until;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub fn rage(arena: &Arena, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed.wrapping_mul(17));
    let mut number = DATABASES;
    for round in 0.. {
        arena.pause(&mut random, 200..1_500);
        if arena.is_over() {
            break;
        }
        let place = random.random_range(0..DATABASES);
        match round % 3 {
            0 => {
                drop_extension(arena, place);
                arena.pause(&mut random, 0..300);
                create_extension(arena, place);
            }
            1 => create_extension(arena, place),
            _ => {
                number += 1;
                replace_database(arena, place, &format!("chaos_{number}"), &mut random);
            }
        }
    }
    (0..DATABASES).for_each(|place| create_extension(arena, place));
}

fn create_extension(arena: &Arena, place: usize) {
    if let Some(mut client) = arena.connect(&arena.life(place).name) {
        arena.attempt(&mut client, "CREATE EXTENSION IF NOT EXISTS rgrid_heartbeat");
    }
}

/// Whether that was done, and its ledger counted. Sessions that hold locks, or the killer, may prevent it for a while.
fn drop_extension(arena: &Arena, place: usize) -> bool {
    (0..10).any(|_| try_to_drop_extension(arena, place))
}

fn try_to_drop_extension(arena: &Arena, place: usize) -> bool {
    let Some(mut client) = arena.connect(&arena.life(place).name) else { return false };
    let lock = "BEGIN; LOCK TABLE rgrid_worker_deaths IN ACCESS EXCLUSIVE MODE";
    if !arena.attempt(&mut client, lock) {
        return false;
    }
    let deaths = arena.number(&mut client, "SELECT count(*) FROM rgrid_worker_deaths");
    let dropped = deaths.filter(|_| arena.attempt(&mut client, "DROP EXTENSION rgrid_heartbeat CASCADE"));
    let Some(deaths) = dropped else {
        arena.attempt(&mut client, "ROLLBACK");
        return false;
    };
    let is_committed = arena.attempt(&mut client, "COMMIT");
    if is_committed {
        arena.count("extensions dropped");
        arena.change(place, |life| life.deaths += deaths);
    } else {
        // Nobody knows whether that was committed.
        arena.change(place, |life| life.is_counted = false);
    }
    is_committed
}

/// Puts another database in a place, half of the time one with the OID of the former one.
fn replace_database(arena: &Arena, place: usize, name: &str, random: &mut StdRng) {
    let (with_extension, same_oid) = (random.random_bool(0.7), random.random_bool(0.5));
    let was_counted = !with_extension && drop_extension(arena, place);
    let former = arena.life(place).name;
    let Some(oid) = arena.oid(&former) else { return };
    if let Some(mut client) = arena.connect(&former) {
        // So that memory has something to forget.
        arena.attempt(&mut client, &statements::all_beat());
    }
    arena.change(place, |life| life.is_counted &= was_counted);
    let drop = format!("DROP DATABASE IF EXISTS {former} WITH (FORCE)");
    wait_until("a database to be dropped", || {
        arena.connect("postgres").is_some_and(|mut client| arena.attempt(&mut client, &drop))
    });
    arena.count("databases dropped");
    let exists = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'");
    let mut attempts = 0;
    // One that ended without an answer may have made it. One that was ended by a crash leaves files, which keep the
    // OID.
    wait_until("a database to be created", || {
        let Some(mut client) = arena.connect("postgres") else { return false };
        attempts += 1;
        let oid = if same_oid && attempts < 3 { format!(" OID {oid}") } else { String::new() };
        arena.number(&mut client, &exists) == Some(1)
            || arena.attempt(&mut client, &format!("CREATE DATABASE {name} TEMPLATE {ORIGIN}{oid}"))
    });
    if same_oid {
        arena.count("databases with the OID of a former one");
    }
    arena.replace(place, name.into());
}
