//! Worker columns of types whose values have more than one spelling.

use crate::cluster::*;
use postgres::Client;

/// Tables of jobs named after their types.
const TYPES: [(&str, &str); 8] = [
    ("uuids", "uuid"),
    ("domains", "worker_uuid"),
    ("numbers", "numeric"),
    ("prices", "numeric(10,2)"),
    ("counts", "bigint"),
    ("addresses", "inet"),
    ("words", "citext"),
    ("padded", "char(40)"),
];

fn server() -> Shared {
    Shared::of(Cluster::quick)
}

/// The tables, each with a partial index on the running jobs, all watched. Returns their names. Where there is no
/// citext, which some builds of PostgreSQL lack, that one is missing.
fn watched_tables(client: &mut Client) -> Vec<&'static str> {
    run(client, "CREATE EXTENSION rgrid_heartbeat; CREATE DOMAIN worker_uuid AS uuid");
    let has_citext = has_available(client, "citext");
    if has_citext {
        run(client, "CREATE EXTENSION citext");
    }
    let types = TYPES.into_iter().filter(|(_, worker)| has_citext || *worker != "citext");
    for (table, worker) in types.clone() {
        run(
            client,
            &format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, status text NOT NULL, worker_id {worker},
                                       execution_error text, completed_at timestamptz);
                 CREATE INDEX ON {table} (worker_id) WHERE status = 'running';
                 SELECT rgrid_watch_jobs('{table}')"
            ),
        );
    }
    types.map(|(table, _)| table).collect()
}

fn claim(client: &mut Client, table: &str, id: i32, worker: &str) {
    run(client, &format!("INSERT INTO {table} (id, status, worker_id) VALUES ({id}, 'running', '{worker}')"));
}

/// The statuses of a table's jobs, in the order of their ids.
fn statuses(client: &mut Client, table: &str) -> String {
    ask(client, &format!("SELECT string_agg(status, ' ' ORDER BY id) FROM {table}"), &[])
}

#[test]
fn a_job_is_settled_however_its_worker_is_spelled() {
    let cluster = server();
    let database = cluster.empty_database("spelled");
    let mut client = database.connect();
    let tables = watched_tables(&mut client);
    let mut jobs = vec![
        ("uuids", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A12", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12"),
        ("uuids", "{a0eebc999c0b4ef8-bb6d6bb9bd380a13}", "a0eebc999c0b4ef8bb6d6bb9bd380a13"),
        ("uuids", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("domains", "B0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A12", "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12"),
        ("numbers", "1.50", "1.5"),
        ("numbers", " 1e3", "1000"),
        ("prices", "2.504", "2.504"),
        ("counts", "007", "7"),
        ("addresses", "10.0.0.1/32", "10.0.0.1"),
        ("addresses", "2001:DB8:0::1", "2001:db8::1"),
        ("words", "Worker-One", "worker-one"),
        ("padded", "padded", "padded"),
    ];
    jobs.retain(|(table, ..)| tables.contains(table));
    for (id, (table, _, claimed)) in (1..).zip(&jobs) {
        claim(&mut client, table, id, claimed);
    }
    // None of these is a value of most of the types.
    for worker in ["abc", "", "x'; y", "99999999999999999999", "{", "NaN", "10.0.0.1-4711", "\u{e9}"] {
        if !worker.is_empty() {
            silent_worker(&mut client, worker);
        }
    }
    for (_, worker, _) in &jobs {
        silent_worker(&mut client, worker);
    }
    for table in tables {
        wait_until(&format!("the jobs in {table} to fail"), || {
            !statuses(&mut client, table).contains("running")
        });
    }
    // Each death has the job, by the id that the worker has.
    let counted = "SELECT count(*) FROM rgrid_worker_deaths WHERE jobs_failed = 1";
    assert_eq!(ask::<i64>(&mut client, counted, &[]), jobs.len() as i64);
    let problems = "SELECT count(*) FROM pg_stat_rgrid_problems WHERE datname = 'spelled'";
    assert_eq!(ask::<i64>(&mut client, problems, &[]), 0);
}

#[test]
fn a_job_stays_while_another_spelling_of_its_worker_lives() {
    let cluster = server();
    let database = cluster.empty_database("twins");
    let mut client = database.connect();
    watched_tables(&mut client);
    const LIVING: &str = "c0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12";
    let dead = LIVING.to_uppercase();
    let beats = Beating::calling(database.connect(), LIVING);
    claim(&mut client, "uuids", 1, LIVING);
    claim(&mut client, "uuids", 2, "d0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12");
    silent_worker(&mut client, &dead);
    silent_worker(&mut client, "D0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A12");
    await_death(&mut client, &dead);
    wait_until("the other worker's job to fail", || statuses(&mut client, "uuids") == "running failed");
    await_sweep(&mut client, "witness");
    assert_eq!(statuses(&mut client, "uuids"), "running failed", "a sweep for orphans leaves it, too");
    // Nor does another process of the dead one's settle it, nor its end.
    run(&mut client, &format!("SELECT rgrid_register('{dead}'); SELECT rgrid_deregister('{dead}')"));
    assert_eq!(statuses(&mut client, "uuids"), "running failed");
    drop(beats);
    wait_until("the job of both to fail", || statuses(&mut client, "uuids") == "failed failed");
}

#[test]
fn calls_of_workers_and_operators_know_every_spelling() {
    let cluster = Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h").start();
    let database = cluster.empty_database("calls");
    let mut client = database.connect();
    watched_tables(&mut client);
    let (spelled, stored) = ("E0EEBC999C0B4EF8BB6D6BB9BD380A12", "e0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12");
    beat(&mut client, spelled);
    beat(&mut client, "no uuid");
    claim(&mut client, "uuids", 1, stored);
    let unknown =
        "SELECT status FROM rgrid_health() WHERE check_name = 'jobs of unknown workers public.uuids'";
    assert_eq!(ask::<String>(&mut client, unknown, &[]), "ok");
    claim(&mut client, "uuids", 2, "00000000-0000-0000-0000-000000000001");
    assert_eq!(ask::<String>(&mut client, unknown, &[]), "warning");
    run(&mut client, "DELETE FROM uuids WHERE id = 2");
    let rehearsed = "SELECT status || ': ' || detail FROM rgrid_rehearse('uuids')";
    let rehearsed: String = ask(&mut client, rehearsed, &[]);
    assert!(rehearsed.starts_with("ok: "), "{rehearsed}");

    run(&mut client, &format!("SELECT rgrid_register('{spelled}'), rgrid_register('no uuid')"));
    assert_eq!(statuses(&mut client, "uuids"), "failed", "registered");
    claim(&mut client, "uuids", 2, stored);
    run(&mut client, &format!("SELECT rgrid_deregister('{spelled}'), rgrid_deregister('no uuid')"));
    assert_eq!(statuses(&mut client, "uuids"), "failed failed", "deregistered");

    claim(&mut client, "uuids", 3, stored);
    silent_worker(&mut client, "no uuid");
    let dry = format!(
        "SELECT jobs_failed FROM rgrid_sweep(dry_run => true)
         WHERE worker_id = '{spelled}' AND job_table = 'public.uuids'"
    );
    assert_eq!(ask::<i64>(&mut client, &dry, &[]), 1, "a dry run, of an orphan");
    let swept = dry.replace("dry_run => true", "");
    assert_eq!(ask::<i64>(&mut client, &swept, &[]), 1, "a sweep");
    assert_eq!(statuses(&mut client, "uuids"), "failed failed failed");
    claim(&mut client, "uuids", 4, stored);
    beat(&mut client, spelled);
    assert_eq!(statuses(&mut client, "uuids"), "failed failed failed failed", "it came back");
}
