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
    for call in ["SELECT rgrid_attach('healthy')", "SELECT rgrid_detach('healthy')"] {
        let refusal = client.batch_execute(call).unwrap_err();
        let refusal = refusal.as_db_error().expect("an error of the server");
        assert_eq!(refusal.code().code(), "55000", "{call}");
        assert!(refusal.hint().unwrap().contains("shared_preload_libraries"), "{refusal:?}");
    }
}

#[test]
fn settings_that_need_preloading_are_no_misspelling_without_it_and_are_said_to_have_no_effect() {
    let names = [
        "check_interval",
        "flush_interval",
        "stale_threshold",
        "statement_timeout",
        "call_timeout",
        "retention",
    ];
    let mut builder = Cluster::builder().preload(false).setting("rgrid_heartbeat.stale_treshold", "1s");
    for name in names {
        builder = builder.setting(&format!("rgrid_heartbeat.{name}"), "1h");
    }
    for name in [
        "batch_size",
        "max_workers",
        "mass_death_minimum",
        "disconnect_grace",
        "max_dead_fraction",
        "prune_adopted",
        "enabled",
    ] {
        builder = builder.setting(&format!("rgrid_heartbeat.{name}"), "1");
    }
    let cluster = builder.start();
    let mut client = cluster.database("unpreloaded").connect();
    beat(&mut client, "worker");
    wait_until("the misspelling to be reported", || {
        !cluster.log_lines_with(&["invalid configuration parameter", "stale_treshold"]).is_empty()
    });
    let mut others = cluster.log_lines_with(&["parameter", "rgrid_heartbeat."]);
    others.retain(|line| !line.contains("stale_treshold"));
    assert_eq!(others, [""; 0]);
    let known = "SELECT count(*) FROM pg_settings WHERE name LIKE 'rgrid_heartbeat.%' AND source = 'configuration file'";
    assert_eq!(ask::<i64>(&mut client, known, &[]), 13);
    let told = "SELECT split_part(detail, 'no effect until then: ', 2) FROM rgrid_health() WHERE check_name = 'preload'";
    assert_eq!(
        ask::<String>(&mut client, told, &[]),
        "rgrid_heartbeat.check_interval, rgrid_heartbeat.disconnect_grace, rgrid_heartbeat.enabled, \
         rgrid_heartbeat.flush_interval, \
         rgrid_heartbeat.mass_death_minimum, rgrid_heartbeat.max_dead_fraction, rgrid_heartbeat.max_workers, \
         rgrid_heartbeat.prune_adopted, rgrid_heartbeat.retention, rgrid_heartbeat.statement_timeout."
    );
}
