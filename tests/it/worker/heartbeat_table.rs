//! Rules on the table of heartbeats, and references to it, that its owner may make.

use crate::cluster::*;
use postgres::Client;

/// Only sessions sweep.
fn server() -> Shared {
    Shared::of(|| Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h"))
}

/// The extension, with a table of heartbeats that was there before: at its own one no rule of others is in force.
fn adopt_table(client: &mut Client) {
    let table =
        "CREATE TABLE worker_heartbeats (worker_id text PRIMARY KEY, last_heartbeat_at timestamptz NOT NULL)";
    run(client, table);
    run(client, "CREATE EXTENSION rgrid_heartbeat");
}

#[test]
fn a_rule_that_swallows_heartbeats_is_no_silent_loss() {
    let cluster = server();
    let database = cluster.empty_database("ruled");
    let mut client = database.connect();
    adopt_table(&mut client);
    run(&mut client, "CREATE RULE swallow AS ON INSERT TO worker_heartbeats DO INSTEAD NOTHING");
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_heartbeat('b')"), "09000");
    run(&mut client, "DROP RULE swallow ON worker_heartbeats");
    assert_eq!(beat(&mut client, "c"), 1);
    assert!(row_time(&mut client, "c").is_some(), "the session has forgotten the rule");
}

#[test]
fn a_registration_does_not_wait_for_ever_where_no_row_can_be_made() {
    let cluster = server();
    let database = cluster.empty_database("swallowed");
    let mut client = database.connect();
    adopt_table(&mut client);
    run(&mut client, "CREATE RULE swallow AS ON INSERT TO worker_heartbeats DO INSTEAD NOTHING");
    for call in ["rgrid_register()", "rgrid_heartbeat('w1')"] {
        assert_eq!(sqlstate(&mut client, &format!("SELECT {call}")), "09000", "{call}");
    }
}

#[test]
fn a_worker_with_an_open_transaction_that_refers_to_it_can_die() {
    let cluster = server();
    let database = cluster.database("referred");
    let mut client = database.connect();
    silent_worker(&mut client, "w1");
    run(&mut client, "CREATE TABLE notes (worker_id text REFERENCES worker_heartbeats)");
    let mut other = database.connect();
    run(&mut other, "BEGIN; INSERT INTO notes VALUES ('w1')");
    sweep_away(&mut client, "w1");
    run(&mut other, "ROLLBACK");
}
