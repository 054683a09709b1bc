//! Many deaths at once: held back for a while, visibly, and never for ever.

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

/// Workers of a fleet that beat one after the other, each twice a second: a fifth of them at a time.
fn beating(database: &Database<'_>, size: usize) -> Beating {
    let mut turn = 0;
    Beating::start(database.connect(), move |client| {
        let now: Vec<String> =
            (1..=size).filter(|n| n % 5 == turn % 5).map(|n| format!("ship-{n}")).collect();
        run(client, &format!("SELECT rgrid_heartbeat('{{{}}}'::text[])", now.join(",")));
        turn += 1;
    })
}

/// All of a fleet have a row and a job.
fn at_work(client: &mut Client, size: i32) {
    let sql = "SELECT count(*) FROM worker_heartbeats WHERE worker_id LIKE 'ship-%'";
    wait_until("the fleet to be known", || ask::<i64>(client, sql, &[]) == i64::from(size));
    (1..=size).for_each(|n| claim_jobs(client, &format!("ship-{n}"), 1));
}

#[test]
fn a_fleet_that_is_cut_off_and_comes_back_one_by_one_loses_nobody() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "4s").start();
    let database = cluster.database("cut");
    let mut client = database.connect();
    await_sweep(&mut client, "judged-before");
    let beats = beating(&database, 20);
    at_work(&mut client, 20);
    drop(beats);
    wait_until("the hold", || holds(&cluster) == 1);
    assert_eq!(dead(&mut client, "ship"), 0, "not even those who had beaten before the others");
    let held = "SELECT held_workers FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    assert_eq!(ask::<i64>(&mut client, held, &[]), 20);
    // The network is there again; not all find back at once.
    let sweeps = "SELECT sweeps FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    for back in [3, 11, 20] {
        for n in 1..=back {
            beat(&mut client, &format!("ship-{n}"));
        }
        let before: i64 = ask(&mut client, sweeps, &[]);
        wait_until("a sweep", || ask::<i64>(&mut client, sweeps, &[]) > before + 1);
        assert_eq!(dead(&mut client, "ship"), 0, "{back} are back");
    }
    let running = "SELECT count(*) FROM executions WHERE status = 'running'";
    assert_eq!(ask::<i64>(&mut client, running, &[]), 20);
}

#[test]
fn by_default_a_fleet_that_died_is_found_a_threshold_later_and_ten_workers_at_once() {
    let cluster = Cluster::quick().start();
    let (big, small) = (cluster.database("big"), cluster.database("small"));
    let (mut client, mut small_client) = (big.connect(), small.connect());
    await_sweep(&mut client, "judged-before");
    let written = Instant::now();
    fleet(&mut small_client, "all", 10);
    fleet(&mut client, "ship", 11);
    wait_until("the deaths of the small fleet", || dead(&mut small_client, "all") == 10);
    wait_until("the deaths of the big one", || dead(&mut client, "ship") == 11);
    assert!(written.elapsed() >= Duration::from_secs(4), "two thresholds: {:?}", written.elapsed());
    assert_eq!(holds(&cluster), 1, "that of the big one");
}

#[test]
fn by_default_hosts_that_die_beside_others_are_not_held_back() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "4s").start();
    let database = cluster.database("hosts");
    let mut client = database.connect();
    await_sweep(&mut client, "judged-before");
    let _beats = beating(&database, 3);
    fleet(&mut client, "crashed", 20);
    wait_until("the deaths", || dead(&mut client, "crashed") == 20);
    assert_eq!(holds(&cluster), 0);
}

#[test]
fn workers_that_fell_silent_one_by_one_are_not_held_back() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("one_by_one");
    let mut client = database.connect();
    await_sweep(&mut client, "judged-before");
    run(
        &mut client,
        "INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at)
         SELECT 'ship-' || n, clock_timestamp() - n * interval '1 minute' FROM generate_series(1, 20) AS n",
    );
    wait_until("the deaths", || dead(&mut client, "ship") == 20);
    assert_eq!(holds(&cluster), 0);
}

#[test]
fn with_a_share_of_1_no_death_is_held_back() {
    let cluster = Cluster::quick()
        .setting("rgrid_heartbeat.max_dead_fraction", "1")
        .setting("rgrid_heartbeat.mass_death_minimum", "0")
        .start();
    let database = cluster.database("never");
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
