//! The settings: their defaults, and that they change in a running server.

use crate::cluster::*;
use std::time::{Duration, Instant};

#[test]
fn the_defaults_are_those_of_the_daemon() {
    let cluster = Cluster::builder().start();
    let mut client = cluster.connect("postgres");
    let defaults =
        [("check_interval", "1min"), ("stale_threshold", "2min"), ("batch_size", "1000"), ("enabled", "on")];
    for (setting, default) in defaults {
        let shown: String = ask(&mut client, &format!("SHOW rgrid_heartbeat.{setting}"), &[]);
        assert_eq!(shown, default, "{setting}");
    }
}

#[test]
fn the_check_interval_changes_with_a_reload() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("reloads");
    let mut client = database.connect();
    await_sweep(&mut client, "swept-at-first");

    cluster.set("rgrid_heartbeat.check_interval", "1h");
    let mut tried = 0;
    wait_until("a worker that no sweep finds", || {
        tried += 1;
        let worker = format!("overlooked-{tried}");
        silent_worker(&mut client, &worker);
        let (started, mut found) = (Instant::now(), false);
        wait_until("a sweep or a second without one", || {
            found = deaths(&mut client, &worker) > 0;
            found || started.elapsed() > Duration::from_secs(1)
        });
        !found
    });

    cluster.set("rgrid_heartbeat.check_interval", "100ms");
    await_death(&mut client, &format!("overlooked-{tried}"));
}

#[test]
fn the_stale_threshold_changes_with_a_reload_and_can_differ_by_database() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1s").start();
    let patient = cluster.database("patient");
    let other = cluster.database("other");
    let (mut patient_client, mut other_client) = (patient.connect(), other.connect());
    run(&mut other_client, "ALTER DATABASE patient SET rgrid_heartbeat.stale_threshold = '2h'");
    silent_worker(&mut patient_client, "an-hour-silent");
    await_sweep(&mut other_client, "swept-meanwhile");
    stays(Duration::from_secs(1), "a database's own threshold holds", || {
        deaths(&mut patient_client, "an-hour-silent") == 0
    });

    run(&mut other_client, "ALTER DATABASE patient RESET rgrid_heartbeat.stale_threshold");
    await_death(&mut patient_client, "an-hour-silent");

    cluster.set("rgrid_heartbeat.stale_threshold", "2h");
    await_idle_sweepers(&cluster);
    silent_worker(&mut other_client, "overlooked");
    stays(Duration::from_secs(1), "the new threshold holds", || deaths(&mut other_client, "overlooked") == 0);
}

#[test]
fn a_pause_declares_no_deaths_and_silence_counts_from_its_end() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("pauses");
    let mut client = database.connect();
    await_sweep(&mut client, "swept-at-first");

    cluster.set("rgrid_heartbeat.enabled", "off");
    await_idle_sweepers(&cluster);
    silent_worker(&mut client, "silent-in-the-pause");
    silent_worker(&mut client, "silent-then-back");
    claim_jobs(&mut client, "silent-then-back", 1);
    stays(Duration::from_secs(1), "no sweep in the pause", || {
        deaths(&mut client, "silent-in-the-pause") == 0
    });
    let incarnation: i64 = ask(&mut client, "SELECT rgrid_heartbeat('beats-in-the-pause')", &[]);
    assert_eq!(incarnation, 1, "heartbeats go on");

    run(&mut client, "CREATE TABLE switched_on AS SELECT clock_timestamp() AS at");
    cluster.set("rgrid_heartbeat.enabled", "on");
    let _beats = Beating::calling(database.connect(), "silent-then-back");
    await_death(&mut client, "silent-in-the-pause");
    let waited: bool = ask(
        &mut client,
        "SELECT declared_dead_at >= at + interval '2 seconds' FROM rgrid_worker_deaths, switched_on
         WHERE worker_id = 'silent-in-the-pause'",
        &[],
    );
    assert!(waited, "silence counts from the moment of switching on");
    assert_eq!(deaths(&mut client, "silent-then-back"), 0);
    assert_eq!(jobs(&mut client, "silent-then-back", "running"), 1);
}

#[test]
fn a_setting_out_of_range_is_refused_and_stops_nothing() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("ranges");
    let mut client = database.connect();
    for bad in
        ["check_interval = '9ms'", "stale_threshold = '99ms'", "stale_threshold = '-1'", "batch_size = 0"]
    {
        assert_eq!(
            sqlstate(&mut client, &format!("ALTER SYSTEM SET rgrid_heartbeat.{bad}")),
            "22023",
            "{bad}"
        );
    }

    cluster.append_line("rgrid_heartbeat.check_interval = '9ms'");
    cluster.reload();
    wait_until("the message about the bad line", || {
        !cluster.log_lines_with(&["rgrid_heartbeat.check_interval", "outside the valid range"]).is_empty()
    });
    await_sweep(&mut client, "swept-all-the-same");
}

/// A sweeper that is already at work may still know the old settings.
fn await_idle_sweepers(cluster: &Cluster) {
    let mut calm = 0;
    wait_until("a while without a sweeper", || {
        calm = if cluster.pids(SWEEPER).is_empty() { calm + 1 } else { 0 };
        calm == 10
    });
}
