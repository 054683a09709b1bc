//! An agent that is killed while its server lives on: without its lease there are two primaries, until it is started
//! again. HAProxy knows only one of them at a time.

use super::*;

#[test]
fn a_worker_that_stays_with_the_old_primary_is_given_up_and_those_behind_haproxy_are_not() {
    // Longer than the `ttl` and the way to the new primary: the old one hears nobody behind HAProxy meanwhile.
    let mut patroni = started_with("1min");
    let mut client = patroni.primary();
    let _moved = Beating::reconnecting(config(&patroni.through_haproxy()), "moved");
    let _stray = Beating::reconnecting(config(&patroni.of_all_nodes()), "stray");
    for worker in ["moved", "stray"] {
        claim_jobs(&mut client, worker, 1);
    }
    patroni.await_replay();

    patroni.kill_agent(0);
    let next = patroni.await_other_primary(0);
    let mut client = patroni.node(next);
    await_heartbeat(&mut client, "moved");
    set_threshold(&patroni, "5s");
    await_death(&mut client, "stray");
    assert_eq!(dead(&mut client), ["stray"]);
    assert_eq!(beat(&mut patroni.node(0), "stray"), 1, "on the old primary it is alive");

    patroni.start_agent(0);
    patroni.await_followers();
    wait_until("the stray worker to come back", || ledger(&mut client, "stray") == ["1 stale 1 returned"]);
    assert_eq!(beat(&mut client, "moved"), 1);
    assert!(beat(&mut client, "stray") > 1);
    assert_eq!(dead(&mut client), ["stray"]);
    assert_eq!((jobs(&mut client, "moved", "running"), jobs(&mut client, "stray", "failed")), (1, 1));
}

#[test]
fn an_old_primary_that_a_whole_fleet_has_left_holds_it_back() {
    // As long as the `ttl`: on the old primary they are silent for longer before there is a new one.
    let mut patroni = started_with("20s");
    let _fleet = fleet(&patroni.through_haproxy(), 20);
    let mut client = patroni.primary();
    wait_until("all workers to be known", || last_heard(&mut client, "f1").is_some());
    claim_jobs(&mut client, "f1", 1);
    patroni.await_replay();

    patroni.kill_agent(0);
    let next = patroni.await_other_primary(0);
    let mut client = patroni.node(next);
    for worker in ["f1", "f20"] {
        await_heartbeat(&mut client, worker);
    }
    let mut old = patroni.node(0);
    let held = "SELECT held_workers FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    wait_until("the old primary to hold back the fleet", || ask::<i64>(&mut old, held, &[]) == 20);
    assert_eq!(dead(&mut old), [""; 0], "on the old primary");
    drop(old);
    patroni.start_agent(0);
    patroni.await_followers();
    await_sweep(&mut client, "witness");
    assert_eq!(dead(&mut client), ["witness"]);
    assert_eq!((beat(&mut client, "f1"), jobs(&mut client, "f1", "running")), (1, 1));
}
