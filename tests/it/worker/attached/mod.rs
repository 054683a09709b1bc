//! Workers that are attached to a session: dead soon after its client vanishes, and not because of anything else.

use crate::cluster::*;
use postgres::Client;

mod lost_sessions;
mod poolers;
mod together;
mod transactions;

/// A server whose workers die of silence after a minute, in no test: all that die here have lost their sessions.
fn patient_server() -> Builder {
    Cluster::builder()
        .setting("rgrid_heartbeat.check_interval", "1s")
        .setting("rgrid_heartbeat.stale_threshold", "1min")
        .setting("rgrid_heartbeat.disconnect_grace", "500ms")
}

/// Whether the worker is tied, disconnected or neither, by the view.
fn tie(client: &mut Client, worker: &str) -> String {
    let sql =
        "SELECT CASE WHEN attached_at IS NOT NULL THEN 'tied' WHEN disconnected_at IS NOT NULL THEN 'lost'
                           ELSE 'none' END
               FROM rgrid_workers WHERE worker_id = $1";
    ask(client, sql, &[&worker])
}

fn await_tie(client: &mut Client, worker: &str, wanted: &str) {
    wait_until(&format!("{worker} to be {wanted}"), || tie(client, worker) == wanted);
}

/// Returns when the server's process of a session has ended.
fn await_end(client: &mut Client, backend: i32) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
    wait_until("a session to end", || ask::<i64>(client, sql, &[&backend]) == 0);
}
