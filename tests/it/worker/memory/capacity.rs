//! More workers than fit, and how their places become free again.

use super::*;

const CAPACITY: i64 = 100;
const WORKERS: i64 = 250;

#[test]
fn more_workers_than_fit_are_all_heard_and_the_log_says_so_once() {
    let cluster = Cluster::quick()
        .setting("rgrid_heartbeat.max_workers", &CAPACITY.to_string())
        .setting("rgrid_heartbeat.flush_interval", "100ms")
        .setting("rgrid_heartbeat.stale_threshold", "4s")
        .start();
    let database = cluster.database("overfull");
    let mut client = database.connect();
    let beats = Beating::start(database.connect(), everyone_beats);
    await_sweep(&mut client, "somebody-dead");
    assert_eq!(deaths_of_others(&mut client), 0);
    assert_eq!(entries(&mut client), CAPACITY);
    drop(beats);

    let began = server_time(&mut client);
    everyone_beats(&mut client);
    wait_until("all rows to be written", || {
        let sql = "SELECT count(*) FROM worker_heartbeats
                   WHERE worker_id LIKE 'worker-%' AND last_heartbeat_at >= $1";
        ask::<i64>(&mut client, sql, &[&began]) == WORKERS
    });
    wait_until("every worker's death", || deaths_of_others(&mut client) == WORKERS);
    let warnings = cluster.log_lines_with(&["WARNING:", "do not fit in shared memory"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

fn everyone_beats(client: &mut Client) {
    let sql = "SELECT count(*) FROM rgrid_heartbeat(
                   (SELECT array_agg('worker-' || n) FROM generate_series(1, $1::bigint) n)) AS incarnation
               WHERE incarnation = 1";
    assert_eq!(ask::<i64>(client, sql, &[&WORKERS]), WORKERS);
}

fn deaths_of_others(client: &mut Client) -> i64 {
    ask(client, "SELECT count(*) FROM rgrid_worker_deaths WHERE worker_id LIKE 'worker-%'", &[])
}

/// A server with room for two workers.
fn tiny() -> Cluster {
    let builder = Cluster::quick().setting("rgrid_heartbeat.max_workers", "2");
    builder.setting("rgrid_heartbeat.flush_interval", "100ms").start()
}

/// Proof that there are two free slots: two new workers come to beat in memory.
fn await_two_free_slots(client: &mut Client, names: [&str; 2]) {
    wait_until(&format!("room in memory for {names:?}"), || {
        let in_memory = names.map(|worker| beats_in_memory(client, worker));
        in_memory == [true, true]
    });
}

#[test]
fn dropped_databases_and_extensions_leave_their_memory_to_others() {
    let cluster = tiny();
    for round in 1..=3 {
        let database = cluster.database(&format!("short_lived_{round}"));
        let mut client = database.connect();
        await_two_free_slots(&mut client, ["a", "b"]);
        run(&mut client, "DROP EXTENSION rgrid_heartbeat");
        run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
        await_two_free_slots(&mut client, ["c", "d"]);
    }
    let database = cluster.database("without");
    let mut client = database.connect();
    await_two_free_slots(&mut client, ["a", "b"]);
    run(&mut client, "DROP EXTENSION rgrid_heartbeat");
    let other = cluster.database("other");
    await_two_free_slots(&mut other.connect(), ["c", "d"]);
}

#[test]
fn deleted_and_dead_workers_leave_their_memory_to_others() {
    let cluster = tiny();
    let database = cluster.database("cleared");
    let mut client = database.connect();
    await_two_free_slots(&mut client, ["a", "b"]);
    await_death(&mut client, "a");
    await_death(&mut client, "b");
    await_two_free_slots(&mut client, ["c", "d"]);
    for worker in ["c", "d"] {
        beat_and_await_row(&mut client, worker);
        forget_row(&mut client, worker);
    }
    await_two_free_slots(&mut client, ["e", "f"]);
}
