//! Without shared_preload_libraries: no processes, but everything that needs none works.

use crate::cluster::*;

#[test]
fn heartbeats_and_sweeps_by_hand_work_without_preloading() {
    let cluster = Cluster::quick().preload(false).setting("rgrid_heartbeat.stale_threshold", "1s").start();
    let database = cluster.database("unloaded");
    let mut client = database.connect();
    let registered: i64 = ask(&mut client, "SELECT incarnation FROM rgrid_register('healthy')", &[]);
    assert_eq!(registered, 1);
    claim_jobs(&mut client, "healthy", 1);
    claim_jobs(&mut client, "silent", 2);
    silent_worker(&mut client, "silent");

    wait_until("a sweep by hand that may declare deaths", || {
        let incarnation: i64 = ask(&mut client, "SELECT rgrid_heartbeat('healthy')", &[]);
        assert_eq!(incarnation, 1);
        run(&mut client, "SELECT rgrid_sweep()");
        deaths(&mut client, "silent") == 1
    });
    assert_eq!(failed_jobs(&mut client, "silent"), 2);
    assert_eq!(jobs(&mut client, "healthy", "running"), 1);
    assert_eq!(ask::<i64>(&mut client, "SELECT rgrid_heartbeat('silent')", &[]), 2);
    assert_eq!(ledger(&mut client, "silent"), ["1 stale 2 returned"]);
    assert!(cluster.pids(LAUNCHER).is_empty() && cluster.pids(SWEEPER).is_empty());
}

#[test]
fn a_setting_that_needs_preloading_is_no_misspelling_without_it() {
    let cluster = Cluster::quick()
        .preload(false)
        .setting("rgrid_heartbeat.max_workers", "1000")
        .setting("rgrid_heartbeat.stale_treshold", "1s")
        .start();
    let mut client = cluster.database("unpreloaded").connect();
    beat(&mut client, "worker");
    let misspelt =
        |setting: &str| !cluster.log_lines_with(&["invalid configuration parameter", setting]).is_empty();
    wait_until("the misspelling to be reported", || misspelt("stale_treshold"));
    assert!(!misspelt("max_workers"));
}
