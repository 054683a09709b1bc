//! The whole story on one server: workers register, claim jobs and beat; one goes silent and loses its jobs.

use crate::cluster::*;
use postgres::Client;

fn register(client: &mut Client, host: &str) -> (String, i64) {
    let row = client.query_one("SELECT id, incarnation FROM rgrid_register(hostname => $1)", &[&host]);
    let row = row.expect("a worker can register");
    (row.get(0), row.get(1))
}

fn keep_alive(client: Client, worker: &str, host: &'static str) -> Beating {
    let worker = worker.to_owned();
    Beating::start(client, move |client| {
        let incarnation: i64 = ask(client, "SELECT rgrid_heartbeat($1, $2)", &[&worker, &host]);
        assert_eq!(incarnation, 1, "{worker} was declared dead while it beat");
    })
}

#[test]
fn a_worker_that_stops_beating_is_found_and_its_jobs_fail() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("story");
    let mut client = database.connect();

    let (silent, first) = register(&mut client, "silent.example");
    let (healthy, _) = register(&mut client, "healthy.example");
    assert!(silent.starts_with("worker-") && silent.len() == 15 && first == 1, "{silent} {first}");
    let beats = keep_alive(database.connect(), &silent, "silent.example");
    let _healthy_beats = keep_alive(database.connect(), &healthy, "healthy.example");
    claim_jobs(&mut client, &silent, 3);
    claim_jobs(&mut client, &healthy, 2);
    queue_jobs(&mut client, "nobody", 4);
    await_sweep(&mut client, "an-earlier-victim");
    assert_eq!(deaths(&mut client, &silent), 0, "beating workers live");

    drop(beats);
    await_death(&mut client, &silent);
    await_sweep(&mut client, "a-later-victim");

    assert_eq!(failed_jobs(&mut client, &silent), 3);
    assert_eq!(ledger(&mut client, &silent), ["1 stale 3 gone"]);
    assert_eq!((jobs(&mut client, &healthy, "running"), deaths(&mut client, &healthy)), (2, 0));
    let queued: i64 = ask(&mut client, "SELECT count(*) FROM executions WHERE status = 'queued'", &[]);
    assert_eq!(queued, 4, "unclaimed jobs stay queued");
    the_log_tells_of_the_death_once(&cluster, &silent);
}

fn the_log_tells_of_the_death_once(cluster: &Cluster, worker: &str) {
    let lines = cluster.log_lines_with(&["LOG:", worker, "silent.example", "declared dead", "jobs failed"]);
    let [line] = lines.as_slice() else { panic!("one line a death is wanted: {lines:#?}") };
    let told = line.split(worker).last().unwrap_or_default();
    let mut numbers = told.split(|c: char| !c.is_ascii_digit());
    assert!(numbers.any(|number| number == "3"), "the number of jobs is missing: {line}");
    assert!(told.contains("heartbeat"), "the age of the last heartbeat is missing: {line}");
}
