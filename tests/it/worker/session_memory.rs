//! What a call leaves behind in the memory of its session: nothing.

use crate::cluster::*;
use postgres::Client;
use std::fs;

/// Only sessions sweep.
fn server() -> Shared {
    Shared::of(|| Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h"))
}

/// How much a session may grow after its first calls, in kB: what caches and the allocator keep back. A plan that is
/// not freed takes more in a hundred calls.
const SLACK: i64 = 1024;

/// The memory that the session has for itself, in kB: without what it shares with the other processes.
fn own_memory(pid: i32) -> i64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Makes calls in eleven rounds. What they leave behind grows the session in each of them. One step is not counted: a
/// cache that is built, or read anew after an invalidation, grows it once, in whichever round that is.
fn stays_flat(client: &mut Client, what: &str, round: &str) {
    let session = pid(client);
    run(client, round);
    let mut sizes = vec![own_memory(session)];
    for _ in 0..10 {
        run(client, round);
        sizes.push(own_memory(session));
    }
    println!("{what}: {sizes:?} kB");
    let largest_step = sizes.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    let grown = sizes[10] - sizes[0] - largest_step.max(0);
    assert!(grown < SLACK, "{what}: grew by {grown} kB beside one step: {sizes:?}");
}

/// So many transactions in one statement, `i` counting them; an error is as good as an answer.
fn transactions(count: i32, call: &str) -> String {
    format!(
        "DO $$BEGIN
             FOR i IN 1..{count} LOOP
                 BEGIN {call}; EXCEPTION WHEN OTHERS THEN NULL; END;
                 COMMIT;
             END LOOP;
         END$$"
    )
}

#[test]
fn a_million_heartbeats_leave_nothing_in_memory() {
    let cluster = server();
    let database = cluster.database("beats");
    let mut client = database.connect();
    run(&mut client, "SELECT rgrid_register('w' || i) FROM generate_series(0, 99) i");
    let round = "SELECT count(rgrid_heartbeat('w' || i % 100)) FROM generate_series(1, 100000) i";
    stays_flat(&mut client, "heartbeats in memory", round);
    assert!(beats_in_memory(&mut client, "w1"));
    let round = "SELECT count(*) FROM generate_series(1, 1000) i,
                     rgrid_heartbeat((SELECT array_agg('w' || n) FROM generate_series(0, 99) n))";
    stays_flat(&mut client, "heartbeats of many", round);
}

#[test]
fn heartbeats_that_go_to_their_rows_leave_nothing_in_memory() {
    let cluster = server();
    let database = cluster.database("rows");
    let mut client = database.connect();
    // Another hostname each time: the row has to be written.
    let call = "PERFORM rgrid_heartbeat('w' || i % 500, 'host' || i)";
    stays_flat(&mut client, "heartbeats in rows", &transactions(7000, call));
}

#[test]
fn registrations_leave_nothing_in_memory() {
    let cluster = server();
    let database = cluster.database("registrations");
    let mut client = database.connect();
    stays_flat(&mut client, "again", &transactions(1500, "PERFORM rgrid_register('w' || i)"));
    let call = "PERFORM rgrid_register('n' || i); PERFORM rgrid_deregister('n' || i)";
    stays_flat(&mut client, "new ones and their end", &transactions(700, call));
}

#[test]
fn refusals_leave_nothing_in_memory() {
    let cluster = server();
    let database = cluster.database("refusals");
    let mut client = database.connect();
    let call = "PERFORM rgrid_heartbeat(repeat('x', 100000))";
    stays_flat(&mut client, "refused arguments", &transactions(2000, call));
    let call = "PERFORM rgrid_watch_jobs('executions', error_message => repeat('x', 10000), worker_column => 'none')";
    stays_flat(&mut client, "refused tables", &transactions(1000, call));
}

#[test]
fn watching_and_sweeping_leave_nothing_in_memory() {
    let cluster = server();
    let database = cluster.database("watches");
    let mut client = database.connect();
    let columns = "status text, worker_id text, execution_error text, completed_at timestamp";
    run(&mut client, &format!("CREATE TABLE jobs ({columns})"));
    let call = "PERFORM rgrid_watch_jobs('jobs', error_message => repeat('x', 1000)); PERFORM rgrid_unwatch_jobs('jobs')";
    stays_flat(&mut client, "watching", &transactions(1000, call));
    run(&mut client, "SELECT rgrid_watch_jobs('jobs'), rgrid_register('w')");
    let call = "INSERT INTO jobs VALUES ('running', 'w'); PERFORM rgrid_register('w')";
    stays_flat(&mut client, "settling", &transactions(200, call));
    assert!(ask::<bool>(&mut client, "SELECT count(*) > 2000 FROM jobs WHERE status = 'failed'", &[]));
    stays_flat(&mut client, "sweeping", &transactions(200, "PERFORM rgrid_sweep()"));
}
