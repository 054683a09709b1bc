//! Clocks that are stepped, servers that stand still, and timestamps from the future: no worker dies early, and
//! none lives for ever.

use crate::cluster::*;
use postgres::Client;
use std::thread;
use std::time::{Duration, Instant};

const STEPPED: &str = "the system clock was stepped";

/// A server whose clock is stepped by a test.
fn stepped_server() -> Cluster {
    Cluster::quick().setting("rgrid_heartbeat.flush_interval", "100ms").own_clock().start()
}

/// Sweeps every 200 ms; its clock is the machine's.
fn server() -> Shared {
    Shared::of(Cluster::quick)
}

/// Two workers with a job each, one of which goes on beating. Returns when a threshold has passed: both can be judged.
fn one_lives_and_one_is_about_to_die(database: &Database<'_>) -> Beating {
    let mut client = database.connect();
    let alive = Beating::calling(database.connect(), "alive");
    await_sweep(&mut client, "judged-before");
    for worker in ["alive", "dying"] {
        claim_jobs(&mut client, worker, 1);
    }
    // Last: from here on it is silent.
    known_worker(&mut client, "dying");
    alive
}

/// The one that fell silent is found, not before a threshold after the step; the other one lives.
fn only_the_silent_one_dies(client: &mut Client, stepped: Instant) {
    await_death(client, "dying");
    assert!(
        stepped.elapsed() >= Duration::from_secs(2),
        "silence counts from the step: {:?}",
        stepped.elapsed()
    );
    assert_eq!(failed_jobs(client, "dying"), 1);
    assert_eq!((deaths(client, "alive"), jobs(client, "alive", "running")), (0, 1));
}

#[test]
fn a_clock_set_forward_delays_deaths_by_one_threshold() {
    let cluster = stepped_server();
    let database = cluster.database("forward");
    let mut client = database.connect();
    let _alive = one_lives_and_one_is_about_to_die(&database);
    let stepped = Instant::now();
    cluster.step_clock(3_600);
    only_the_silent_one_dies(&mut client, stepped);
    assert!(!cluster.log_lines_with(&[STEPPED]).is_empty());
}

#[test]
fn a_clock_set_back_delays_deaths_by_one_threshold() {
    let cluster = stepped_server();
    let database = cluster.database("back");
    let mut client = database.connect();
    let _alive = one_lives_and_one_is_about_to_die(&database);
    let stepped = Instant::now();
    cluster.step_clock(-3_600);
    only_the_silent_one_dies(&mut client, stepped);
    assert!(!cluster.log_lines_with(&[STEPPED]).is_empty());
}

#[test]
fn a_sweep_by_hand_right_after_a_clock_step_judges_no_worker() {
    // The launcher sleeps, so the sweep is the first to see the step.
    let cluster = Cluster::quick()
        .setting("rgrid_heartbeat.check_interval", "1h")
        .setting("rgrid_heartbeat.flush_interval", "1h")
        .own_clock()
        .start();
    let database = cluster.database("by_hand");
    let mut client = database.connect();
    known_worker(&mut client, "alive");
    sweep_away_with(&mut client, "judged-before");
    assert!(beats_in_memory(&mut client, "alive"));
    for hours in [1, -1] {
        cluster.step_clock(hours * 3_600);
        assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM rgrid_sweep()", &[]), 0);
        assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM rgrid_sweep()", &[]), 0, "nor the next one");
    }
    assert_eq!(deaths(&mut client, "alive"), 0);
    assert_eq!(cluster.log_lines_with(&[STEPPED]).len(), 2, "each step is noticed once");
}

/// Sweeps by hand until a silent worker is dead, while the one called alive beats.
fn sweep_away_with(client: &mut Client, worker: &str) {
    silent_worker(client, worker);
    wait_until("a sweep by hand that judges", || {
        beat(client, "alive");
        run(client, "SELECT rgrid_sweep()");
        deaths(client, worker) == 1
    });
}

#[test]
fn a_worker_that_died_before_the_clock_was_set_back_can_return_by_an_upsert() {
    let cluster = stepped_server();
    let database = cluster.database("returns");
    let mut client = database.connect();
    upsert(&mut client, "py", "clock_timestamp()");
    await_death(&mut client, "py");
    cluster.step_clock(-3_600);
    wait_until("the step to be noticed", || !cluster.log_lines_with(&[STEPPED]).is_empty());
    let _beats = Beating::start(database.connect(), |client| upsert(client, "py", "clock_timestamp()"));
    wait_until("the return", || ledger(&mut client, "py") == ["1 stale 0 returned"]);
}

#[test]
fn a_machine_that_sleeps_kills_no_worker() {
    let cluster = stepped_server();
    let database = cluster.database("sleeps");
    let mut client = database.connect();
    let _alive = one_lives_and_one_is_about_to_die(&database);
    // The wall clock goes on while everything stands still, and the monotonic clock with it.
    let over = cluster.freeze(|| cluster.step_clock(3_600));
    only_the_silent_one_dies(&mut client, over);
}

#[test]
fn a_server_that_is_suspended_kills_no_worker() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("frozen");
    let mut client = database.connect();
    let _alive = one_lives_and_one_is_about_to_die(&database);
    let over = cluster.freeze(|| thread::sleep(Duration::from_secs(5)));
    only_the_silent_one_dies(&mut client, over);
    assert!(!cluster.log_lines_with(&["the server was suspended: silence counts from now on"]).is_empty());
}

/// A heartbeat that a client writes itself, at a time of its own.
fn upsert(client: &mut Client, worker: &str, at: &str) {
    let sql = format!(
        "INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at) VALUES ('{worker}', {at})
         ON CONFLICT (worker_id) DO UPDATE SET last_heartbeat_at = EXCLUDED.last_heartbeat_at"
    );
    run(client, &sql);
}

#[test]
fn workers_whose_clocks_are_ahead_die_one_threshold_later() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("ahead");
    let mut client = database.connect();
    await_sweep(&mut client, "judged-before");
    let ahead = ["an-hour", "for-ever"];
    // In one statement, so that one sweep sees both.
    run(
        &mut client,
        "INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at)
         VALUES ('an-hour', clock_timestamp() + interval '1 hour'), ('for-ever', 'infinity')",
    );
    let written = Instant::now();
    for worker in ahead {
        claim_jobs(&mut client, worker, 1);
    }
    for worker in ahead {
        await_death(&mut client, worker);
        assert_eq!(failed_jobs(&mut client, worker), 1);
    }
    assert!(written.elapsed() >= Duration::from_secs(2), "not before a threshold of silence");
    upsert(&mut client, "an-hour", "clock_timestamp() + interval '1 hour'");
    wait_until("its return", || ledger(&mut client, "an-hour") == ["1 stale 1 returned"]);
    wait_until("its next death", || deaths(&mut client, "an-hour") == 2);
    let reports = cluster.log_lines_with(&["heartbeats from the future were set to the current time: "]);
    assert_eq!(reports.len(), 1, "{reports:?}");
}

#[test]
fn naive_timestamps_from_the_future_make_no_worker_immortal() {
    let cluster = server();
    let database = cluster.rgrid_database("naive_ahead");
    let mut client = database.connect();
    for worker in ["an-hour", "for-ever"] {
        upsert_like_python(&mut client, worker, Duration::ZERO);
    }
    run(
        &mut client,
        "UPDATE worker_heartbeats SET last_heartbeat_at =
             CASE worker_id WHEN 'for-ever' THEN 'infinity' ELSE timezone('UTC', now()) + interval '1 hour' END",
    );
    for worker in ["an-hour", "for-ever"] {
        await_death(&mut client, worker);
    }
}

#[test]
fn a_living_worker_whose_clock_is_ahead_is_left_alone() {
    let cluster = server();
    let database = cluster.database("alive_ahead");
    let mut client = database.connect();
    let _beats = Beating::start(database.connect(), |client| {
        upsert(client, "fast", "clock_timestamp() + interval '10 minutes'");
    });
    await_sweep(&mut client, "first");
    stays(Duration::from_secs(3), "it lives", || deaths(&mut client, "fast") == 0);
}
