//! What becomes of a tie, event by event.

use super::*;

const ONE: Session = Session { number: 1, address: 4 };
const OTHER: Session = Session { number: 2, address: 5 };

fn attach(table: &Table<'_, StdLocks<'_>>, id: &str, session: Session, now: i64) -> u32 {
    table.attach(&key(id), session, 1, now).expect("the entry is open").0
}

fn lost(table: &Table<'_, StdLocks<'_>>) -> Vec<Disconnected> {
    table.disconnected(1)
}

/// A table with a worker that is tied since 5 and beats at 6.
fn with_tied(memory: &Memory) -> (Table<'_, StdLocks<'_>>, u32) {
    let table = memory.table();
    add(&table, &key("a"), 5);
    let slot = attach(&table, "a", ONE, 5);
    assert_eq!(table.beat(&key("a"), None, OWNER, 6), Some(1));
    (table, slot)
}

#[test]
fn a_tie_takes_sixteen_bytes() {
    assert_eq!(size_of::<Tie>(), 16);
}

#[test]
fn a_worker_is_tied_to_the_newest_session() {
    let memory = Memory::new(10);
    let (table, _) = with_tied(&memory);
    assert!(table.is_tied_to(&key("a"), ONE.number));
    attach(&table, "a", OTHER, 7);
    assert!(!table.is_tied_to(&key("a"), ONE.number));
    let state = TieState::Tied { session: OTHER, since: 7, came_back: false };
    assert_eq!(table.tie_state(&key("a")), Some((state, 6)));
    assert_eq!(table.tied_workers(), HashMap::from([(1, 1)]));
}

#[test]
fn a_session_that_is_attached_again_keeps_its_beginning() {
    let memory = Memory::new(10);
    let (table, _) = with_tied(&memory);
    attach(&table, "a", ONE, 9);
    assert_eq!(table.tied_sessions(1)[0].since, 5);
}

#[test]
fn a_worker_whose_session_was_lost_is_disconnected_until_it_is_heard() {
    let memory = Memory::new(10);
    let (table, slot) = with_tied(&memory);
    assert_eq!(table.end_session([slot].into_iter(), ONE.number, Some(8)), 1);
    let found = &lost(&table)[0];
    assert_eq!((found.key, found.session, found.at, found.host), (key("a"), ONE, 8, HOST));
    assert!(!found.is_heard && table.is_still(found) && table.tied_sessions(1).is_empty());
    table.beat(&key("a"), None, OWNER, 8);
    assert!(!lost(&table)[0].is_heard, "not later than the end");
    table.beat(&key("a"), None, OWNER, 9);
    assert!(lost(&table)[0].is_heard && !table.is_still(found));
    assert!(!table.close_disconnected(found));
    assert_eq!(table.beat(&key("a"), None, OWNER, 10), Some(1));
}

#[test]
fn the_entry_of_a_disconnected_worker_can_be_closed_and_keeps_what_it_knows() {
    let memory = Memory::new(1);
    let (table, slot) = with_tied(&memory);
    table.end_session([slot].into_iter(), ONE.number, Some(8));
    let found = &lost(&table)[0];
    let generation = table.generation(&key("a"));
    assert!(table.close_disconnected(found));
    assert_ne!(table.generation(&key("a")), generation, "an entry that was being added stays out");
    assert_eq!((table.beat(&key("a"), None, OWNER, 9), table.beat_at(&key("a"))), (None, Some(6)));
    assert!(table.is_still(found) && table.close_disconnected(found), "it was rolled back");
    table.untie_lost(found);
    assert_eq!((table.beat_at(&key("a")), table.tie_state(&key("a"))), (Some(6), None));
    assert!(!table.close_disconnected(found));
    table.remove(&key("a"));
    add(&table, &key("b"), 9);
    assert_eq!(table.tie_state(&key("b")), None, "the slot does not remember the tie before");
}

#[test]
fn a_worker_that_has_returned_and_lost_another_session_meanwhile_stays_disconnected() {
    let memory = Memory::new(1);
    let (table, slot) = with_tied(&memory);
    table.end_session([slot].into_iter(), ONE.number, Some(8));
    let found = &lost(&table)[0];
    assert!(table.close_disconnected(found));
    table.add(&key("a"), Entry { incarnation: 2, ..entry(9) }, table.generation(&key("a")));
    table.attach(&key("a"), OTHER, 2, 9);
    table.end_session([slot].into_iter(), OTHER.number, Some(10));
    table.untie_lost(found);
    assert_eq!(lost(&table)[0].session, OTHER);
}

#[test]
fn a_call_in_another_session_takes_the_worker_from_the_one_before() {
    let memory = Memory::new(10);
    let (table, slot) = with_tied(&memory);
    table.release(&key("a"), ONE.number);
    assert!(table.is_tied_to(&key("a"), ONE.number), "its own");
    table.release(&key("a"), OTHER.number);
    assert_eq!(table.end_session([slot].into_iter(), ONE.number, Some(8)), 0);
    assert_eq!(table.tie_state(&key("a")), None);
}

#[test]
fn the_end_of_an_older_session_is_nothing() {
    let memory = Memory::new(10);
    let (table, slot) = with_tied(&memory);
    attach(&table, "a", OTHER, 7);
    assert_eq!(table.end_session([slot].into_iter(), ONE.number, Some(8)), 0);
    assert!(lost(&table).is_empty());
}

#[test]
fn a_session_that_ends_otherwise_unties() {
    let memory = Memory::new(10);
    let (table, slot) = with_tied(&memory);
    assert_eq!(table.end_session([slot].into_iter(), ONE.number, None), 1);
    assert_eq!(table.tie_state(&key("a")), None);
}

#[test]
fn a_worker_that_is_back_is_not_taken_for_the_one_that_was_lost() {
    let memory = Memory::new(10);
    let (table, slot) = with_tied(&memory);
    table.end_session([slot].into_iter(), ONE.number, Some(8));
    let found = &lost(&table)[0];
    assert_eq!(table.attach(&key("a"), OTHER, 1, 9), Some((slot, true)), "it came back");
    assert!(!table.close_disconnected(found));
    assert!(table.tied_sessions(1)[0].came_back);
    table.end_session([slot].into_iter(), OTHER.number, Some(10));
    assert!(!table.close_disconnected(found), "lost once more, later");
    assert!(table.close_disconnected(&lost(&table)[0]));
}

#[test]
fn a_spared_worker_is_judged_by_silence_until_it_is_attached_again() {
    let memory = Memory::new(10);
    let (table, slot) = with_tied(&memory);
    table.end_session([slot].into_iter(), ONE.number, Some(8));
    table.spare(&lost(&table)[0]);
    assert!(lost(&table)[0].is_spared);
    attach(&table, "a", OTHER, 9);
    table.end_session([slot].into_iter(), OTHER.number, Some(10));
    assert!(!lost(&table)[0].is_spared);
}

#[test]
fn a_worker_that_is_unknown_or_of_another_incarnation_is_not_tied() {
    let memory = Memory::new(10);
    let table = memory.table();
    assert_eq!(table.attach(&key("a"), ONE, 1, 5), None);
    add(&table, &key("a"), 5);
    assert_eq!(table.attach(&key("a"), ONE, 2, 5), None);
    table.close(&key("a"));
    assert_eq!(table.attach(&key("a"), ONE, 1, 5), None);
}

#[test]
fn a_detached_worker_is_not_tied() {
    let memory = Memory::new(10);
    let (table, slot) = with_tied(&memory);
    table.untie(&key("a"));
    table.untie(&key("unknown"));
    assert_eq!(table.end_session([slot].into_iter(), ONE.number, Some(8)), 0);
    assert!(lost(&table).is_empty());
}

#[test]
fn one_session_may_have_many_workers_and_each_database_sees_its_own() {
    let memory = Memory::new(100);
    let table = memory.table();
    let slots: Vec<u32> = (0..50)
        .map(|number| {
            let key = Key::new(1 + number % 2, &number.to_string()).unwrap();
            add(&table, &key, 5);
            table.attach(&key, ONE, 1, 5).unwrap().0
        })
        .collect();
    assert_eq!((table.tied_sessions(1).len(), table.tied_sessions(2).len()), (25, 25));
    assert_eq!(table.end_session(slots.into_iter(), ONE.number, Some(8)), 50);
    assert_eq!((table.disconnected(1).len(), table.disconnected(3).len()), (25, 0));
}

#[test]
fn numbers_of_sessions_are_never_zero() {
    let memory = Memory::new(1);
    memory.header.sessions.store((1 << 30) - 2, Relaxed);
    let table = memory.table();
    let numbers: Vec<u32> = (0..3).map(|_| table.next_session()).collect();
    assert_eq!(numbers, [(1 << 30) - 1, 1, 2]);
}
