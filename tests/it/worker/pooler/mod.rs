//! Workers behind PgBouncer, in both modes that the documents support.

mod fleet;
mod outages;
mod shared_connection;
mod statements;

use crate::cluster::*;
use postgres::{Client, SimpleQueryMessage};

const TRANSACTION_MODE: &str = "pool_mode = transaction\ndefault_pool_size = 3";
const SESSION_MODE: &str = "pool_mode = session\ndefault_pool_size = 10";

/// A worker is dead after so many seconds that a busy machine is not taken for a death.
fn server() -> Shared {
    Shared::of(|| Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "10s"))
}

/// The worker of the documents, through the pooler's TCP port.
fn example(pooler: &Pooler, database: &str, host: &'static str, job_seconds: f64) -> ExampleWorker {
    ExampleWorker::start(&pooler.connection_string(database), host, job_seconds)
}

/// The worker's id, once it has registered and runs or has run a job.
fn at_work(worker: &ExampleWorker, client: &mut Client) -> String {
    let sql = "SELECT max(e.worker_id) FROM executions e JOIN worker_heartbeats h USING (worker_id)
               WHERE h.hostname = $1";
    let id = |client: &mut Client| ask::<Option<String>>(client, sql, &[&worker.name]);
    wait_until(&format!("{} to claim a job", worker.name), || id(client).is_some());
    id(client).unwrap()
}

/// How many jobs are done.
fn completed(client: &mut Client) -> i64 {
    ask(client, "SELECT count(*) FROM executions WHERE status = 'completed'", &[])
}

fn await_another_job(client: &mut Client) {
    let before = completed(client);
    wait_until("another job to be done", || completed(client) > before);
}

/// The last value that statements answer, without a name for any of them.
fn value(client: &mut Client, sql: &str) -> Result<String, String> {
    let messages = client
        .simple_query(sql)
        .map_err(|error| error.code().map_or("gone", |code| code.code()).to_owned())?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(rows.last().unwrap_or_default().to_owned())
}

fn a_job_is_done_and_a_death_found(mode: &str, database: &str) {
    let cluster = server();
    let pooled = cluster.database(database);
    let pooler = Pooler::start(&cluster, mode);
    let mut client = pooled.connect();
    queue_jobs(&mut client, "anybody", 1_000);
    let steady = example(&pooler, database, "steady", 0.1);
    let victim = example(&pooler, database, "victim", 3600.0);
    let [steady_id, victim_id] = [&steady, &victim].map(|worker| at_work(worker, &mut client));
    await_another_job(&mut client);

    drop(victim);
    await_death(&mut client, &victim_id);
    assert_eq!(failed_jobs(&mut client, &victim_id), 1);
    await_another_job(&mut client);
    assert_eq!((deaths(&mut client, &steady_id), jobs(&mut client, &steady_id, "failed")), (0, 0));
}

#[test]
fn in_transaction_mode_a_job_is_done_and_a_death_found() {
    a_job_is_done_and_a_death_found(TRANSACTION_MODE, "by_transaction");
}

#[test]
fn in_session_mode_a_job_is_done_and_a_death_found() {
    a_job_is_done_and_a_death_found(SESSION_MODE, "by_session");
}

#[test]
fn in_session_mode_a_listener_is_told() {
    let cluster = server();
    let database = cluster.database("listening");
    let pooler = Pooler::start(&cluster, SESSION_MODE);
    let mut listener = pooler.connect("listening");
    run(&mut listener, "LISTEN rgrid_worker_deaths");
    await_sweep(&mut database.connect(), "silent");
    assert_eq!(next_notice(&mut listener)["worker_id"], "silent");
}

#[test]
fn a_host_that_nobody_named_is_not_made_up() {
    let cluster = server();
    let database = cluster.database("hosts");
    let pooler = Pooler::start(&cluster, TRANSACTION_MODE);
    let mut pooled = pooler.connect("hosts");
    for call in [
        "rgrid_heartbeat('beats')",
        "id FROM rgrid_register('registers')",
        "rgrid_heartbeat('named', 'node-7')",
    ] {
        value(&mut pooled, &format!("SELECT {call}")).unwrap();
    }
    let mut client = database.connect();
    let sql =
        "SELECT string_agg(worker_id || ' on ' || coalesce(hostname, 'unknown'), ', ' ORDER BY worker_id)
               FROM rgrid_workers";
    let hosts: String = ask(&mut client, sql, &[]);
    assert_eq!(hosts, "beats on unknown, named on node-7, registers on unknown");
}
