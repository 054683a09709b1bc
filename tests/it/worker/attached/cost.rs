//! What lost sessions cost: only the rows of their workers, however many others there are, and however many end at
//! once.

use super::*;
use std::process::{Command, Stdio};

#[test]
fn the_rows_of_other_workers_are_not_read() {
    let cluster = patient_server().start();
    let database = cluster.database("others");
    let mut client = database.connect();
    run(
        &mut client,
        "INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at)
             SELECT 'other-' || n, clock_timestamp() FROM generate_series(1, 10000) AS n;
         ANALYZE worker_heartbeats",
    );
    // The sweep that a new installation asks for.
    wait_until("the first sweep", || counter(&mut client, "sweeps") == 1);
    let process = attached(&database, "victim");
    let scans =
        "SELECT ARRAY[seq_scan, idx_scan] FROM pg_stat_user_tables WHERE relname = 'worker_heartbeats'";
    let before: Vec<i64> = ask(&mut client, scans, &[]);
    process.kill();
    await_death(&mut client, "victim");
    let mut after = before.clone();
    wait_until("the sweeper's statistics", || {
        after = ask(&mut client, scans, &[]);
        after[1] > before[1]
    });
    assert_eq!(after[0], before[0], "by the index alone");
    assert_eq!(counter(&mut client, "sweeps"), 1, "by no ordinary sweep");
}

/// Opens many sessions, attaches a worker in each, and waits.
const AGENT: &str = "
import sys, time, psycopg
sessions = [psycopg.connect(sys.argv[1], autocommit=True) for _ in range(int(sys.argv[2]))]
for number, session in enumerate(sessions):
    session.execute(f\"SELECT rgrid_attach('worker-{number}', 'one.example')\")
time.sleep(3600)
";

#[test]
fn hundreds_of_sessions_that_end_at_once_are_as_many_deaths() {
    const SESSIONS: i64 = 300;
    let cluster = patient_server()
        .setting("max_connections", "400")
        .setting("rgrid_heartbeat.max_disconnected_fraction", "1")
        .start();
    let database = cluster.database("hundreds");
    let mut client = database.connect();
    let (dsn, sessions) = (database.connection_string(), SESSIONS.to_string());
    let program = ["/usr/bin/python3", "-B", "-c", AGENT, &dsn, &sessions];
    let agent = Leashed::start(Command::new("sh"), &program, Stdio::null());
    wait_until("all to be attached", || counter(&mut client, "attached_workers") == SESSIONS);
    drop(agent);
    wait_until("all to be dead", || dead(&mut client).len() >= 300);
    await_judgement(&database, &mut client);
    let each =
        "SELECT count(*) = 301 AND count(DISTINCT worker_id) = 301 AND bool_and(reason = 'disconnected')
                FROM rgrid_worker_deaths";
    assert!(ask::<bool>(&mut client, each, &[]), "once each, and of that alone");
    assert_eq!((counter(&mut client, "sessions_lost"), lost_together(&mut client)), (SESSIONS + 1, 0));
}
