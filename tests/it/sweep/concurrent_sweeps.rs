//! Sweeps that run into each other, into locks and into returning workers: every death and every job counts
//! once.

use crate::cluster::*;
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

fn server() -> Shared {
    Shared::of(Cluster::quick)
}

const WORKERS: i64 = 200;
const JOBS_OF_EACH: i64 = 3;

#[test]
fn two_sweeps_by_hand_and_a_sweeper_beside_them_settle_every_death_once() {
    let cluster = Cluster::quick()
        .setting("rgrid_heartbeat.check_interval", "50ms")
        .setting("rgrid_heartbeat.stale_threshold", "1s")
        .setting("rgrid_heartbeat.batch_size", "20")
        .start();
    let database = cluster.database("crowded");
    let mut client = database.connect();
    count_updates_of_executions(&mut client);
    for round in 1..=3 {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for mut client in [database.connect(), database.connect()] {
                let over = &over;
                scope.spawn(move || sweep_by_hand_until(over, &mut client));
            }
            many_silent_workers(&mut client, round);
            let swept = "SELECT count(*) FROM rgrid_worker_deaths";
            wait_until("every death", || {
                let deaths: i64 = ask(&mut client, swept, &[]);
                deaths >= WORKERS * round
            });
            over.store(true, Ordering::Relaxed);
        });
        everything_counts_once(&mut client, round);
    }
    let lines = cluster.log_lines_with(&["crowd-", "declared dead"]);
    assert_eq!(i64::try_from(lines.len()), Ok(WORKERS * 3), "one line a death");
}

fn count_updates_of_executions(client: &mut Client) {
    run(
        client,
        "CREATE TABLE settled (id bigint);
         CREATE FUNCTION note_settled() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.settled VALUES (new.id); RETURN new; END';
         CREATE TRIGGER note_settled AFTER UPDATE ON executions FOR EACH ROW EXECUTE FUNCTION note_settled()",
    );
}

/// In one transaction, so that all of them are there to be found at once.
fn many_silent_workers(client: &mut Client, round: i64) {
    let sql = format!(
        "BEGIN;
         INSERT INTO executions (execution_id, runtime, code, args, env_vars, input_files, status,
                worker_id, output_truncated, cost_micros, priority, timeout_seconds, retry_count,
                max_retries, created_at)
         SELECT gen_random_uuid(), '', '', '[]', '{{}}', '[]', 'running', 'crowd-{round}-' || worker,
                false, 0, 0, 300, 0, 3, timezone('UTC', now())
         FROM generate_series(1, {WORKERS}) AS worker, generate_series(1, {JOBS_OF_EACH});
         INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at)
         SELECT 'crowd-{round}-' || worker, now() - interval '1 hour'
         FROM generate_series(1, {WORKERS}) AS worker;
         COMMIT"
    );
    run(client, &sql);
}

fn sweep_by_hand_until(over: &AtomicBool, client: &mut Client) {
    while !over.load(Ordering::Relaxed) {
        let most: i64 = ask(client, "SELECT coalesce(max(jobs_failed), 0)::bigint FROM rgrid_sweep()", &[]);
        assert!(most <= JOBS_OF_EACH, "a worker had {JOBS_OF_EACH} jobs, {most} were settled");
    }
}

fn everything_counts_once(client: &mut Client, rounds: i64) {
    let count = |client: &mut Client, what: &str| -> i64 { ask(client, &format!("SELECT {what}"), &[]) };
    let deaths = count(client, "count(DISTINCT worker_id) FROM rgrid_worker_deaths WHERE incarnation = 1");
    let rows = count(client, "count(*) FROM rgrid_worker_deaths");
    let jobs_in_ledger = count(client, "sum(jobs_failed)::bigint FROM rgrid_worker_deaths");
    let updates = count(client, "count(*) FROM settled");
    let failed = count(client, "count(*) FROM executions WHERE status = 'failed'");
    let jobs = WORKERS * JOBS_OF_EACH * rounds;
    assert_eq!((deaths, rows), (WORKERS * rounds, WORKERS * rounds), "one ledger row a death");
    assert_eq!((jobs_in_ledger, updates, failed), (jobs, jobs, jobs), "every job settled once");
}

#[test]
fn a_sweep_by_hand_settles_at_most_a_batch() {
    let cluster = Cluster::quick()
        .setting("rgrid_heartbeat.check_interval", "1d")
        .setting("rgrid_heartbeat.stale_threshold", "1s")
        .setting("rgrid_heartbeat.batch_size", "3")
        .start();
    let database = cluster.database("batches");
    let mut client = database.connect();
    let count = "SELECT count(*) FROM rgrid_sweep()";
    for worker in ["one", "two", "three", "four", "five", "six", "seven"] {
        silent_worker(&mut client, worker);
    }

    let mut settled = Vec::new();
    wait_until("seven deaths", || {
        settled.push(ask::<i64>(&mut client, count, &[]));
        settled.iter().sum::<i64>() == 7
    });
    settled.retain(|workers| *workers > 0);
    assert_eq!(settled, [3, 3, 1]);
    assert_eq!(cluster.log_lines_with(&["declared dead"]).len(), 7);
    assert_eq!(cluster.log_lines_with(&["STATEMENT:"]).len(), 0, "a line a death, and no more");
}

#[test]
fn a_locked_job_is_skipped_and_settled_after_its_release() {
    let cluster = server();
    let database = cluster.database("locked");
    let (mut client, mut holder) = (database.connect(), database.connect());
    claim_jobs(&mut client, "victim", 3);
    run(&mut holder, "BEGIN; SELECT FROM executions WHERE id = 1 FOR UPDATE");
    silent_worker(&mut client, "victim");
    await_death(&mut client, "victim");
    wait_until("the other jobs to be settled", || failed_jobs(&mut client, "victim") == 2);
    await_sweep(&mut client, "a-later-victim");
    assert_eq!(jobs(&mut client, "victim", "running"), 1, "no sweep waits for the lock");

    run(&mut holder, "COMMIT");
    wait_until("the last job to be settled", || failed_jobs(&mut client, "victim") == 3);
    assert_eq!(deaths(&mut client, "victim"), 1);
}

#[test]
fn a_job_that_finishes_under_its_lock_is_not_failed() {
    let cluster = server();
    let database = cluster.database("finishes");
    let (mut client, mut holder) = (database.connect(), database.connect());
    claim_jobs(&mut client, "victim", 2);
    run(&mut holder, "BEGIN; UPDATE executions SET status = 'completed' WHERE id = 1");
    silent_worker(&mut client, "victim");
    wait_until("the other job to be settled", || failed_jobs(&mut client, "victim") == 1);
    run(&mut holder, "COMMIT");
    await_sweep(&mut client, "a-later-victim");
    assert_eq!(jobs(&mut client, "victim", "completed"), 1);
}

#[test]
fn a_heartbeat_during_a_sweep_waits_and_learns_of_the_death() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("midsweep");
    let (mut client, mut blocker, mut worker) = (database.connect(), database.connect(), database.connect());
    claim_jobs(&mut client, "victim", 2);
    run(&mut blocker, "BEGIN; LOCK TABLE executions");
    silent_worker(&mut client, "victim");
    wait_until("a sweeper that waits for the table", || cluster.waiting_sweeper().is_some());

    let pid: i32 = ask(&mut worker, "SELECT pg_backend_pid()", &[]);
    let beat = thread::spawn(move || ask::<i64>(&mut worker, "SELECT rgrid_heartbeat('victim')", &[]));
    wait_until("the heartbeat to wait for the sweep", || {
        let sql = "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'";
        ask(&mut client, sql, &[&pid])
    });
    run(&mut blocker, "COMMIT");
    let incarnation = beat.join().expect("the heartbeat succeeds");
    assert_eq!(incarnation, 2);
    assert_eq!(failed_jobs(&mut client, "victim"), 2, "the answer comes after the settling");
    assert_eq!(ledger(&mut client, "victim"), ["1 stale 2 returned"]);
}

#[test]
fn an_uncommitted_heartbeat_delays_no_sweep_and_counts_once_committed() {
    let cluster = server();
    let database = cluster.database("undecided");
    let (mut client, mut worker) = (database.connect(), database.connect());
    // Young enough to live until its transaction holds the row, old enough to be dead soon after.
    let sql =
        "INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at) VALUES ('slow', clock_timestamp())";
    run(&mut client, sql);
    run(&mut worker, "BEGIN; SELECT rgrid_heartbeat('slow')");
    wait_until("the committed heartbeat to be stale", || {
        let sql = "SELECT last_heartbeat_at < clock_timestamp() - interval '3 seconds'
                   FROM worker_heartbeats WHERE worker_id = 'slow'";
        ask(&mut client, sql, &[])
    });
    await_sweep(&mut client, "a-later-victim");
    assert_eq!(deaths(&mut client, "slow"), 0, "a locked row is left alone");
    run(&mut worker, "SELECT rgrid_heartbeat('slow'); COMMIT");
    // However long the next sweep takes to come, this worker is not silent.
    let _beats = Beating::calling(database.connect(), "slow");
    await_sweep(&mut client, "the-last-victim");
    assert_eq!(deaths(&mut client, "slow"), 0);
}

#[test]
fn executions_that_come_after_the_extension_are_watched_too() {
    let cluster = server();
    let database = cluster.empty_database("tablelate");
    let mut client = database.connect();
    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
    await_sweep(&mut client, "swept-without-a-table");
    executions_table(&mut client);
    claim_jobs(&mut client, "victim", 2);
    await_sweep(&mut client, "victim");
    assert_eq!(failed_jobs(&mut client, "victim"), 2);
}
