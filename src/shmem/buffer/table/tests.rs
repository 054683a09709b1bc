//! The table without a server: one file, because all of it needs the same memory and locks.

use std::collections::{HashMap, HashSet};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::*;

mod filling;
mod ties;

/// Memory for a table of the given size, and locks of the standard library.
struct Memory {
    header: Header,
    buckets: Vec<AtomicU32>,
    slots: Vec<Slot>,
    tails: Vec<Tail>,
    ties: Vec<Tie>,
    locks: Vec<RwLock<()>>,
}

struct StdLocks<'a>(&'a [RwLock<()>]);

#[allow(dead_code, reason = "held, not read")]
enum Guard<'a> {
    Shared(RwLockReadGuard<'a, ()>),
    Exclusive(RwLockWriteGuard<'a, ()>),
}

impl<'a> Locks for StdLocks<'a> {
    type Guard = Guard<'a>;
    fn shared(&self, partition: Partition) -> Guard<'a> {
        Guard::Shared(self.0[partition.number()].read().unwrap())
    }
    fn exclusive(&self, partition: Partition) -> Guard<'a> {
        Guard::Exclusive(self.0[partition.number()].write().unwrap())
    }
    fn free_list(&self) -> Guard<'a> {
        Guard::Exclusive(self.0[PARTITIONS].write().unwrap())
    }
}

impl Memory {
    fn new(slots: usize) -> Self {
        Self {
            header: Header {
                seed: AtomicU64::new(0x0123_4567_89ab_cdef),
                high_water: AtomicU32::new(0),
                free: AtomicU32::new(0),
                generations: std::array::from_fn(|_| AtomicU64::new(0)),
                refused: AtomicU64::new(0),
                sessions: AtomicU32::new(0),
            },
            buckets: (0..buckets_for(slots)).map(|_| AtomicU32::new(0)).collect(),
            slots: (0..slots).map(|_| Slot::default()).collect(),
            tails: (0..slots).map(|_| Tail::default()).collect(),
            ties: (0..slots).map(|_| Tie::default()).collect(),
            locks: (0..=PARTITIONS).map(|_| RwLock::new(())).collect(),
        }
    }

    fn table(&self) -> Table<'_, StdLocks<'_>> {
        let apart = (self.tails.as_slice(), self.ties.as_slice());
        Table::new(&self.header, &self.buckets, &self.slots, apart, StdLocks(&self.locks))
    }
}

const HOST: u32 = 7;
const OWNER: u32 = 16_384;

/// As many steps as a test takes; Miri, which checks each of them, gets fewer.
fn steps(count: usize) -> usize {
    if cfg!(miri) { count / 1_000 } else { count }
}

fn key(id: &str) -> Key {
    Key::new(1, id).unwrap()
}

fn entry(beat_at: i64) -> Entry {
    Entry { beat_at, incarnation: 1, hostname: HOST, owner: OWNER }
}

fn unwritten(table: &Table<'_, StdLocks<'_>>, database: u32) -> Vec<(Key, i64)> {
    table.unwritten(database).map(|heartbeat| (heartbeat.key, heartbeat.beat_at)).collect()
}

fn add(table: &Table<'_, StdLocks<'_>>, key: &Key, beat_at: i64) {
    table.add(key, entry(beat_at), table.generation(key));
}

#[test]
fn an_entry_takes_less_than_250_bytes_with_its_bucket() {
    assert_eq!((size_of::<Slot>(), size_of::<Tail>()), (64, 48));
    assert!(size_of::<Slot>() + size_of::<Tail>() + 2 * size_of::<AtomicU32>() <= 250);
}

#[test]
fn a_heartbeat_of_an_unknown_worker_is_not_taken() {
    let memory = Memory::new(10);
    assert_eq!(memory.table().beat(&key("a"), None, OWNER, 5), None);
    assert_eq!(memory.table().beat_at(&key("a")), None);
}

#[test]
fn a_heartbeat_of_a_known_worker_returns_its_incarnation() {
    let memory = Memory::new(10);
    let table = memory.table();
    table.add(&key("a"), Entry { incarnation: 3, ..entry(5) }, table.generation(&key("a")));
    assert_eq!(table.beat(&key("a"), None, OWNER, 6), Some(3));
    assert_eq!(table.beat(&key("a"), Some(HOST), OWNER, 7), Some(3));
    assert_eq!(table.beat_at(&key("a")), Some(7));
}

#[test]
fn a_heartbeat_ahead_of_the_clock_is_clamped_and_others_are_not() {
    let memory = Memory::new(10);
    let table = memory.table();
    add(&table, &key("ahead"), 900);
    add(&table, &key("late"), 5);
    for worker in ["ahead", "late", "unknown"] {
        table.clamp(&key(worker), 100, 99);
    }
    assert_eq!(table.beat_at(&key("ahead")), Some(99));
    assert_eq!(table.beat_at(&key("late")), Some(5));
    assert!(table.remove_silent(&key("ahead"), 100), "it can be given up");
}

#[test]
fn another_hostname_goes_to_the_row() {
    let memory = Memory::new(10);
    add(&memory.table(), &key("a"), 5);
    assert_eq!(memory.table().beat(&key("a"), Some(HOST + 1), OWNER, 6), None);
    assert_eq!(memory.table().beat_at(&key("a")), Some(5));
}

#[test]
fn a_heartbeat_of_another_role_goes_to_the_row() {
    let memory = Memory::new(10);
    let table = memory.table();
    add(&table, &key("a"), 5);
    assert_eq!(table.beat(&key("a"), Some(HOST), OWNER + 1, 6), None);
    assert_eq!(table.beat_at(&key("a")), Some(5));
    table.add(&key("a"), Entry { owner: OWNER + 1, ..entry(8) }, table.generation(&key("a")));
    assert_eq!(table.beat(&key("a"), None, OWNER, 9), None, "the id was handed over");
    assert_eq!(table.beat(&key("a"), None, OWNER + 1, 9), Some(1));
}

#[test]
fn an_id_without_an_owner_is_everybodys() {
    let memory = Memory::new(10);
    let table = memory.table();
    table.add(&key("a"), Entry { owner: ANY_ROLE, ..entry(5) }, table.generation(&key("a")));
    assert_eq!(table.owner(&key("a")), None);
    for (caller, now) in [(OWNER, 6), (OWNER + 1, 7)] {
        assert_eq!(table.beat(&key("a"), None, caller, now), Some(1));
    }
}

#[test]
fn the_owner_is_known_while_the_entry_is_open() {
    let memory = Memory::new(1);
    let table = memory.table();
    assert_eq!(table.owner(&key("a")), None);
    add(&table, &key("a"), 5);
    assert_eq!(table.owner(&key("a")), Some(OWNER));
    table.close(&key("a"));
    assert_eq!(table.owner(&key("a")), None);
    table.remove(&key("a"));
    table.add(&key("b"), Entry { owner: OWNER + 1, ..entry(6) }, table.generation(&key("b")));
    assert_eq!(table.owner(&key("b")), Some(OWNER + 1), "the slot does not remember the owner before");
}

#[test]
fn ids_of_64_bytes_fit_and_longer_ones_do_not() {
    let longest = "ä".repeat(32);
    assert_eq!(Key::new(1, &longest).unwrap().id(), longest);
    assert!(Key::new(1, &format!("{longest}x")).is_none());
    assert_eq!(key("a").id(), "a");
}

#[test]
fn ids_that_begin_alike_are_told_apart_wherever_they_end() {
    let memory = Memory::new(200);
    let table = memory.table();
    let ids: Vec<String> = (1..=ID_LENGTH).map(|length| "x".repeat(length)).collect();
    for (id, beat_at) in ids.iter().zip(1..) {
        add(&table, &key(id), beat_at);
        // Whatever was in the tail of this slot before.
        table.remove(&key(id));
        add(&table, &key(&id.replace('x', "y")), 0);
        add(&table, &key(id), beat_at);
    }
    for (id, beat_at) in ids.iter().zip(1..) {
        assert_eq!((key(id).id(), table.beat_at(&key(id))), (id.clone(), Some(beat_at)));
    }
}

#[test]
fn an_id_is_found_among_others_with_the_same_hash() {
    let memory = Memory::new(100);
    // The hash of this seed mixes nothing: the words' order makes no difference to it.
    memory.header.set_seed(1);
    let table = memory.table();
    let ids = ["01234567abcdefgh", "abcdefgh01234567"].map(|id| format!("alike 16 bytes: {id}"));
    assert_eq!(table.hash(&key(&ids[0])), table.hash(&key(&ids[1])));
    add(&table, &key(&ids[0]), 5);
    assert_eq!(table.beat_at(&key(&ids[1])), None);
    add(&table, &key(&ids[1]), 6);
    assert_eq!(ids.map(|id| table.beat_at(&key(&id))), [Some(5), Some(6)]);
}

#[test]
fn chains_are_short_whatever_ids_look_like() {
    let memory = Memory::new(4_096);
    let table = memory.table();
    let shapes: [fn(usize) -> String; 4] = [
        |n| format!("{}", 100_000_000_000_000 + n),
        |n| format!("worker-{n:08x}"),
        |n| format!("{n:08x}-some-name-that-is-the-same-in-every-id-of-this-fleet"),
        |n| "abcdefgh".repeat(n % 8) + &n.to_string(),
    ];
    for shape in shapes {
        let mut buckets = vec![0; 4_096];
        (0..steps(4_096)).for_each(|n| buckets[table.hash(&key(&shape(n))) as usize % 4_096] += 1);
        // By chance alone, 7 or 8 are the most.
        assert!(buckets.iter().max() < Some(&12), "{}", shape(0));
    }
}

#[test]
fn a_flush_records_nothing_for_the_worker_that_has_the_slot_now() {
    let memory = Memory::new(2);
    let table = memory.table();
    add(&table, &key("a"), 5);
    table.beat(&key("a"), None, OWNER, 6);
    let flushed: Vec<_> = table.unwritten(1).collect();
    table.remove(&key("a"));
    add(&table, &key("b"), 1);
    add(&table, &key("a"), 2);
    table.beat(&key("a"), None, OWNER, 6);
    table.beat(&key("b"), None, OWNER, 6);
    flushed.iter().for_each(|heartbeat| table.written(heartbeat));
    assert_eq!(unwritten(&table, 1), [(key("b"), 6)]);
}

#[test]
fn the_same_id_in_two_databases_is_two_workers() {
    let memory = Memory::new(10);
    let table = memory.table();
    let other = Key::new(2, "a").unwrap();
    add(&table, &key("a"), 5);
    assert_eq!(table.beat(&other, None, OWNER, 6), None);
    add(&table, &other, 8);
    assert_eq!((table.beat_at(&key("a")), table.beat_at(&other)), (Some(5), Some(8)));
}

#[test]
fn what_a_first_heartbeat_wrote_needs_no_flush_and_what_came_later_does() {
    let memory = Memory::new(10);
    let table = memory.table();
    add(&table, &key("a"), 5);
    assert!(unwritten(&table, 1).is_empty());
    assert!(table.unwritten_databases().is_empty());
    table.beat(&key("a"), None, OWNER, 6);
    assert_eq!(unwritten(&table, 1), [(key("a"), 6)]);
    assert_eq!(table.unwritten_databases(), [1]);
    assert!(unwritten(&table, 2).is_empty());
    table.unwritten(1).for_each(|heartbeat| table.written(&heartbeat));
    assert!(unwritten(&table, 1).is_empty());
}

#[test]
fn a_heartbeat_during_a_flush_is_flushed_by_the_next_one() {
    let memory = Memory::new(10);
    let table = memory.table();
    add(&table, &key("a"), 5);
    table.beat(&key("a"), None, OWNER, 6);
    let flushed: Vec<_> = table.unwritten(1).collect();
    table.beat(&key("a"), None, OWNER, 7);
    flushed.iter().for_each(|heartbeat| table.written(heartbeat));
    assert_eq!(unwritten(&table, 1), [(key("a"), 7)]);
}

#[test]
fn a_worker_with_a_heartbeat_since_the_cutoff_stays() {
    let memory = Memory::new(10);
    let table = memory.table();
    add(&table, &key("a"), 5);
    assert!(!table.remove_silent(&key("a"), 5));
    assert_eq!(table.beat(&key("a"), None, OWNER, 6), Some(1));
    assert!(table.remove_silent(&key("a"), 7));
    assert_eq!(table.beat(&key("a"), None, OWNER, 8), None);
    assert!(table.remove_silent(&key("never there"), 7));
}

#[test]
fn a_closed_entry_sends_heartbeats_to_the_row_and_remembers_the_last_one() {
    let memory = Memory::new(10);
    let table = memory.table();
    add(&table, &key("a"), 5);
    table.beat(&key("a"), None, OWNER, 6);
    let before = table.generation(&key("a"));
    table.close(&key("a"));
    assert_eq!((table.beat(&key("a"), None, OWNER, 7), table.beat_at(&key("a"))), (None, Some(6)));
    assert_eq!(unwritten(&table, 1), [(key("a"), 6)]);
    table.add(&key("a"), entry(8), before);
    assert_eq!(table.beat(&key("a"), None, OWNER, 9), None);
    add(&table, &key("a"), 8);
    assert_eq!(table.beat(&key("a"), None, OWNER, 9), Some(1));
}

#[test]
fn an_entry_is_not_added_when_one_was_removed_since_its_row_was_read() {
    let memory = Memory::new(10);
    let table = memory.table();
    let before = table.generation(&key("a"));
    table.remove_silent(&key("a"), 7);
    table.add(&key("a"), entry(5), before);
    assert_eq!(table.beat(&key("a"), None, OWNER, 8), None);
}

#[test]
fn a_heartbeat_is_not_taken_back_by_an_older_transaction_that_commits_after_it() {
    let memory = Memory::new(10);
    let table = memory.table();
    add(&table, &key("a"), 5);
    let generation = table.generation(&key("a"));
    table.beat(&key("a"), None, OWNER, 9);
    table.add(&key("a"), entry(7), generation);
    assert_eq!(table.beat_at(&key("a")), Some(9));
    assert_eq!(unwritten(&table, 1), [(key("a"), 9)]);
}

#[test]
fn a_slot_does_not_remember_its_previous_worker() {
    let memory = Memory::new(1);
    let table = memory.table();
    add(&table, &key("a"), 9);
    table.remove(&key("a"));
    add(&table, &key("b"), 5);
    assert_eq!(table.beat_at(&key("b")), Some(5));
}

#[test]
fn the_silent_are_forgotten_unless_something_is_left_to_write() {
    let memory = Memory::new(10);
    let table = memory.table();
    for id in ["silent", "unwritten", "alive"] {
        add(&table, &key(id), 5);
    }
    table.beat(&key("unwritten"), None, OWNER, 6);
    table.beat(&key("alive"), None, OWNER, 7);
    table.forget_silent(2, 7);
    assert_eq!(table.beat_at(&key("silent")), Some(5));
    table.forget_silent(1, 7);
    let left = ["silent", "unwritten", "alive"].map(|id| table.beat_at(&key(id)));
    assert_eq!(left, [None, Some(6), Some(7)]);
}

#[test]
fn the_silence_of_workers_with_a_heartbeat_since_a_look_is_returned() {
    let memory = Memory::new(10);
    let table = memory.table();
    for id in ["heard since", "heard before", "silent", "new"] {
        add(&table, &key(id), 10);
    }
    add(&table, &Key::new(2, "elsewhere").unwrap(), 10);
    table.beat(&key("heard since"), None, OWNER, 60);
    table.beat(&key("heard before"), None, OWNER, 40);
    table.remove(&key("new"));
    add(&table, &key("new"), 70);
    table.beat(&key("new"), None, OWNER, 80);
    table.beat(&Key::new(2, "elsewhere").unwrap(), None, OWNER, 60);
    assert_eq!(table.silences(1, 0, 50, 10), [40], "it had been silent from 10 until the look at 50");
    assert!(table.silences(1, 10, 50, 10).is_empty(), "what was before the server could hear is no silence");
    assert_eq!(table.entries(), HashMap::from([(1, 4), (2, 1)]));
    table.remove(&key("silent"));
    assert_eq!(table.entries()[&1], 3);
}

#[test]
fn a_full_table_refuses_and_counts_until_a_slot_is_free() {
    let memory = Memory::new(2);
    let table = memory.table();
    for id in ["a", "b", "c"] {
        add(&table, &key(id), 5);
    }
    assert_eq!((table.beat_at(&key("c")), table.refused()), (None, 1));
    table.remove(&key("a"));
    add(&table, &key("c"), 6);
    assert_eq!((table.beat_at(&key("a")), table.beat_at(&key("c"))), (None, Some(6)));
    assert_eq!(table.beat_at(&key("b")), Some(5));
}

#[test]
fn a_table_without_slots_refuses_every_worker() {
    let memory = Memory::new(0);
    add(&memory.table(), &key("a"), 5);
    assert_eq!((memory.table().beat_at(&key("a")), memory.table().refused()), (None, 1));
}

#[test]
fn entries_of_databases_that_are_gone_go() {
    let memory = Memory::new(10);
    let table = memory.table();
    add(&table, &key("a"), 5);
    add(&table, &Key::new(2, "a").unwrap(), 5);
    table.retain(|database| database == 2);
    assert_eq!(table.beat_at(&key("a")), None);
    assert_eq!(table.beat_at(&Key::new(2, "a").unwrap()), Some(5));
}

/// A stream of numbers that looks random and is the same each time.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(seed), |n| {
        Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    })
    .map(|n| n >> 33)
}

#[test]
fn it_agrees_with_a_map_over_any_sequence_of_calls() {
    let memory = Memory::new(300);
    let table = memory.table();
    let mut expected: HashMap<Key, i64> = HashMap::new();
    for (now, number) in (0..).zip(numbers(42).take(steps(100_000))) {
        let key = key(&format!("worker-{}", number % 500));
        match number / 500 % 4 {
            0 => {
                add(&table, &key, now);
                if expected.contains_key(&key) || expected.len() < 300 {
                    expected.insert(key, now);
                }
            }
            1 => {
                table.remove(&key);
                expected.remove(&key);
            }
            _ => {
                let heard = table.beat(&key, None, OWNER, now).is_some();
                assert_eq!(heard, expected.contains_key(&key));
                expected.entry(key).and_modify(|beat_at| *beat_at = now);
            }
        }
        assert_eq!(table.beat_at(&key), expected.get(&key).copied());
    }
    assert!(expected.iter().all(|(key, beat_at)| table.beat_at(key) == Some(*beat_at)));
}

#[test]
fn no_heartbeat_is_lost_when_workers_of_many_threads_come_and_go() {
    let memory = Memory::new(64);
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let table = memory.table();
            scope.spawn(move || {
                for (now, number) in (1..).zip(numbers(u64::from(thread)).take(steps(20_000))) {
                    // Each thread has workers of its own, so it knows what must be there.
                    let key = Key::new(1, &format!("{thread}-{}", number % 10)).unwrap();
                    match number / 10 % 8 {
                        0 => table.remove(&key),
                        _ if table.beat(&key, None, OWNER, now).is_none() => {
                            // Other threads remove entries from the same partition: then it is not added.
                            add(&table, &key, now);
                        }
                        _ => assert_eq!(table.beat_at(&key), Some(now)),
                    }
                    assert!(table.unwritten(1).count() <= 64);
                }
            });
        }
    });
    let table = memory.table();
    let found: Vec<Key> = unwritten(&table, 1).into_iter().map(|(key, _)| key).collect();
    assert_eq!(found.iter().collect::<HashSet<_>>().len(), found.len());
    table.retain(|_| false);
    assert!(table.unwritten_databases().is_empty());
    assert_eq!(table.refused(), 0);
}
