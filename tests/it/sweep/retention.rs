//! Old deaths go, and with them dead workers, but nothing that a job or an incarnation still needs.

use crate::cluster::*;
use postgres::Client;
use std::time::Duration;

/// Deaths are old after a second.
fn server() -> Shared {
    Shared::of(forgetful)
}

fn forgetful() -> Builder {
    Cluster::quick()
        .setting("rgrid_heartbeat.stale_threshold", "3s")
        .setting("rgrid_heartbeat.retention", "1s")
}

fn has_row(client: &mut Client, worker: &str) -> bool {
    ask(client, "SELECT EXISTS (SELECT FROM worker_heartbeats WHERE worker_id = $1)", &[&worker])
}

/// Returns when nothing is left of a worker.
fn await_pruning(client: &mut Client, worker: &str) {
    wait_until(&format!("{worker} to be pruned"), || deaths(client, worker) == 0 && !has_row(client, worker));
}

/// Lets a worker die and be forgotten: proof that old rows have been looked for since the call.
fn forget_somebody(client: &mut Client, worker: &str) {
    silent_worker(client, worker);
    await_pruning(client, worker);
}

#[test]
fn a_dead_worker_is_forgotten_when_its_death_is_old_and_its_number_is_not() {
    let cluster = server();
    let database = cluster.database("forgets");
    let mut client = database.connect();
    claim_jobs(&mut client, "once", 2);
    assert_eq!(beat(&mut client, "once"), 1);
    age_row(&mut client, "once");
    wait_until("its death", || failed_jobs(&mut client, "once") == 2);
    assert_eq!(owner(&mut client, "once"), "postgres");
    await_pruning(&mut client, "once");
    assert_eq!(owner(&mut client, "once"), "nobody");
    assert_eq!(beat(&mut client, "once"), 2, "a process that was told 1 must notice");
    let pruned = "SELECT workers_pruned > 0 AND deaths_pruned > 0 FROM pg_stat_rgrid_heartbeat
                  WHERE datname = current_database()";
    assert!(ask::<bool>(&mut client, pruned, &[]));
}

#[test]
fn an_id_of_which_nothing_but_the_owner_is_known_is_free_in_the_end() {
    let cluster = server();
    let database = cluster.database("ownerless");
    let mut client = database.connect();
    let _beats = Beating::calling(database.connect(), "living");
    beat(&mut client, "deleted");
    run(&mut client, "DELETE FROM worker_heartbeats WHERE worker_id = 'deleted'");
    assert_eq!(owner(&mut client, "deleted"), "postgres", "it may be a dump that is being restored");
    wait_until("the id to be free", || owner(&mut client, "deleted") == "nobody");
    assert_eq!(owner(&mut client, "living"), "postgres");
}

#[test]
fn pruning_changes_no_other_number_even_after_a_crash() {
    let cluster = forgetful().start();
    let database = cluster.database("others");
    let mut client = database.connect();
    let mut beats = vec![Beating::through_crashes(&database, "steady")];
    assert_eq!(beat(&mut client, "steady"), 1);
    forget_somebody(&mut client, "gone");
    assert_eq!(slow_beat(&mut client, "steady", "another host"), 1);

    assert_eq!(beat(&mut client, "young"), 2, "it may have been here before");
    beats.push(Beating::through_crashes(&database, "young"));
    let registered: i64 = ask(&mut client, "SELECT incarnation FROM rgrid_register()", &[]);
    assert_eq!(registered, 2, "a new worker learns the number that its heartbeats will answer");
    twice_dead(&mut client, "gone");
    await_pruning(&mut client, "gone");
    assert_eq!(slow_beat(&mut client, "steady", "a third host"), 1);
    assert_eq!(slow_beat(&mut client, "young", "a third host"), 2);
    assert_eq!(beat(&mut client, "gone"), 4, "it was told 3");

    let process = pid(&mut client);
    cluster.crash_backend(process);
    let mut client = database.connect();
    assert_eq!((beat(&mut client, "steady"), beat(&mut client, "young")), (1, 2));
    drop(beats);
}

/// A worker that dies, comes back as number 3 and dies again.
fn twice_dead(client: &mut Client, worker: &str) {
    let is_dead =
        "SELECT EXISTS (SELECT FROM rgrid_worker_deaths WHERE worker_id = $1 AND returned_at IS NULL)";
    for incarnation in [2, 3] {
        assert_eq!(beat(client, worker), incarnation);
        wait_until("it to die", || ask(client, is_dead, &[&worker]));
    }
}

#[test]
fn numbers_of_workers_that_have_left_do_not_pile_up_and_are_not_given_again() {
    let cluster = server();
    let database = cluster.database("piles");
    let mut client = database.connect();
    let _beats = Beating::calling(database.connect(), "steady");
    run(&mut client, "INSERT INTO rgrid_incarnation_bases VALUES (7, 'elsewhere', now(), '3')");
    let number = beat(&mut client, "leaving");
    assert!(number > NEW_BASE, "{number}");
    let noted = "SELECT count(*) FROM rgrid_incarnations WHERE worker_id <> ''";
    assert_eq!(ask::<i64>(&mut client, noted, &[]), 1, "and none of the one that has the number 1");
    run(&mut client, "SELECT rgrid_deregister('leaving')");
    wait_until("the number to be forgotten", || ask::<i64>(&mut client, noted, &[]) == 0);
    assert!(beat(&mut client, "leaving") > number);
    assert_eq!(slow_beat(&mut client, "steady", "another host"), 1);
}

#[test]
fn a_worker_that_lives_keeps_its_last_death_and_no_other() {
    let cluster = server();
    let database = cluster.database("survivor");
    let mut client = database.connect();
    beat(&mut client, "cat");
    for incarnation in [2, 3] {
        sweep_away(&mut client, "cat");
        assert_eq!(beat(&mut client, "cat"), incarnation);
    }
    let _beats = Beating::calling(database.connect(), "cat");
    wait_until("the first death to be pruned", || deaths(&mut client, "cat") == 1);
    forget_somebody(&mut client, "gone");
    forget_somebody(&mut client, "gone-too");
    assert_eq!(ledger(&mut client, "cat"), ["2 stale 0 returned"]);
    assert_eq!(slow_beat(&mut client, "cat", "another host"), 3);
}

#[test]
fn a_dead_worker_whose_jobs_are_not_settled_stays() {
    let cluster = server();
    let database = cluster.database("unsettled");
    let mut client = database.connect();
    refuse_to_settle(&mut client);
    claim_jobs(&mut client, "owing", 1);
    silent_worker(&mut client, "owing");
    forget_somebody(&mut client, "gone");
    forget_somebody(&mut client, "gone-too");
    assert_eq!((deaths(&mut client, "owing"), has_row(&mut client, "owing")), (1, true));
    run(&mut client, "DROP TRIGGER refuse ON executions");
    await_pruning(&mut client, "owing");
    assert_eq!(failed_jobs(&mut client, "owing"), 1);
}

#[test]
fn a_locked_row_is_pruned_later() {
    let cluster = server();
    let database = cluster.database("rowlocks");
    let (mut client, mut other) = (database.connect(), database.connect());
    silent_worker(&mut client, "held");
    await_death(&mut client, "held");
    run(&mut other, "BEGIN; SELECT FROM worker_heartbeats WHERE worker_id = 'held' FOR UPDATE");
    forget_somebody(&mut client, "gone");
    forget_somebody(&mut client, "gone-too");
    assert_eq!((deaths(&mut client, "held"), has_row(&mut client, "held")), (1, true));
    run(&mut other, "ROLLBACK");
    await_pruning(&mut client, "held");
}

#[test]
fn no_worker_is_forgotten_while_another_is_told_its_number() {
    let cluster = server();
    let database = cluster.database("telling");
    let (mut client, mut other) = (database.connect(), database.connect());
    run(&mut other, "BEGIN");
    assert_eq!(beat(&mut other, "arriving"), 1);
    silent_worker(&mut client, "gone");
    await_death(&mut client, "gone");
    // From here on none dies: the heartbeat in the open transaction is soon older than the threshold, and after its end
    // a sweep might be faster than the next one.
    run(&mut client, "ALTER DATABASE telling SET rgrid_heartbeat.stale_threshold = '1h'");
    stays(Duration::from_secs(3), "the death stays in the ledger", || deaths(&mut client, "gone") == 1);
    run(&mut other, "COMMIT");
    let _beats = Beating::calling(database.connect(), "arriving");
    await_pruning(&mut client, "gone");
    assert_eq!(slow_beat(&mut client, "arriving", "another host"), 1, "it was told 1");
}

#[test]
fn an_adopted_table_is_only_pruned_when_its_database_asks_for_it() {
    let cluster = server();
    let database = cluster.rgrid_database("adopted");
    let mut client = database.connect();
    upsert_like_python(&mut client, "old", HOUR);
    await_death(&mut client, "old");
    // A death without a row needs no consent.
    upsert_like_python(&mut client, "deleted", HOUR);
    await_death(&mut client, "deleted");
    run(&mut client, "DELETE FROM workers WHERE worker_id = 'deleted'");
    await_pruning(&mut client, "deleted");
    assert_eq!((deaths(&mut client, "old"), has_row(&mut client, "old")), (1, true));
    run(&mut client, "ALTER DATABASE adopted SET rgrid_heartbeat.prune_adopted = on");
    await_pruning(&mut client, "old");
}

#[test]
fn a_database_that_keeps_deaths_for_ever_keeps_them() {
    let cluster = server();
    let (keeping, forgetting) = (cluster.database("keeps"), cluster.database("does_not"));
    let mut client = keeping.connect();
    run(&mut client, "ALTER DATABASE keeps SET rgrid_heartbeat.retention = -1");
    await_sweep(&mut client, "kept");
    forget_somebody(&mut forgetting.connect(), "gone");
    forget_somebody(&mut forgetting.connect(), "gone-too");
    await_sweep(&mut client, "witness");
    assert_eq!((deaths(&mut client, "kept"), has_row(&mut client, "kept")), (1, true));
}

#[test]
fn a_worker_that_outlived_a_pruning_and_died_later_is_told_a_higher_number() {
    let cluster = server();
    let database = cluster.database("outlived");
    let mut client = database.connect();
    let beats = Beating::calling(database.connect(), "later");
    wait_until("its first heartbeat", || has_row(&mut client, "later"));
    forget_somebody(&mut client, "gone");
    assert_eq!(slow_beat(&mut client, "later", "another host"), 1, "it is kept by name");
    drop(beats);
    await_death(&mut client, "later");
    await_pruning(&mut client, "later");
    assert_eq!(beat(&mut client, "later"), 2, "it was told 1 before its death");
}

#[test]
fn a_row_that_cannot_be_removed_keeps_no_other_back() {
    let cluster = server();
    let database = cluster.database("referenced");
    let mut client = database.connect();
    run(&mut client, "CREATE TABLE notes (worker_id text REFERENCES worker_heartbeats)");
    for worker in ["a-free", "m-held", "z-free"] {
        silent_worker(&mut client, worker);
    }
    run(&mut client, "INSERT INTO notes VALUES ('m-held')");
    await_pruning(&mut client, "a-free");
    await_pruning(&mut client, "z-free");
    assert!(has_row(&mut client, "m-held"));
    assert_eq!(deaths(&mut client, "m-held"), 1);
}
