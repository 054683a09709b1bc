//! What every client promises while it runs. A threshold is two seconds.

use super::program::{Client, WHILE, connection_string};
use crate::cluster::*;
use postgres::Client as Session;
use serde_json::json;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

pub(super) fn server() -> Shared {
    Shared::of(Cluster::quick)
}

/// One where silence has no consequences.
pub(super) fn patient_server() -> Shared {
    Shared::of(|| Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1h"))
}

/// A database whose name no other claim about any client uses.
pub(super) fn database<'a>(cluster: &'a Cluster, client: Client, claim: &str) -> (Database<'a>, String) {
    let name = format!("{claim}_{}", client as u8);
    (cluster.database(&name), connection_string(&[cluster], &name, "postgres"))
}

pub(super) fn is_known(session: &mut Session, worker: &str) -> bool {
    ask(session, "SELECT EXISTS (SELECT FROM worker_heartbeats WHERE worker_id = $1)", &[&worker])
}

pub fn a_worker_registers_beats_and_deregisters(client: Client) {
    let cluster = server();
    let (database, connection) = database(&cluster, client, "life");
    let mut session = database.connect();
    let program = client.start(&connection, json!({}));
    program.await_state("may_claim", true);
    let worker = program.worker();
    claim_jobs(&mut session, &worker, 1);
    stays(WHILE, "a worker that beats lives", || deaths(&mut session, &worker) == 0);
    let host: String =
        ask(&mut session, "SELECT hostname FROM worker_heartbeats WHERE worker_id = $1", &[&worker]);
    assert_eq!(host, "node-7");

    run(&mut session, "UPDATE executions SET status = 'completed'");
    program.stop();
    assert!(!is_known(&mut session, &worker), "it has deregistered");
    assert_eq!(deaths(&mut session, &worker), 0);
}

pub fn a_library_s_worker_only_beats_and_keeps_its_jobs(client: Client) {
    let cluster = patient_server();
    let (database, connection) = database(&cluster, client, "library");
    let mut session = database.connect();
    run(&mut session, "SELECT rgrid_register('library:1')");
    claim_jobs(&mut session, "library:1", 2);
    let program = client.start(&connection, json!({"worker_id": "library:1", "register": false}));
    program.await_state("may_claim", true);
    stays(WHILE, "its jobs stay its own", || jobs(&mut session, "library:1", "running") == 2);
    program.stop();
    assert!(is_known(&mut session, "library:1"), "whoever has registered it deregisters it");
    assert_eq!(jobs(&mut session, "library:1", "running"), 2);

    let options = json!({"worker_id": "library:1", "register": false, "deregister": true});
    let program = client.start(&connection, options);
    program.await_state("may_claim", true);
    program.stop();
    assert_eq!(ledger(&mut session, "library:1"), ["1 deregistered 2 gone"]);
}

pub fn a_blocked_program_goes_on_beating(client: Client) {
    let cluster = server();
    let (database, connection) = database(&cluster, client, "blocked");
    let mut session = database.connect();
    let mut program = client.start(&connection, json!({}));
    program.await_state("may_claim", true);
    let worker = program.worker();
    program.tell("block 4");
    assert_eq!(program.last("blocked")["may_claim"], true);
    assert_eq!(deaths(&mut session, &worker), 0);
}

/// The next heartbeat would be far too late: only who watches the socket sees it.
pub fn a_cut_is_noticed_at_once(client: Client) {
    let cluster = server();
    let (database, connection) = database(&cluster, client, "cut");
    let mut session = database.connect();
    let program = client.start(&connection, json!({"interval": 1000}));
    program.await_state("may_claim", true);
    let pids = |session: &mut Session| -> Vec<i32> {
        let sql = "SELECT pid FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'rgrid heartbeat'";
        session.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let [first] = pids(&mut session)[..] else { panic!("it has one session") };
    cluster.terminate(first);
    wait_until("a new session", || matches!(pids(&mut session)[..], [pid] if pid != first));
    program.await_state("may_claim", true);
    assert_eq!(program.last("worker")["given_up"], 0);
}

pub fn a_killed_server_is_found_again(client: Client) {
    let cluster = Cluster::quick().start();
    let (database, connection) = database(&cluster, client, "killed");
    let program = client.start(&connection, json!({}));
    program.await_state("may_claim", true);
    let worker = program.worker();
    cluster.crash();
    program.await_state("may_claim", false);
    cluster.start();
    program.await_state("may_claim", true);
    let mut session = database.connect();
    await_sweep(&mut session, "a-later-victim");
    assert_eq!((deaths(&mut session, &worker), program.last("worker")["given_up"].clone()), (0, json!(0)));
}

/// A primary and its standby, and a connection string that has the standby first.
fn pair(client: Client, claim: &str) -> (Cluster, Cluster, String) {
    // Longer than promoting takes on a busy machine.
    let primary = Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "30s").start();
    let name = format!("{claim}_{}", client as u8);
    run(&mut primary.connect("postgres"), &format!("CREATE DATABASE {name}"));
    run(&mut primary.connect(&name), "CREATE EXTENSION rgrid_heartbeat");
    let standby = primary.standby();
    let connection = connection_string(&[&standby, &primary], &name, "postgres");
    (primary, standby, connection)
}

/// Returns when the standby, which is promoted here, has heard of the worker itself.
fn await_worker(client: Client, claim: &str, promoted: &Cluster, worker: &str) {
    let mut session = promoted.connect(&format!("{claim}_{}", client as u8));
    let sql = "SELECT EXISTS (SELECT FROM rgrid_workers w, pg_stat_rgrid_heartbeat s
                               WHERE w.worker_id = $1 AND s.datname = current_database()
                                 AND w.state = 'alive' AND w.last_heartbeat_at > s.observing_since)";
    wait_until("the new primary to hear the worker", || ask(&mut session, sql, &[&worker]));
    assert!(!ask::<bool>(&mut session, "SELECT EXISTS (SELECT FROM rgrid_worker_deaths)", &[]));
}

pub fn a_failover_is_followed(client: Client) {
    let (primary, standby, connection) = pair(client, "failover");
    let program = client.start(&connection, json!({}));
    program.await_state("may_claim", true);
    standby.catch_up_with(&primary);
    primary.crash();
    program.await_state("may_claim", false);
    standby.promote();
    program.await_state("may_claim", true);
    await_worker(client, "failover", &standby, &program.worker());
}

/// Its kernel answers, and nothing else of it does.
pub fn a_frozen_server_is_given_up_for_another(client: Client) {
    let (primary, standby, connection) = pair(client, "frozen");
    let program = client.start(&connection, json!({"deadline": 1.0}));
    program.await_state("may_claim", true);
    standby.catch_up_with(&primary);
    primary.freeze(|| {
        program.await_state("may_claim", false);
        standby.promote();
        program.await_state("may_claim", true);
        await_worker(client, "frozen", &standby, &program.worker());
    });
}

pub fn a_worker_that_was_given_up_is_told(client: Client) {
    let cluster = server();
    let (database, connection) = database(&cluster, client, "told");
    let mut session = database.connect();
    let program = client.start(&connection, json!({}));
    program.await_state("may_claim", true);
    run(&mut session, "SELECT rgrid_register(worker_id) FROM worker_heartbeats");
    program.await_state("given_up", 1);
    program.await_state("may_claim", true);
    assert_eq!(program.last("worker")["incarnation"], 2);
}

pub fn a_frozen_worker_claims_nothing_before_it_knows(client: Client) {
    let cluster = server();
    let (database, connection) = database(&cluster, client, "stopped");
    let mut session = database.connect();
    let mut program = client.start(&connection, json!({"deadline": 0.5}));
    program.await_state("may_claim", true);
    let worker = program.worker();
    program.signal("STOP");
    await_death(&mut session, &worker);
    program.tell("probe");
    program.signal("CONT");
    let probe = program.last("probe");
    assert!(probe["may_claim"] == false || probe["incarnation"] == 2, "{probe}");
    program.await_state("given_up", 1);
    program.await_state("may_claim", true);
}

pub fn a_killed_worker_dies(client: Client) {
    let cluster = server();
    let (database, connection) = database(&cluster, client, "dies");
    let mut session = database.connect();
    let program = client.start(&connection, json!({"at_exit": true}));
    program.await_state("may_claim", true);
    let worker = program.worker();
    claim_jobs(&mut session, &worker, 1);
    program.signal("KILL");
    await_death(&mut session, &worker);
    assert_eq!(failed_jobs(&mut session, &worker), 1);
}

/// Its other client names its statements, as drivers do, and both have one connection of the server.
pub fn a_pooler_in_transaction_mode_mixes_up_nothing(client: Client) {
    let cluster = patient_server();
    let (database, _) = database(&cluster, client, "pooled");
    let pooler = Pooler::start(&cluster, "pool_mode = transaction\ndefault_pool_size = 1");
    let name = format!("pooled_{}", client as u8);
    let program = client.start(&pooled(&pooler, &name), json!({"interval": 0.02}));
    program.await_state("may_claim", true);
    let other = "import sys, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    for _ in range(200):
        assert connection.execute('SELECT 1000 + length(%s)', ['other']).fetchone() == (1005,)";
    let mut python = Command::new("/usr/bin/python3");
    assert!(python.args(["-c", other, &pooled(&pooler, &name)]).status().unwrap().success());
    program.await_state("may_claim", true);
    assert_eq!(program.last("worker")["incarnation"], 1, "each answer was that of its own statement");
    let worker = program.worker();
    program.stop();
    assert!(!is_known(&mut database.connect(), &worker), "it has deregistered");
}

/// A connection string that all clients understand.
fn pooled(pooler: &Pooler, database: &str) -> String {
    let socket = pooler.socket();
    let directory = socket.parent().unwrap().display().to_string().replace('/', "%2F");
    let port = socket.extension().unwrap().to_str().unwrap().to_owned();
    format!("postgresql://postgres@{directory}:{port}/{database}")
}

/// Also after it was given up, which unties it.
pub fn a_tied_worker_that_is_killed_is_found_at_once(client: Client) {
    let cluster = Shared::of(|| {
        Cluster::quick()
            .setting("rgrid_heartbeat.stale_threshold", "1h")
            .setting("rgrid_heartbeat.disconnect_grace", "200ms")
    });
    let (database, connection) = database(&cluster, client, "tied");
    let mut session = database.connect();
    let program = client.start(&connection, json!({}));
    program.await_state("may_claim", true);
    let worker = program.worker();
    run(&mut session, "SELECT rgrid_register(worker_id) FROM worker_heartbeats");
    program.await_state("given_up", 1);
    // The next heartbeat ties it again.
    let tied = "SELECT attached_at IS NOT NULL FROM rgrid_workers WHERE worker_id = $1";
    wait_until("the worker to be tied", || ask(&mut session, tied, &[&worker]));
    claim_jobs(&mut session, &worker, 1);
    program.signal("KILL");
    wait_until("its second death", || deaths(&mut session, &worker) == 2);
    assert_eq!(ledger(&mut session, &worker), ["1 restarted 0 returned", "2 disconnected 1 gone"]);
}

/// What cuts it is a pooler that is killed. The next heartbeat would come too late.
pub fn a_tied_worker_is_back_within_the_grace(client: Client) {
    let cluster = Shared::of(|| {
        Cluster::quick()
            .setting("rgrid_heartbeat.stale_threshold", "1h")
            .setting("rgrid_heartbeat.disconnect_grace", "8s")
    });
    let (database, _) = database(&cluster, client, "back");
    let mut session = database.connect();
    let mut pooler = Pooler::start(&cluster, "pool_mode = session");
    let name = format!("back_{}", client as u8);
    let program = client.start(&pooled(&pooler, &name), json!({"interval": 1000}));
    program.await_state("may_claim", true);
    let worker = program.worker();
    pooler.kill();
    program.await_state("may_claim", false);
    pooler.restart();
    program.await_state("may_claim", true);
    stays(Duration::from_secs(10), "it lives", || deaths(&mut session, &worker) == 0);
    assert_eq!(program.last("worker")["given_up"], 0);
}

/// Lest all workers come back at the same moment. This server hangs up on everybody.
pub fn attempts_are_at_random_distances(client: Client) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let connection = format!("postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable");
    let _program = client.start(&connection, json!({"interval": 1000}));
    server.set_nonblocking(true).unwrap();
    let mut attempts = Vec::new();
    wait_until("some attempts", || {
        attempts.extend(server.accept().map(|_| Instant::now()));
        attempts.len() == 6
    });
    let distances = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
    let [shortest, longest] = [distances.iter().min().unwrap(), distances.iter().max().unwrap()];
    assert!(*shortest > Duration::from_millis(400), "a pause of half a second at least: {distances:?}");
    assert!(*longest - *shortest > Duration::from_millis(50), "never the same one: {distances:?}");
}
