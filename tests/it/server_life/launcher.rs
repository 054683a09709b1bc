//! The two kinds of processes: whatever ends one of them, sweeping goes on.

use crate::cluster::*;
use std::time::Duration;

/// What the launcher promises.
const BACK_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn the_launcher_connects_to_no_database_and_there_is_one() {
    let cluster = Cluster::quick().start();
    wait_until("the launcher", || cluster.pids(LAUNCHER).len() == 1);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = $1 AND datid IS NULL";
    let unconnected: i64 = ask(&mut cluster.connect("postgres"), sql, &[&LAUNCHER]);
    assert_eq!(unconnected, 1);
}

#[test]
fn a_terminated_launcher_is_back_within_five_seconds_each_time() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("survives");
    let mut client = database.connect();
    for worker in ["before", "after-one", "after-two"] {
        await_sweep(&mut client, worker);
        let old = cluster.pids(LAUNCHER);
        cluster.terminate(old[0]);
        let away = wait_until("another launcher", || {
            let now = cluster.pids(LAUNCHER);
            !now.is_empty() && now != old
        });
        assert!(away < BACK_WITHIN, "it took {away:?}");
    }
    await_sweep(&mut client, "after-all");
    assert_eq!(cluster.pids(LAUNCHER).len(), 1);
}

#[test]
fn a_terminated_sweeper_is_replaced_within_five_seconds_each_time() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("blocked");
    let (mut client, mut blocker) = (database.connect(), database.connect());
    run(&mut blocker, "BEGIN; LOCK TABLE executions");
    silent_worker(&mut client, "victim");

    let await_another = |before: &mut Option<i32>| {
        let old = before.take();
        wait_until("a sweeper that waits for the table", || {
            *before = cluster.waiting_sweeper();
            before.is_some() && *before != old
        })
    };
    let mut waiting = None;
    for _ in 0..2 {
        // One that waits after a round that came to its end: twice in a row, the table would be blamed.
        await_another(&mut waiting);
        await_another(&mut waiting);
        cluster.terminate(waiting.expect("a sweeper waits"));
        let away = await_another(&mut waiting);
        assert!(away < BACK_WITHIN, "it took {away:?}");
    }
    run(&mut blocker, "ROLLBACK");
    claim_jobs(&mut client, "victim", 2);
    await_death(&mut client, "victim");
    wait_until("the jobs to be settled", || failed_jobs(&mut client, "victim") == 2);
}

#[test]
fn the_crash_of_a_backend_ends_neither_launcher_nor_sweeping() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("crashes");
    let mut client = database.connect();
    await_sweep(&mut client, "before");
    let pid: i32 = ask(&mut client, "SELECT pg_backend_pid()", &[]);
    cluster.crash_backend(pid);

    let mut client = database.connect();
    await_sweep(&mut client, "after");
    let launcher = cluster.pids(LAUNCHER);
    cluster.crash_backend(launcher[0]);
    await_sweep(&mut database.connect(), "after-the-launchers-own");
    assert_eq!(cluster.pids(LAUNCHER).len(), 1);
}

#[test]
fn without_a_free_worker_slot_it_says_so_once_and_sweeps_by_hand_work() {
    // One slot is for the server's own launcher of logical replication, the other for this launcher.
    let cluster = Cluster::quick().setting("max_worker_processes", "2").start();
    let database = cluster.database("noslots");
    let mut client = database.connect();
    let complaints = || cluster.log_lines_with(&["out of background worker slots"]).len();
    wait_until("a complaint", || complaints() > 0);
    claim_jobs(&mut client, "victim", 1);
    silent_worker(&mut client, "victim");
    wait_until("a sweep by hand that may declare deaths", || {
        run(&mut client, "SELECT rgrid_sweep()");
        deaths(&mut client, "victim") == 1
    });
    assert_eq!(failed_jobs(&mut client, "victim"), 1);
    assert_eq!(complaints(), 1);
}

#[test]
fn a_sweeper_that_ends_before_the_launcher_goes_on_has_not_failed() {
    let cluster = Cluster::quick().held_up_after_requests().start();
    let database = cluster.database("faster");
    let mut client = database.connect();
    let sql =
        "SELECT sweeps, errors, failures_in_a_row FROM pg_stat_rgrid_heartbeat WHERE datname = 'faster'";
    let mut numbers = || -> (i64, i64, i64) {
        let known = client.query_opt(sql, &[]).expect("the view can be read");
        known.map_or((0, 0, 0), |row| (row.get(0), row.get(1), row.get(2)))
    };
    // Sweepers that fail are started less and less often.
    wait_until("twelve sweeps", || {
        let (sweeps, errors, failures) = numbers();
        assert_eq!((errors, failures), (0, 0), "after {sweeps} sweeps");
        sweeps >= 12
    });
    await_sweep(&mut client, "victim");
}
