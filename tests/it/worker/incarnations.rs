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
