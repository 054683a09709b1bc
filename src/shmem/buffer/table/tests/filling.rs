//! Entries made from rows.

use super::*;

#[test]
fn an_entry_made_from_a_row_takes_heartbeats_and_has_nothing_to_write() {
    let memory = Memory::new(2);
    let table = memory.table();
    let generations = table.generations();
    assert_eq!(table.fill(&key("a"), &entry(5), &generations), Filled::Added);
    assert_eq!(table.unwritten(1).count(), 0);
    assert_eq!(table.beat(&key("a"), Some(HOST), OWNER, 9), Some(1));
    assert_eq!(table.unwritten(1).count(), 1);
    assert_eq!(table.fill(&key("b"), &entry(5), &generations), Filled::Added);
    assert_eq!(table.fill(&key("c"), &entry(5), &generations), Filled::NoRoom);
}

#[test]
fn where_rows_have_no_hostname_the_first_that_is_named_is_kept() {
    let memory = Memory::new(2);
    let table = memory.table();
    table.fill(&key("a"), &Entry { hostname: ANY_HOST, ..entry(5) }, &table.generations());
    assert_eq!(table.beat(&key("a"), None, OWNER, 6), Some(1));
    assert_eq!(table.beat(&key("a"), Some(HOST), OWNER, 7), Some(1));
    assert_eq!(table.beat(&key("a"), Some(HOST + 1), OWNER, 8), None);
    assert_eq!(table.beat(&key("a"), Some(HOST), OWNER, 9), Some(1));
}

#[test]
fn what_memory_knows_is_newer_than_a_row() {
    let memory = Memory::new(2);
    let table = memory.table();
    let generations = table.generations();
    add(&table, &key("open"), 7);
    assert_eq!(table.fill(&key("open"), &Entry { incarnation: 9, ..entry(5) }, &generations), Filled::Left);
    assert_eq!(table.beat(&key("open"), None, OWNER, 8), Some(1));
    add(&table, &key("closed"), 7);
    table.close(&key("closed"));
    assert_eq!(table.fill(&key("closed"), &entry(5), &table.generations()), Filled::Left);
    assert_eq!(table.beat(&key("closed"), None, OWNER, 8), None);
}

#[test]
fn a_worker_given_up_since_its_row_was_read_gets_no_entry() {
    let memory = Memory::new(9);
    let table = memory.table();
    let ends: [fn(&Table<'_, StdLocks<'_>>, &Key); 3] = [
        |table, key| table.close(key),
        |table, key| table.remove(key),
        |table, key| assert!(table.remove_silent(key, 9)),
    ];
    for end in ends {
        let generations = table.generations();
        end(&table, &key("a"));
        assert_eq!(table.fill(&key("a"), &entry(5), &generations), Filled::Left);
        assert_eq!(table.beat(&key("a"), None, OWNER, 8), None);
    }
}
