//! Which ends of a session are a death, and when.

use super::*;
use chrono::{DateTime, TimeDelta};
use serde_json::json;

fn server() -> Shared {
    Shared::of(patient_server)
}

#[test]
fn a_worker_whose_process_is_killed_dies_after_the_grace() {
    let cluster = server();
    let database = cluster.database("killed");
    let mut client = database.connect();
    let mut process = ClientProcess::start(&database);
    assert_eq!(process.attach("slain"), 1);
    assert_eq!(tie(&mut client, "slain"), "tied");
    claim_jobs(&mut client, "slain", 2);
    process.kill();
    await_death(&mut client, "slain");
    let silence = "SELECT declared_dead_at - last_heartbeat_at >= interval '500 ms' FROM rgrid_worker_deaths";
    assert!(ask::<bool>(&mut client, silence, &[]), "not within the grace");
    assert_eq!(ledger(&mut client, "slain"), ["1 disconnected 2 gone"]);
    assert_eq!(failed_jobs(&mut client, "slain"), 2);
    assert_eq!(tie(&mut client, "slain"), "none");
    assert_eq!(cluster.log_lines_with(&["worker \"slain\"", "its session was lost"]).len(), 1);
}

#[test]
fn listeners_are_told_when_the_session_was_lost() {
    let cluster = server();
    let database = cluster.database("told");
    let mut listener = database.connect();
    run(&mut listener, "LISTEN rgrid_worker_deaths");
    let process = attached(&database, "slain");
    let attached_at = server_time(&mut listener);
    process.kill();
    let notice = next_notice(&mut listener);
    assert_eq!((&notice["worker_id"], &notice["reason"]), (&json!("slain"), &json!("disconnected")));
    let [disconnected_at, declared_dead_at] = ["disconnected_at", "declared_dead_at"].map(|name| {
        let time = notice[name].as_str().unwrap_or_else(|| panic!("{notice} has no {name}"));
        DateTime::parse_from_rfc3339(time).unwrap()
    });
    assert!(disconnected_at >= attached_at, "{notice}");
    assert!(declared_dead_at - disconnected_at >= TimeDelta::milliseconds(500), "{notice}");
}

#[test]
fn a_session_that_ends_in_any_other_way_proves_nothing() {
    let cluster = server();
    let database = cluster.database("otherwise");
    let mut client = database.connect();
    attached(&database, "polite").leave();
    let mut terminated = attached(&database, "terminated");
    cluster.terminate(terminated.backend());
    let mut idle = attached(&database, "idle");
    idle.ask("SET idle_session_timeout = '50ms'");
    for worker in ["polite", "terminated", "idle"] {
        await_tie(&mut client, worker, "none");
    }
    await_judgement(&database, &mut client);
    assert_eq!(dead(&mut client), [WITNESS]);
}

#[test]
fn a_client_that_is_killed_while_its_query_runs_is_noticed_with_a_connection_check() {
    let cluster = server();
    let database = cluster.database("running");
    let mut client = database.connect();
    let mut process = attached(&database, "victim");
    let backend = process.backend();
    process.ask("SET client_connection_check_interval = '50ms'");
    process.send("SELECT pg_sleep(600)");
    await_waiting(&cluster, backend, "PgSleep");
    process.kill();
    await_death(&mut client, "victim");
    assert_eq!(ledger(&mut client, "victim"), ["1 disconnected 0 gone"]);
}

#[test]
fn a_client_that_is_killed_in_its_transaction_leaves_no_lock_in_the_way() {
    let cluster = server();
    let database = cluster.database("transaction");
    let mut client = database.connect();
    claim_jobs(&mut client, "victim", 1);
    let mut process = attached(&database, "victim");
    process.ask("BEGIN");
    process.ask("UPDATE executions SET status = 'completed' WHERE worker_id = 'victim'");
    process.ask("SELECT * FROM worker_heartbeats WHERE worker_id = 'victim' FOR UPDATE");
    process.kill();
    await_death(&mut client, "victim");
    assert_eq!(failed_jobs(&mut client, "victim"), 1, "at once with its death");
}

#[test]
fn each_database_has_a_grace_of_its_own_or_none() {
    let cluster = patient_server().setting("rgrid_heartbeat.disconnect_grace", "1h").start();
    let (at_once, never) = (cluster.database("at_once"), cluster.database("never"));
    set_in(&cluster, "at_once", "disconnect_grace", "0");
    set_in(&cluster, "never", "disconnect_grace", "-1");
    let (mut client, mut other) = (at_once.connect(), never.connect());
    attached(&never, "spared").kill();
    await_tie(&mut other, "spared", "lost");
    attached(&at_once, "killed").kill();
    await_death(&mut client, "killed");
    run(&mut other, "SELECT rgrid_sweep()");
    assert_eq!((dead(&mut client), dead(&mut other)), (vec!["killed".to_owned()], Vec::new()));
    assert_eq!(tie(&mut other, "spared"), "lost");
}

#[test]
fn all_workers_of_a_session_die_with_it_once_each() {
    // Entries that are taken out beside this one would keep some of these out.
    let cluster = patient_server().start();
    let database = cluster.database("agent");
    let mut client = database.connect();
    let mut agent = ClientProcess::start(&database);
    let all = "SELECT count(rgrid_attach('worker-' || n, 'one.example')) FROM generate_series(1, 10000) AS n";
    agent.ask(all);
    assert_eq!(counter(&mut client, "attached_workers"), 10_000);
    let others: Vec<_> = (0..20).map(|n| attached(&database, &format!("other-{n}"))).collect();
    agent.kill();
    let dead = "SELECT count(DISTINCT worker_id) FROM rgrid_worker_deaths WHERE reason = 'disconnected'";
    wait_until("10,000 deaths", || ask::<i64>(&mut client, dead, &[]) == 10_000);
    await_judgement(&database, &mut client);
    let all = "SELECT count(*) FROM rgrid_worker_deaths WHERE worker_id <> 'witness'";
    assert_eq!(ask::<i64>(&mut client, all, &[]), 10_000, "once each");
    assert_eq!(counter(&mut client, "attached_workers"), 20);
    drop(others);
}

#[test]
fn a_worker_belongs_to_the_session_that_attached_it_last() {
    let cluster = server();
    let database = cluster.database("newest");
    let mut client = database.connect();
    let mut first = attached(&database, "moving");
    let backend = first.backend();
    let second = attached(&database, "moving");
    first.kill();
    await_end(&mut client, backend);
    await_judgement(&database, &mut client);
    assert_eq!((deaths(&mut client, "moving"), tie(&mut client, "moving")), (0, "tied".into()));
    second.kill();
    await_death(&mut client, "moving");
}

#[test]
fn who_detaches_leaves_or_registers_anew_is_not_tied() {
    let cluster = server();
    let database = cluster.database("untied");
    let mut client = database.connect();
    let mut process = attached(&database, "detached");
    for worker in ["registered", "deregistered"] {
        process.attach(worker);
    }
    let detach = "SELECT rgrid_detach('detached')";
    assert!(ask::<bool>(&mut client, detach, &[]), "by another session");
    assert!(!ask::<bool>(&mut client, detach, &[]), "once");
    run(&mut client, "SELECT rgrid_register('registered'), rgrid_deregister('deregistered')");
    for worker in ["detached", "registered"] {
        assert_eq!(tie(&mut client, worker), "none", "{worker}");
    }
    process.kill();
    await_judgement(&database, &mut client);
    let sql = "SELECT string_agg(worker_id, ' ') FROM rgrid_worker_deaths WHERE reason = 'disconnected'";
    assert_eq!(ask::<String>(&mut client, sql, &[]), "witness");
}

#[test]
fn a_worker_whose_row_is_locked_dies_soon_after_that() {
    let cluster = server();
    let database = cluster.database("locked");
    let (mut client, mut other) = (database.connect(), database.connect());
    let process = attached(&database, "locked");
    run(&mut other, "BEGIN; SELECT FROM worker_heartbeats WHERE worker_id = 'locked' FOR UPDATE");
    process.kill();
    await_judgement(&database, &mut client);
    assert_eq!(deaths(&mut client, "locked"), 0);
    run(&mut other, "COMMIT");
    await_death(&mut client, "locked");
    assert_eq!(ledger(&mut client, "locked"), ["1 disconnected 0 gone"]);
}

#[test]
fn a_process_that_hangs_keeps_its_session_and_is_judged_by_its_silence() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("frozen");
    let mut client = database.connect();
    let process = attached(&database, "frozen");
    signal(process.pid(), "STOP");
    await_death(&mut client, "frozen");
    assert_eq!(ledger(&mut client, "frozen"), ["1 stale 0 gone"]);
}

#[test]
fn the_end_of_the_server_is_no_death() {
    let cluster = patient_server().start();
    let database = cluster.database("restarted");
    let _process = attached(&database, "worker");
    cluster.restart("fast");
    let mut again = attached(&database, "worker");
    cluster.crash_backend(again.backend());
    let mut client = database.connect();
    assert_eq!(tie(&mut client, "worker"), "none");
    await_judgement(&database, &mut client);
    assert_eq!(deaths(&mut client, "worker"), 0);
}
