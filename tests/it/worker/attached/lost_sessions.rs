//! Which ends of a session are a death, and when.

use super::*;

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
    await_tie(&mut client, "slain", "lost");
    assert_eq!(deaths(&mut client, "slain"), 0, "within the grace");
    await_death(&mut client, "slain");
    assert_eq!(ledger(&mut client, "slain"), ["1 disconnected 2 gone"]);
    assert_eq!(failed_jobs(&mut client, "slain"), 2);
    assert_eq!(tie(&mut client, "slain"), "none");
    assert_eq!(cluster.log_lines_with(&["worker \"slain\"", "its session was lost"]).len(), 1);
}

/// Returns when a worker whose process was killed after this call is dead: whoever lost its session before that, and is
/// not dead by now, has been judged.
fn await_judgement(database: &Database<'_>, client: &mut Client) {
    let mut witness = ClientProcess::start(database);
    witness.attach("witness");
    witness.kill();
    await_death(client, "witness");
}

/// A worker in a process of its own, and the server's process that serves it.
fn attached(database: &Database<'_>, worker: &str) -> (ClientProcess, i32) {
    let mut process = ClientProcess::start(database);
    process.attach(worker);
    let backend = process.backend();
    (process, backend)
}

#[test]
fn a_session_that_ends_in_any_other_way_proves_nothing() {
    let cluster = server();
    let database = cluster.database("otherwise");
    let mut client = database.connect();
    let (polite, _) = attached(&database, "polite");
    polite.leave();
    let (_terminated, backend) = attached(&database, "terminated");
    cluster.terminate(backend);
    let (mut idle, _) = attached(&database, "idle");
    idle.ask("SET idle_session_timeout = '50ms'");
    for worker in ["polite", "terminated", "idle"] {
        await_tie(&mut client, worker, "none");
    }
    await_judgement(&database, &mut client);
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM rgrid_worker_deaths", &[]), 1);
}

#[test]
fn a_client_that_is_killed_while_its_query_runs_is_noticed_with_a_connection_check() {
    let cluster = server();
    let database = cluster.database("running");
    let mut client = database.connect();
    let (mut process, backend) = attached(&database, "victim");
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
    let (mut process, _) = attached(&database, "victim");
    process.ask("BEGIN");
    process.ask("UPDATE executions SET status = 'completed' WHERE worker_id = 'victim'");
    process.ask("SELECT * FROM worker_heartbeats WHERE worker_id = 'victim' FOR UPDATE");
    process.kill();
    await_death(&mut client, "victim");
    assert_eq!(failed_jobs(&mut client, "victim"), 1, "at once with its death");
}

#[test]
fn a_worker_that_is_heard_within_the_grace_lives() {
    let cluster = server();
    let database = cluster.database("heard");
    run(&mut cluster.connect("postgres"), "ALTER DATABASE heard SET rgrid_heartbeat.disconnect_grace = '3s'");
    let mut client = database.connect();
    let (first, _) = attached(&database, "attaching");
    let (second, _) = attached(&database, "beating");
    for process in [first, second] {
        process.kill();
    }
    await_tie(&mut client, "beating", "lost");
    await_tie(&mut client, "attaching", "lost");
    assert_eq!(beat(&mut client, "beating"), 1);
    let (_again, _) = attached(&database, "attaching");
    assert_eq!((tie(&mut client, "beating"), tie(&mut client, "attaching")), ("none".into(), "tied".into()));
    await_judgement(&database, &mut client);
    assert_eq!((deaths(&mut client, "beating"), deaths(&mut client, "attaching")), (0, 0));
}

#[test]
fn a_worker_that_comes_back_after_its_death_is_told_and_counted() {
    let cluster = server();
    let database = cluster.database("late");
    let mut client = database.connect();
    let (process, _) = attached(&database, "late");
    process.kill();
    await_death(&mut client, "late");
    let mut again = ClientProcess::start(&database);
    assert_eq!(again.attach("late"), 2);
    assert_eq!(ledger(&mut client, "late"), ["1 disconnected 0 returned"]);
    let sql = "SELECT false_deaths FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    assert_eq!(ask::<i64>(&mut client, sql, &[]), 1);
    again.kill();
    wait_until("its second death", || deaths(&mut client, "late") == 2);
}

#[test]
fn each_database_has_a_grace_of_its_own_or_none() {
    let cluster = server();
    let (at_once, never) = (cluster.database("at_once"), cluster.database("never"));
    for (database, grace) in [("at_once", "0"), ("never", "-1")] {
        let sql = format!("ALTER DATABASE {database} SET rgrid_heartbeat.disconnect_grace = {grace}");
        run(&mut cluster.connect("postgres"), &sql);
    }
    let (mut client, mut other) = (at_once.connect(), never.connect());
    let (spared, _) = attached(&never, "spared");
    spared.kill();
    await_tie(&mut other, "spared", "lost");
    let (killed, _) = attached(&at_once, "killed");
    killed.kill();
    await_death(&mut client, "killed");
    let sql = "SELECT declared_dead_at - last_heartbeat_at < interval '30 s' FROM rgrid_worker_deaths";
    assert!(ask::<bool>(&mut client, sql, &[]));
    let sweeps = "SELECT sweeps FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    let before: i64 = ask(&mut other, sweeps, &[]);
    wait_until("two sweeps", || ask::<i64>(&mut other, sweeps, &[]) >= before + 2);
    assert_eq!(deaths(&mut other, "spared"), 0);
}

#[test]
fn all_workers_of_a_session_die_with_it_once_each() {
    // Entries that are taken out beside this one would keep some of these out.
    let cluster = patient_server().start();
    let database = cluster.database("agent");
    let mut client = database.connect();
    let mut agent = ClientProcess::start(&database);
    let all = "SELECT count(rgrid_attach('worker-' || n, 'one.example')) FROM generate_series(1, 10000) AS n";
    let sql = "SELECT attached_workers FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    agent.ask(all);
    assert_eq!(ask::<i64>(&mut client, sql, &[]), 10_000);
    let others: Vec<_> = (0..20).map(|n| attached(&database, &format!("other-{n}"))).collect();
    agent.kill();
    let dead = "SELECT count(*) FROM rgrid_worker_deaths WHERE reason = 'disconnected'";
    wait_until("10,000 deaths", || ask::<i64>(&mut client, dead, &[]) == 10_000);
    let living = "SELECT count(*) FROM rgrid_workers WHERE attached_at IS NOT NULL";
    assert_eq!(ask::<i64>(&mut client, living, &[]), 20);
    drop(others);
}

#[test]
fn a_worker_belongs_to_the_session_that_attached_it_last() {
    let cluster = server();
    let database = cluster.database("newest");
    let mut client = database.connect();
    let (first, backend) = attached(&database, "moving");
    let (second, _) = attached(&database, "moving");
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
    let (mut process, _) = attached(&database, "detached");
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
    let (process, _) = attached(&database, "locked");
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
    let (process, _) = attached(&database, "frozen");
    signal(process.pid(), "STOP");
    await_death(&mut client, "frozen");
    assert_eq!(ledger(&mut client, "frozen"), ["1 stale 0 gone"]);
}

#[test]
fn the_end_of_the_server_is_no_death() {
    let cluster = patient_server().start();
    let database = cluster.database("restarted");
    let (_process, _) = attached(&database, "worker");
    cluster.restart("fast");
    let (_again, backend) = attached(&database, "worker");
    cluster.crash_backend(backend);
    let mut client = database.connect();
    assert_eq!(tie(&mut client, "worker"), "none");
    await_judgement(&database, &mut client);
    assert_eq!(deaths(&mut client, "worker"), 0);
}
