//! `rgrid_health()`: it finds nothing where all is well, and each check fails when it should.

mod job_checks;
mod server_checks;
mod worker_checks;

use crate::cluster::*;
use postgres::Client;
use std::collections::BTreeSet;
use std::fs;

/// Sweeps and flushes often.
fn server() -> Shared {
    Shared::of(busy)
}

fn busy() -> Builder {
    Cluster::builder()
        .setting("rgrid_heartbeat.check_interval", "200ms")
        .setting("rgrid_heartbeat.flush_interval", "100ms")
        .setting("rgrid_heartbeat.stale_threshold", "5s")
}

/// A session of a database with the threshold that it has out of the box.
fn connect_patiently(database: &Database<'_>, name: &str) -> Client {
    let sql = format!("ALTER DATABASE {name} SET rgrid_heartbeat.stale_threshold = '2min'");
    run(&mut database.connect(), &sql);
    database.connect()
}

/// What one check found: its status, its detail and its hint.
fn finding(client: &mut Client, check: &str) -> (String, String, String) {
    let sql = "SELECT status, detail, coalesce(hint, '') FROM rgrid_health() WHERE check_name = $1";
    let row = client.query_one(sql, &[&check]).unwrap_or_else(|error| panic!("{check}: {error:?}"));
    (row.get(0), row.get(1), row.get(2))
}

/// Returns what a check found when it has this status.
fn await_status(client: &mut Client, check: &str, status: &str) -> (String, String) {
    let mut found = (String::new(), String::new(), String::new());
    wait_until(&format!("check {check} to be {status}"), || {
        found = finding(client, check);
        found.0 == status
    });
    (found.1, found.2)
}

/// Every check that found something, with what it found.
fn complaints(client: &mut Client) -> Vec<String> {
    let sql =
        "SELECT format('%s %s: %s', check_name, status, detail) FROM rgrid_health() WHERE status <> 'ok'";
    client.query(sql, &[]).expect("health can be asked").iter().map(|row| row.get(0)).collect()
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_healthy_installation_has_nothing_to_report() {
    let cluster = server();
    let database = cluster.database("healthy");
    let _beats = Beating::calling(database.connect(), "worker");
    await_sweep(&mut database.connect(), "silent");
    let mut client = connect_patiently(&database, "healthy");
    claim_jobs(&mut client, "worker", 2);
    wait_until("intervals to be known", || finding(&mut client, "threshold").1.contains("median"));
    assert_eq!(complaints(&mut client), NOTHING);
}

/// The names in the table of checks of the documents, where `...` stands for a table of jobs or a queue.
fn documented_checks() -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md");
    let document = fs::read_to_string(path).expect("the document is there");
    let table = document.split("| check | status | ").nth(1).expect("it has a table of checks");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).expect("a row begins with a name").to_owned()).collect()
}

#[test]
fn the_checks_are_those_of_the_documents() {
    let cluster = server();
    let database = cluster.database("documented");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE FUNCTION settle(text[], text, timestamptz) RETURNS void LANGUAGE sql AS 'SELECT';
         SELECT rgrid_watch_function('settle(text[], text, timestamptz)')",
    );
    let sql = "SELECT regexp_replace(replace(check_name, 'public.executions', '...'), '^job queue .*', 'job queue ...')
               FROM rgrid_health()";
    let rows = client.query(sql, &[]).expect("health can be asked");
    let checks: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(checks, documented_checks());
}

#[test]
fn a_monitor_may_ask_and_needs_no_right_on_any_table() {
    let cluster = server();
    let database = cluster.database("monitored");
    let mut client = database.connect();
    run(&mut client, "CREATE ROLE watcher LOGIN IN ROLE pg_monitor; CREATE ROLE passer LOGIN");
    claim_jobs(&mut client, "unheard-of", 3);
    let mut watcher = database.connect_as("watcher");
    let mut first = Vec::new();
    wait_until("the first sweep", || {
        first = complaints(&mut watcher);
        first.len() == 1
    });
    assert!(first[0].contains("3 running jobs belong to 1 workers"), "{first:?}");
    assert_eq!(sqlstate(&mut watcher, "SELECT FROM executions"), "42501");
    run(&mut watcher, "BEGIN READ ONLY; SELECT FROM rgrid_health(); COMMIT");
    assert_eq!(sqlstate(&mut database.connect_as("passer"), "SELECT rgrid_health()"), "42501");
}
