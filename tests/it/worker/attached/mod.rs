//! Workers that are attached to a session: dead soon after its client vanishes, and not because of anything else.

use crate::cluster::*;
use postgres::{Client, SimpleQueryMessage};

mod cost;
mod heard_again;
mod lost_sessions;
mod poolers;
mod together;
mod transactions;

/// A server on which nothing is due within a test but what a lost session asks for: all that die here have lost their
/// sessions, and no ordinary sweep finds them.
fn patient_server() -> Builder {
    Cluster::builder()
        .setting("rgrid_heartbeat.check_interval", "1h")
        .setting("rgrid_heartbeat.flush_interval", "1h")
        .setting("rgrid_heartbeat.stale_threshold", "1h")
        .setting("rgrid_heartbeat.disconnect_grace", "500ms")
}

/// From now on, and for sessions and sweepers that begin later, a database has a setting of its own.
fn set_in(cluster: &Cluster, database: &str, setting: &str, value: &str) {
    let sql = format!("ALTER DATABASE {database} SET rgrid_heartbeat.{setting} = '{value}'");
    run(&mut cluster.connect("postgres"), &sql);
}

/// A worker in a process of its own.
fn attached(database: &Database<'_>, worker: &str) -> ClientProcess {
    attached_on(database, worker, Some(ONE_HOST))
}

fn attached_on(database: &Database<'_>, worker: &str, host: Option<&str>) -> ClientProcess {
    let mut process = ClientProcess::start(database);
    process.attach_on(worker, host);
    process
}

/// Attaches a worker to this session, in the simple protocol, which a pooler in any mode carries; its incarnation.
fn attach(client: &mut Client, worker: &str) -> i64 {
    attach_on(client, worker, ONE_HOST)
}

fn attach_on(client: &mut Client, worker: &str, host: &str) -> i64 {
    let call = attaching(worker, Some(host));
    let answer = client.simple_query(&call).unwrap_or_else(|error| panic!("{call}: {error:?}"));
    let incarnation = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    incarnation.expect("a number is answered").parse().expect("it is a number")
}

/// The worker whose death says that those before it were judged.
const WITNESS: &str = "witness";

/// Returns when a worker whose process was killed after this call is dead: whoever lost its session before that, and is
/// not dead by now, has been judged.
fn await_judgement(database: &Database<'_>, client: &mut Client) {
    let before = deaths(client, WITNESS);
    attached(database, WITNESS).kill();
    wait_until("the witness to die", || deaths(client, WITNESS) > before);
}

/// How many workers were left to their silence because others were lost together with them.
fn lost_together(client: &mut Client) -> i64 {
    counter(client, "workers_lost_together")
}

/// One of the database's statistics.
fn counter(client: &mut Client, name: &str) -> i64 {
    let sql = format!("SELECT {name} FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()");
    ask(client, &sql, &[])
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
