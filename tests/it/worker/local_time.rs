//! Clients that write the time of their own zone into an adopted table whose times are UTC.

use crate::cluster::*;
use postgres::Client;
use std::time::Duration;

const CHECK: &str =
    "SELECT status, detail || ' ' || coalesce(hint, '') FROM rgrid_health() WHERE check_name = 'local time'";

fn local_time(client: &mut Client) -> (String, String) {
    let row = client.query_one(CHECK, &[]).expect("there is such a check");
    (row.get(0), row.get(1))
}

/// A database whose table of heartbeats takes the time of the session's zone as a default.
fn with_local_default<'a>(cluster: &'a Cluster, name: &str) -> Database<'a> {
    let database = cluster.empty_database(name);
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE TABLE worker_heartbeats (worker_id text PRIMARY KEY, last_heartbeat_at timestamp NOT NULL DEFAULT now())",
    );
    executions_table(&mut client);
    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
    database
}

/// A worker that beats by the default, in a zone.
fn beating_in(database: &Database<'_>, zone: &str, worker: &'static str) -> Beating {
    let mut client = database.connect();
    run(&mut client, &format!("SET timezone = '{zone}'"));
    Beating::start(client, move |client| {
        let beat = "INSERT INTO worker_heartbeats (worker_id) VALUES ($1)
                    ON CONFLICT (worker_id) DO UPDATE SET last_heartbeat_at = DEFAULT";
        client.execute(beat, &[&worker]).expect("a heartbeat can be written");
    })
}

#[test]
fn workers_that_write_local_time_are_reported_and_live() {
    let cluster = Cluster::quick().start();
    let database = with_local_default(&cluster, "local");
    let mut client = database.connect();
    let beats = ["Etc/GMT+5", "Etc/GMT-3", "UTC"].map(|zone| {
        let worker = match zone {
            "Etc/GMT+5" => "behind",
            "Etc/GMT-3" => "ahead",
            _ => "in-utc",
        };
        beating_in(&database, zone, worker)
    });
    claim_jobs(&mut client, "behind", 1);
    let problem = "SELECT count(*) FROM pg_stat_rgrid_problems
                   WHERE datname = 'local' AND problem = 'local time' AND message LIKE '%\"behind\"%05:00%'";
    wait_until("the problem", || ask::<i64>(&mut client, problem, &[]) == 1);
    assert_eq!(cluster.log_lines_with(&["local time", "\"behind\"", "05:00"]).len(), 1, "logged once");
    let (status, detail) = local_time(&mut client);
    assert_eq!(status, "warning");
    assert!(detail.contains("behind") && detail.contains("AT TIME ZONE 'UTC'"), "{detail}");
    // Another worker joins later, and is silent for hours by its first row.
    let late = beating_in(&database, "Asia/Kathmandu", "quarter");
    let later = beating_in(&database, "Etc/GMT+9", "later");
    stays(Duration::from_secs(6), "nobody dies", || {
        ask::<i64>(&mut client, "SELECT count(*) FROM rgrid_worker_deaths", &[]) == 0
    });
    drop((beats, late, later));
    for worker in ["behind", "ahead", "in-utc", "quarter", "later"] {
        await_death(&mut client, worker);
    }
    assert_eq!(failed_jobs(&mut client, "behind"), 1);
    wait_until("the problem to end", || ask::<i64>(&mut client, problem, &[]) == 0);
}

#[test]
fn a_silent_worker_dies_whatever_its_row_says() {
    let cluster = Cluster::quick().start();
    let database = with_local_default(&cluster, "silent");
    let mut client = database.connect();
    // Written once, as by a restore or by hand; renewed, but by no clock of another zone; renewed with the same time.
    run(
        &mut client,
        "INSERT INTO worker_heartbeats SELECT w, now() AT TIME ZONE 'UTC' - interval '5 h'
         FROM unnest(ARRAY['once', 'stuck']) w",
    );
    let stuck =
        "UPDATE worker_heartbeats SET last_heartbeat_at = last_heartbeat_at WHERE worker_id = 'stuck'";
    let late = "INSERT INTO worker_heartbeats VALUES ('late', now() AT TIME ZONE 'UTC' - interval '67 min')
                ON CONFLICT (worker_id) DO UPDATE SET last_heartbeat_at = EXCLUDED.last_heartbeat_at";
    let renewing = database.connect();
    let _beats = Beating::start(renewing, move |client| {
        run(client, stuck);
        run(client, late);
    });
    for worker in ["once", "late", "stuck"] {
        await_death(&mut client, worker);
    }
}

#[test]
fn a_default_of_local_time_is_reported_before_anybody_uses_it() {
    let cluster = Cluster::builder().start();
    let database = with_local_default(&cluster, "defaulted");
    let mut client = database.connect();
    assert_eq!(local_time(&mut client).0, "ok", "while every zone is UTC");
    run(&mut client, "CREATE ROLE newyorker; ALTER ROLE newyorker SET timezone = 'America/New_York'");
    let (status, detail) = local_time(&mut client);
    assert_eq!(status, "warning");
    assert!(detail.contains("America/New_York") && detail.contains("newyorker"), "{detail}");
    run(
        &mut client,
        "ALTER ROLE newyorker RESET timezone; ALTER DATABASE defaulted SET timezone = 'Europe/London'",
    );
    let (status, detail) = local_time(&mut client);
    assert_eq!(status, "warning", "it is UTC only in winter");
    assert!(detail.contains("Europe/London"), "{detail}");
    let fix = detail.split_once("ALTER TABLE").expect("the hint has a statement").1;
    let fix = fix.split_once(';').expect("it ends").0;
    run(&mut client, &format!("ALTER TABLE{fix}"));
    assert_eq!(local_time(&mut client).0, "ok");
}
