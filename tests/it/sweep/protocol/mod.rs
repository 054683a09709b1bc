//! The protocol of heartbeat, attach, sweep and return, checked in every order of its steps: two workers, two sweeps,
//! and a crash of the server at any point. It holds, and it does not without each of its safeguards.
//!
//! The steps are those of the heartbeat, the sweep, the flush and the table in memory in `src`. A change of their order
//! is made here first.

mod filling;
mod model;
mod sessions;
mod state;
mod sweeps;
mod workers;

use model::Protocol;
use stateright::{Checker, HasDiscoveries, Model};

const SETTLED: &str = "settled only when dead";
const ONCE: &str = "dead once";
const GROW: &str = "incarnations grow";
const WAIT: &str = "returns wait for the sweep";
const RULES: [&str; 4] = [SETTLED, ONCE, GROW, WAIT];

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

/// Without one of its safeguards, each of these rules is broken.
fn breaks(rules: &[&'static str], protocol: Protocol) {
    let wanted = HasDiscoveries::AllOf(rules.iter().copied().collect());
    let checker = protocol.checker().threads(2).finish_when(wanted).spawn_bfs().join();
    let found = checker.discoveries();
    for rule in rules {
        let steps = found.get(rule).unwrap_or_else(|| panic!("{rule}: not broken by {protocol:?}"));
        println!("{rule}: broken after {:?}", steps.clone().into_actions());
    }
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
fn a_worker_that_attaches_itself_again_and_again_keeps_the_rules_whenever_the_server_crashes() {
    holds(Protocol { workers: 1, sessions: 2, ..Protocol::COMPLETE });
}

/// One worker, whose sessions are lost; no threshold passes.
const ATTACHED: Protocol =
    Protocol { workers: 1, sessions: 2, thresholds: 0, crashes: 0, ..Protocol::COMPLETE };

#[test]
fn a_worker_that_loses_its_sessions_keeps_the_rules_in_life_after_life() {
    holds(Protocol { sessions: 4, ..ATTACHED });
}

#[test]
fn without_the_row_lock_a_lost_session_breaks_a_rule() {
    breaks(&[SETTLED, GROW], Protocol { row_lock: false, ..ATTACHED });
}

#[test]
fn without_the_second_look_a_worker_dies_that_is_back() {
    breaks(&[SETTLED], Protocol { second_look: false, ..ATTACHED });
}

#[test]
fn a_worker_that_is_not_taken_from_its_old_session_at_once_dies_of_its_end() {
    breaks(&[SETTLED], Protocol { release: false, ..ATTACHED });
}

#[test]
fn without_own_ties_a_worker_dies_of_the_end_of_an_old_session() {
    breaks(&[SETTLED], Protocol { own_ties: false, ..ATTACHED });
}

#[test]
fn without_the_row_lock_a_rule_is_broken() {
    breaks(&[SETTLED, GROW], Protocol { row_lock: false, ..Protocol::COMPLETE });
}

#[test]
fn without_the_second_look_into_memory_a_rule_is_broken() {
    breaks(&[SETTLED], Protocol { second_look: false, ..Protocol::COMPLETE });
}

#[test]
fn without_observation_that_starts_anew_a_crash_kills_who_was_heard() {
    breaks(&[SETTLED], Protocol { observation: false, ..Protocol::COMPLETE });
}

#[test]
fn without_a_mark_of_removals_a_rule_is_broken() {
    breaks(&[SETTLED, GROW], Protocol { marks: false, ..Protocol::COMPLETE });
}

/// One worker, whose entry is made from its row after a crash.
const FILLED: Protocol =
    Protocol { workers: 1, thresholds: 2, jobs: 1, registrations: 1, fills: true, ..Protocol::COMPLETE };

#[test]
fn a_worker_whose_memory_is_filled_after_a_crash_keeps_the_rules_in_life_after_life() {
    holds(FILLED);
}

#[test]
fn a_worker_that_attaches_itself_while_memory_is_filled_keeps_the_rules() {
    holds(Protocol { thresholds: 1, registrations: 0, sessions: 2, ..FILLED });
}

#[test]
fn an_entry_made_from_a_row_that_is_locked_breaks_a_rule() {
    breaks(&[GROW], Protocol { skips_locked: false, ..FILLED });
}

#[test]
fn an_entry_made_by_a_ledger_older_than_the_row_breaks_a_rule() {
    breaks(&[GROW], Protocol { reads_ledger_last: false, ..FILLED });
}

#[test]
fn an_entry_made_from_a_row_without_a_mark_of_removals_breaks_a_rule() {
    breaks(&[GROW], Protocol { marks_fills: false, ..FILLED });
}
