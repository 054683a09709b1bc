//! Under Patroni, as operators run it: with etcd, three nodes, and HAProxy in front of them. Its settings and HAProxy's
//! lines are those of docs/patroni.md. A test a way in which a node, a process or etcd goes away and comes back.

mod agent_killed;
mod crashes;
mod etcd_away;
mod frozen_node;
mod lost_transactions;
mod maintenance;
mod settings;

use crate::cluster::*;
use postgres::{Client, Config};
use std::time::Duration;

/// Whoever is dead is found within a moment.
const QUICK: [&str; 2] = ["rgrid_heartbeat.check_interval: 200ms", "rgrid_heartbeat.flush_interval: 500ms"];

fn started_with(threshold: &str) -> Patroni {
    Patroni::start(&[QUICK.as_slice(), &[&format!("rgrid_heartbeat.stale_threshold: {threshold}")]].concat())
}

/// Sets another threshold for all nodes. Returns when the primary has it; others may get it later.
fn set_threshold(patroni: &Patroni, threshold: &str) {
    patroni.configure(&["--pg", &format!("rgrid_heartbeat.stale_threshold={threshold}")]);
    wait_until("the primary to have the threshold", || {
        ask::<String>(&mut patroni.primary(), "SHOW rgrid_heartbeat.stale_threshold", &[]) == threshold
    });
}

/// Who has ever been declared dead, in the order of names.
fn dead(client: &mut Client) -> Vec<String> {
    ask(
        client,
        "SELECT coalesce(array_agg(worker_id ORDER BY worker_id), '{}') FROM rgrid_worker_deaths",
        &[],
    )
}

/// Returns when the server has heard a worker once more.
fn await_heartbeat(client: &mut Client, worker: &str) {
    let before = last_heard(client, worker);
    wait_until(&format!("a heartbeat of {worker}"), || last_heard(client, worker) > before);
}

fn config(connection_string: &str) -> Config {
    connection_string.parse().expect("it is a connection string")
}

/// A fleet of so many workers, f1 being the last to begin: one after the other, through one session that reconnects.
fn fleet(connection_string: &str, size: usize) -> Beating {
    let config = config(connection_string);
    let workers: Vec<String> = (1..=size).map(|number| format!("f{number}")).collect();
    let client = config.connect(postgres::NoTls).expect("the server takes connections");
    let mut next = 0;
    Beating::start(client, move |client| {
        next = (next + 1) % workers.len();
        if client.execute("SELECT rgrid_heartbeat($1)", &[&workers[next]]).is_err()
            && let Ok(again) = config.connect(postgres::NoTls)
        {
            *client = again;
        }
    })
}
