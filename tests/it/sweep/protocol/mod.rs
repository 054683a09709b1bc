//! The protocol of heartbeat, sweep and return, checked in every order of its steps: two workers, two sweeps, and a
//! crash of the server at any point. It holds, and it does not without each of its safeguards.
//!
//! The steps are those of the heartbeat, the sweep, the flush and the table in memory in `src`. A change of their order
//! is made here first.

mod model;
mod state;
mod sweeps;
mod workers;

use model::Protocol;
use stateright::{Checker, HasDiscoveries, Model};

const RULES: [&str; 4] =
    ["settled only when dead", "dead once", "incarnations grow", "returns wait for the sweep"];

/// Goes through all states; every rule holds, and nothing that should happen never does.
fn holds(protocol: Protocol) {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{protocol:?}: {} states", checker.unique_state_count());
    let found = checker.discoveries();
    let broken: Vec<_> = RULES.into_iter().filter(|rule| found.contains_key(rule)).collect();
    assert!(broken.is_empty(), "{broken:?}: {:?}", found[broken[0]].clone().into_actions());
    for event in protocol.must_happen() {
        assert!(found.contains_key(event), "never seen: {event}");
    }
}

/// The rule that is broken first.
fn is_broken_without(protocol: Protocol) -> Vec<&'static str> {
    let checker = protocol.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    let broken: Vec<_> = RULES.into_iter().filter(|rule| found.contains_key(rule)).collect();
    for rule in &broken {
        let steps = found[rule].clone().into_actions();
        println!("{rule}: broken after {steps:?}");
    }
    broken
}

#[test]
fn two_workers_and_two_sweeps_keep_the_rules_whenever_the_server_crashes() {
    holds(Protocol { jobs: 2, ..Protocol::COMPLETE });
}

#[test]
fn a_worker_and_two_sweeps_keep_the_rules_in_life_after_life() {
    holds(Protocol { workers: 1, thresholds: 3, jobs: 2, ..Protocol::COMPLETE });
}

#[test]
fn a_second_registration_keeps_the_rules_whenever_the_server_crashes() {
    holds(Protocol { workers: 1, thresholds: 2, jobs: 2, registrations: 2, ..Protocol::COMPLETE });
}

#[test]
fn without_the_row_lock_a_rule_is_broken() {
    assert!(!is_broken_without(Protocol { row_lock: false, ..Protocol::COMPLETE }).is_empty());
}

#[test]
fn without_the_second_look_into_memory_a_rule_is_broken() {
    assert!(!is_broken_without(Protocol { second_look: false, ..Protocol::COMPLETE }).is_empty());
}

#[test]
fn without_observation_that_starts_anew_a_crash_kills_who_was_heard() {
    assert!(!is_broken_without(Protocol { observation: false, ..Protocol::COMPLETE }).is_empty());
}

#[test]
fn without_a_mark_of_removals_a_rule_is_broken() {
    assert!(!is_broken_without(Protocol { marks: false, ..Protocol::COMPLETE }).is_empty());
}
