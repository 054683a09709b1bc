//! Heartbeats in shared memory and the flush that writes their rows: what a heartbeat costs, what is known
//! before and after a flush, and how the two stay together through rollbacks, deletions and crashes.

mod before_flush;
mod capacity;
mod cost;
mod crashes;
mod entries;
mod filling;
mod flush;
mod prepared;
mod transactions;

use crate::cluster::*;
use chrono::{DateTime, Utc};
use postgres::Client;

/// Neither flushes nor sweeps, unless a test says so: what is in memory stays there.
fn still() -> Builder {
    Cluster::builder()
        .setting("rgrid_heartbeat.check_interval", "1h")
        .setting("rgrid_heartbeat.flush_interval", "1h")
        .setting("log_min_messages", "debug1")
        .setting("autovacuum", "off")
}

fn still_server() -> Shared {
    Shared::of(still)
}

/// Flushes every 100 ms and never sweeps.
fn flushing_server() -> Shared {
    Shared::of(|| still().setting("rgrid_heartbeat.flush_interval", "100ms"))
}

/// Returns when the worker's row has a heartbeat that is not older than `since`.
fn await_written_since(client: &mut Client, worker: &str, since: DateTime<Utc>) {
    wait_until(&format!("a heartbeat of {worker} in its row"), || row_time(client, worker) >= Some(since));
}

/// One heartbeat, in memory, and its way to the row.
fn beat_and_await_row(client: &mut Client, worker: &str) {
    let since = server_time(client);
    assert!(beats_in_memory(client, worker), "{worker} should be known in memory");
    await_written_since(client, worker, since);
}

/// How many workers of this database are in memory.
fn entries(client: &mut Client) -> i64 {
    let sql = "SELECT buffer_entries FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    ask(client, sql, &[])
}

fn forget_row(client: &mut Client, worker: &str) {
    client.execute("DELETE FROM worker_heartbeats WHERE worker_id = $1", &[&worker]).expect("a row can go");
}

fn rows(client: &mut Client, worker: &str) -> i64 {
    ask(client, "SELECT count(*) FROM worker_heartbeats WHERE worker_id = $1", &[&worker])
}
