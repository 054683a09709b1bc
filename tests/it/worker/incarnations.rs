//! The promise about incarnations, under load: a worker that is told a number has no running job of an earlier one,
//! and loses none of its own to an earlier death.

use crate::cluster::*;
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const WORKERS: [&str; 4] = ["ann", "bob", "cat", "dan"];
const LIVES: i64 = 12;

#[test]
fn a_worker_that_is_told_an_incarnation_has_only_jobs_of_its_own() {
    let cluster = Cluster::quick()
        .setting("rgrid_heartbeat.check_interval", "20ms")
        .setting("rgrid_heartbeat.stale_threshold", "200ms")
        .start();
    let database = cluster.database("lives");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut by_hand = database.connect();
        scope.spawn(|| while_others_live(&over, move || run(&mut by_hand, "SELECT rgrid_sweep()")));
        let lives = WORKERS.map(|worker| {
            let client = database.connect();
            scope.spawn(move || live_and_die(client, worker))
        });
        let ended = lives.map(thread::ScopedJoinHandle::join);
        over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a worker found its promise broken");
    });
    the_ledger_has_every_life_once(&mut database.connect());
}

fn while_others_live(over: &AtomicBool, mut work: impl FnMut()) {
    while !over.load(Ordering::Relaxed) {
        work();
    }
}

/// Ends life after life, in turn by silence, by a restart after silence and by a restart alone. A worker that
/// was silent claims a job after its death, as a zombie does.
fn live_and_die(mut client: Client, worker: &str) {
    let register = "SELECT incarnation FROM rgrid_register($1)";
    let mut incarnation: i64 = ask(&mut client, register, &[&worker]);
    while incarnation < LIVES {
        claim_as(&mut client, worker, incarnation);
        let mut told: i64 = ask(&mut client, "SELECT rgrid_heartbeat($1)", &[&worker]);
        if told == incarnation && incarnation % 3 != 0 {
            wait_until("the end of a life", || deaths(&mut client, worker) == incarnation);
            claim_as(&mut client, worker, incarnation);
        }
        if told == incarnation {
            let next = if incarnation % 3 == 1 { "SELECT rgrid_heartbeat($1)" } else { register };
            told = ask(&mut client, next, &[&worker]);
        }
        assert!(told > incarnation, "{worker} was told {told} after {incarnation}");
        assert_eq!(running_before(&mut client, worker, told), 0, "{worker} {told}: jobs of an earlier life");
        incarnation = told;
    }
}

/// Claims a job and notes in `batch_index` under which incarnation.
fn claim_as(client: &mut Client, worker: &str, incarnation: i64) {
    claim_jobs(client, worker, 1);
    let sql = "UPDATE executions SET batch_index = $2::bigint
               WHERE worker_id = $1 AND batch_index IS NULL AND status = 'running'";
    client.execute(sql, &[&worker, &incarnation]).expect("a claim can be noted");
}

fn running_before(client: &mut Client, worker: &str, incarnation: i64) -> i64 {
    let sql = "SELECT count(*) FROM executions
               WHERE worker_id = $1 AND status = 'running' AND coalesce(batch_index, 0) < $2::bigint";
    ask(client, sql, &[&worker, &incarnation])
}

fn the_ledger_has_every_life_once(client: &mut Client) {
    let sql = "SELECT count(*) FROM (
                   SELECT worker_id FROM rgrid_worker_deaths GROUP BY worker_id
                   HAVING count(*) = max(incarnation) AND min(incarnation) = 1
                      AND count(DISTINCT incarnation) = count(*)
                      AND count(*) FILTER (WHERE returned_at IS NULL) <= 1) AS sound";
    assert_eq!(ask::<i64>(client, sql, &[]), 4);
    let sql = "SELECT (SELECT sum(jobs_failed)::bigint FROM rgrid_worker_deaths)
                    - (SELECT count(*) FROM executions WHERE status = 'failed')";
    assert_eq!(ask::<i64>(client, sql, &[]), 0, "the ledger counts every failed job once");
}

/// The highest number that a bigint has. Nobody gets it; it can only be put into a table by hand or by a dump.
const LAST: &str = "9223372036854775807";

/// A worker that came back from a death with this number, an hour ago. Others have been told numbers here before.
fn died_with(client: &mut Client, worker: &str, number: &str) {
    run(client, "SELECT rgrid_register('earlier'), rgrid_deregister('earlier')");
    run(
        client,
        &format!(
            "INSERT INTO rgrid_worker_deaths (worker_id, incarnation, last_heartbeat_at, declared_dead_at, reason,
                                              jobs_failed, jobs_requeued, returned_at)
             SELECT '{worker}', {number}, ago, ago, 'stale', 0, 0, ago FROM (SELECT now() - interval '1 hour') AS t (ago)"
        ),
    );
}

#[test]
fn a_number_without_a_successor_hurts_its_worker_alone() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("last_numbers");
    let mut client = database.connect();
    died_with(&mut client, "ledger", LAST);
    died_with(&mut client, "sound", "6");
    run(&mut client, &format!("INSERT INTO rgrid_incarnations VALUES ('numbered', {LAST})"));
    for worker in ["ledger", "numbered", "sound"] {
        silent_worker(&mut client, worker);
        claim_jobs(&mut client, worker, 1);
    }
    wait_until("the death of the sound one", || deaths(&mut client, "sound") == 2);
    assert_eq!((failed_jobs(&mut client, "sound"), beat(&mut client, "sound")), (1, 8));

    for worker in ["ledger", "numbered"] {
        assert_eq!(jobs(&mut client, worker, "running"), 1, "{worker} has no number to die with");
        for call in ["rgrid_heartbeat", "rgrid_register", "rgrid_deregister"] {
            assert_eq!(
                sqlstate(&mut client, &format!("SELECT {call}('{worker}')")),
                "22003",
                "{call} of {worker}"
            );
        }
    }
    run(
        &mut client,
        "SELECT * FROM rgrid_workers; SELECT rgrid_sweep(); SELECT rgrid_sweep(dry_run => true)",
    );
    wait_until("the problem to be listed", || {
        let listed = "SELECT count(*) FROM pg_stat_rgrid_problems WHERE problem = 'incarnations' AND sqlstate = '22003'
                      AND message = 'could not declare workers dead (2): incarnation of worker \"ledger\" is out of range'";
        ask::<i64>(&mut client, listed, &[]) == 1
    });
    run(&mut client, "UPDATE rgrid_worker_deaths SET incarnation = 3 WHERE worker_id = 'ledger'");
    wait_until("the death of the corrected one", || deaths(&mut client, "ledger") == 2);
    assert_eq!((failed_jobs(&mut client, "ledger"), beat(&mut client, "ledger")), (1, 5));
}

#[test]
fn the_end_of_a_worker_without_a_further_number_is_refused() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("one_left");
    let mut client = database.connect();
    died_with(&mut client, "worker", "9007199254740990");
    assert_eq!(beat(&mut client, "worker"), 9_007_199_254_740_991, "the last one that is given");
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_register('worker')"), "22003");
    assert_eq!((beat(&mut client, "worker"), deaths(&mut client, "worker")), (9_007_199_254_740_991, 1));
}

#[test]
fn pruning_raises_nobody_above_a_number_without_a_successor() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.retention", "1s").start();
    let database = cluster.database("pruned_last");
    let mut client = database.connect();
    died_with(&mut client, "bad", LAST);
    died_with(&mut client, "sound", "6");
    wait_until("the old death to be pruned", || deaths(&mut client, "sound") == 0);
    assert_eq!((deaths(&mut client, "bad"), beat(&mut client, "unknown")), (1, 7));
}

#[test]
fn no_number_is_given_twice_when_rows_of_the_ledger_are_removed_by_hand() {
    let removals =
        ["TRUNCATE rgrid_worker_deaths", "DELETE FROM rgrid_worker_deaths WHERE worker_id <> 'witness'"];
    let cluster = Cluster::quick().start();
    for (number, removal) in removals.into_iter().enumerate() {
        let database = cluster.database(&format!("removed_{number}"));
        let mut client = database.connect();
        // Some died more often than others, and one is new.
        for (worker, lives) in [("witness", 3), ("once", 1), ("dead", 2)] {
            for life in 1..=lives {
                assert_eq!(beat(&mut client, worker), life);
                sweep_away(&mut client, worker);
            }
        }
        assert_eq!((beat(&mut client, "once"), beat(&mut client, "new")), (2, 1));
        run(&mut client, removal);

        assert_eq!(slow_beat(&mut client, "once", "another host"), 2, "it lives on: {removal}");
        assert_eq!(slow_beat(&mut client, "new", "another host"), 1);
        assert_eq!(slow_beat(&mut client, "dead", "another host"), 3, "it was told 2: {removal}");
        let shown = "SELECT incarnation FROM rgrid_workers WHERE worker_id = 'once'";
        assert_eq!(ask::<i64>(&mut client, shown, &[]), 2);
        sweep_away(&mut client, "once");
        assert_eq!(ledger_numbers(&mut client, "once"), [2]);
        assert_eq!(beat(&mut client, "once"), 3);
        let registered: i64 = ask(&mut client, "SELECT incarnation FROM rgrid_register('once')", &[]);
        assert_eq!(registered, 4);
    }
}

fn ledger_numbers(client: &mut Client, worker: &str) -> Vec<i64> {
    let numbers =
        "SELECT array_agg(incarnation ORDER BY incarnation) FROM rgrid_worker_deaths WHERE worker_id = $1";
    ask(client, numbers, &[&worker])
}

#[test]
fn pruning_takes_no_number_back_of_which_the_ledger_knows_nothing() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.retention", "1s").start();
    let database = cluster.database("pruned_later");
    let mut client = database.connect();
    for life in 1..=3 {
        assert_eq!(beat(&mut client, "gone"), life);
        sweep_away(&mut client, "gone");
    }
    run(&mut client, "DELETE FROM rgrid_worker_deaths; DELETE FROM worker_heartbeats");
    silent_worker(&mut client, "other");
    wait_until("the other one to be pruned", || {
        ask(&mut client, "SELECT EXISTS (SELECT FROM rgrid_incarnations WHERE worker_id = '')", &[])
    });
    assert!(beat(&mut client, "gone") > 3, "it was told 3");
}
