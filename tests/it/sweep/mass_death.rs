//! Many deaths at once: held back when they are asked to be, for a while, visibly, and never for ever.

use crate::cluster::*;
use postgres::Client;
use std::time::{Duration, Instant};

const HELD: &str = "living workers fell silent and are held back";

/// Holds back when more than half of the living are silent, and more than three.
fn cautious() -> Builder {
    Cluster::quick()
        .setting("rgrid_heartbeat.max_dead_fraction", "0.5")
        .setting("rgrid_heartbeat.mass_death_minimum", "3")
}

/// So many workers that fall silent at once, each with a running job.
fn fleet(client: &mut Client, name: &str, size: i32) {
    for number in 1..=size {
        claim_jobs(client, &format!("{name}-{number}"), 1);
    }
    let sql = "INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at)
               SELECT format('%s-%s', $1::text, n), clock_timestamp() FROM generate_series(1, $2) AS n";
    client.execute(sql, &[&name, &size]).expect("workers can be added");
}

fn dead(client: &mut Client, fleet: &str) -> i64 {
    ask(client, "SELECT count(*) FROM rgrid_worker_deaths WHERE worker_id LIKE $1 || '-%'", &[&fleet])
}

fn holds(cluster: &Cluster) -> usize {
    cluster.log_lines_with(&[HELD]).len()
}

#[test]
fn a_mass_death_is_held_back_for_one_threshold_and_logged_once() {
    let cluster = cautious().start();
    let database = cluster.database("fleet");
    let mut client = database.connect();
    let mut listener = database.connect();
    run(&mut listener, "LISTEN rgrid_worker_deaths");
    await_sweep(&mut client, "judged-before");
    for _ in 1..=2 {
        // The second mass death gets a hold of its own.
        let (name, before) = (format!("ship{}", holds(&cluster)), holds(&cluster));
        fleet(&mut client, &name, 5);
        let written = Instant::now();
        wait_until("the hold", || holds(&cluster) > before);
        assert_eq!(dead(&mut client, &name), 0);
        wait_until("the deaths", || dead(&mut client, &name) == 5);
        assert!(written.elapsed() >= Duration::from_secs(4), "two thresholds: {:?}", written.elapsed());
        assert_eq!(holds(&cluster), before + 1, "said once");
    }
    let told = told(&mut listener);
    assert_eq!(told.iter().filter(|payload| payload.contains(r#""event":"mass_death_held""#)).count(), 2);
    assert!(told.iter().any(|payload| payload.contains(r#""silent":5,"living":5"#)), "{told:?}");
}

/// What a listener has been told so far.
fn told(listener: &mut Client) -> Vec<String> {
    use postgres::fallible_iterator::FallibleIterator;
    let mut notifications = listener.notifications();
    let waiting = notifications.timeout_iter(Duration::from_millis(500));
    waiting.map(|notification| Ok(notification.payload().to_owned())).collect().expect("notifications")
}

#[test]
fn few_deaths_and_small_fleets_are_not_held_back() {
    let cluster = cautious().start();
    let (big, small) = (cluster.database("big"), cluster.database("small"));
    let (mut client, mut small_client) = (big.connect(), small.connect());
    let alive: Vec<String> = (1..=10).map(|n| format!("alive-{n}")).collect();
    let _beats = Beating::start(big.connect(), move |client| {
        run(client, &format!("SELECT rgrid_heartbeat('{{{}}}'::text[])", alive.join(",")));
    });
    await_sweep(&mut client, "judged-before");
    fleet(&mut client, "some", 5);
    fleet(&mut small_client, "all", 3);
    wait_until("the deaths", || dead(&mut client, "some") == 5 && dead(&mut small_client, "all") == 3);
    assert_eq!(holds(&cluster), 0);
}

#[test]
fn by_default_no_death_is_held_back() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.mass_death_minimum", "0").start();
    let database = cluster.database("by_default");
    let mut client = database.connect();
    await_sweep(&mut client, "judged-before");
    fleet(&mut client, "ship", 12);
    wait_until("the deaths", || dead(&mut client, "ship") == 12);
    assert_eq!(holds(&cluster), 0);
}

#[test]
fn workers_that_come_back_during_a_hold_live_on() {
    let cluster = cautious().start();
    let database = cluster.database("partition");
    let mut client = database.connect();
    await_sweep(&mut client, "judged-before");
    fleet(&mut client, "ship", 5);
    wait_until("the hold", || holds(&cluster) == 1);
    let _beats = Beating::start(database.connect(), |client| {
        run(client, "SELECT rgrid_heartbeat('{ship-1,ship-2,ship-3,ship-4}'::text[])");
    });
    wait_until("the death of the one that stays away", || dead(&mut client, "ship") == 1);
    await_sweep(&mut client, "judged-after");
    assert_eq!(dead(&mut client, "ship"), 1);
    assert_eq!(jobs(&mut client, "ship-1", "running"), 1);
    assert_eq!(failed_jobs(&mut client, "ship-5"), 1);
}

#[test]
fn an_operator_sees_and_lifts_a_hold() {
    let cluster = Cluster::builder()
        .setting("rgrid_heartbeat.check_interval", "200ms")
        .setting("rgrid_heartbeat.stale_threshold", "5s")
        .setting("rgrid_heartbeat.max_dead_fraction", "0.5")
        .setting("rgrid_heartbeat.mass_death_minimum", "3")
        .setting("rgrid_heartbeat.batch_size", "2")
        .start();
    let database = cluster.database("lifted");
    let mut client = database.connect();
    fleet(&mut client, "ship", 7);
    wait_until("the hold", || holds(&cluster) == 1);
    let held = Instant::now();
    let listed = |client: &mut Client, call: &str| -> i64 {
        ask(client, &format!("SELECT count(DISTINCT worker_id) FROM rgrid_sweep({call})"), &[])
    };
    assert_eq!(listed(&mut client, ""), 0, "a sweep by hand keeps to it");
    assert_eq!(listed(&mut client, "dry_run => true"), 0);
    assert_eq!(listed(&mut client, "dry_run => true, force => true"), 2, "a batch");
    run(&mut client, "BEGIN; SELECT rgrid_sweep(force => true); ROLLBACK");
    assert_eq!(listed(&mut client, ""), 0, "what was rolled back has lifted nothing");
    assert_eq!(dead(&mut client, "ship"), 0);
    run(&mut client, "SELECT rgrid_sweep(force => true)");
    // The sweepers go on with the rest.
    wait_until("the deaths", || dead(&mut client, "ship") == 7);
    if held.elapsed() < Duration::from_secs(4) {
        assert_eq!(holds(&cluster), 1, "the rest is not held back again");
    }
}

#[test]
fn a_restart_ends_a_hold_and_every_worker_is_found_in_the_end() {
    let cluster = cautious().start();
    let database = cluster.database("restarts");
    let mut client = database.connect();
    await_sweep(&mut client, "judged-before");
    fleet(&mut client, "ship", 5);
    wait_until("the hold", || holds(&cluster) == 1);
    cluster.restart("immediate");
    let mut client = database.connect();
    wait_until("the deaths", || dead(&mut client, "ship") == 5);
    assert_eq!(holds(&cluster), 2, "observed anew, held back anew");
}
