//! What every client promises of starts that fail, and of ends: by stop(), by the end of the program, by a signal, and
//! those of a process that was forked.

use super::claims::{database, is_known, patient_server, server};
use super::program::{Client, WHILE, connection_string};
use crate::cluster::*;
use serde_json::json;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

const SIGTERM: i32 = 15;
/// Seconds that no test waits for.
const NEVER: f64 = 1000.0;

/// A connection string of a role that may call these functions and nothing else.
fn stranger(
    client: Client,
    cluster: &Cluster,
    database: &Database<'_>,
    claim: &str,
    grants: &[&str],
) -> String {
    let role = format!("{claim}_{}", client as u8);
    let mut session = database.connect();
    run(&mut session, &format!("CREATE ROLE {role} LOGIN"));
    for function in grants {
        run(&mut session, &format!("GRANT EXECUTE ON FUNCTION {function} TO {role}"));
    }
    connection_string(&[cluster], &role, &role)
}

pub fn a_refusal_ends_the_start(client: Client) {
    let cluster = server();
    let (database, _) = database(&cluster, client, "refusal");
    let connection = stranger(client, &cluster, &database, "refusal", &[]);
    let mut program = client.start(&connection, json!({"at_exit": true, "deadline": NEVER}));
    assert_eq!(program.last("refused")["refused"], "42501");
    program.end();
}

/// The worker may register, and not beat.
pub fn a_refusal_takes_the_registration_back(client: Client) {
    let cluster = patient_server();
    let (database, _) = database(&cluster, client, "halfway");
    let grants = ["rgrid_register(text, text)", "rgrid_deregister(text)"];
    let connection = stranger(client, &cluster, &database, "halfway", &grants);
    let mut program = client.start(&connection, json!({"worker_id": "halfway"}));
    assert_eq!(program.last("refused")["refused"], "42501");
    program.end();
    assert_eq!(ledger(&mut database.connect(), "halfway"), [""; 0]);
    assert!(!is_known(&mut database.connect(), "halfway"), "it has deregistered");
}

pub fn a_bad_connection_is_refused_at_once(client: Client) {
    let mut program = client.start("nonsense", json!({"at_exit": true, "deadline": NEVER}));
    assert_eq!(program.end().code(), Some(1), "of an exception that nobody has caught");
}

pub fn a_stop_before_the_start_changes_nothing(client: Client) {
    let cluster = server();
    let (_database, connection) = database(&cluster, client, "early");
    let program = client.start(&connection, json!({"stop_before": true, "deadline": NEVER}));
    program.await_state("may_claim", true);
}

pub fn the_end_of_the_program_deregisters(client: Client) {
    let cluster = server();
    let (database, connection) = database(&cluster, client, "exits");
    let mut session = database.connect();
    let mut program = client.start(&connection, json!({"at_exit": true}));
    program.await_state("may_claim", true);
    program.tell("exit");
    assert!(program.end().success());
    assert!(!is_known(&mut session, &program.worker()));
}

pub fn a_signal_deregisters(client: Client) {
    let cluster = server();
    let (database, connection) = database(&cluster, client, "signal");
    let mut session = database.connect();
    let mut program = client.start(&connection, json!({"at_exit": true}));
    program.await_state("may_claim", true);
    program.signal("TERM");
    assert_eq!(program.end().code(), Some(128 + SIGTERM));
    assert!(!is_known(&mut session, &program.worker()));
}

/// The first heartbeat is never answered: its server process stands still once the worker is registered.
pub fn a_signal_before_the_first_heartbeat_deregisters(client: Client) {
    let cluster = patient_server();
    let (database, connection) = database(&cluster, client, "between");
    let mut session = database.connect();
    run(&mut session, "BEGIN; LOCK TABLE worker_heartbeats");
    let mut program = client.start(&connection, json!({"worker_id": "between", "at_exit": true}));
    let mut observer = database.connect();
    let mut registering = None;
    wait_until("the worker to register", || {
        let sql = "SELECT pid FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ~ 'rgrid_register'";
        registering = observer.query_opt(sql, &[]).unwrap().map(|row| row.get::<_, i32>(0));
        registering.is_some()
    });
    program.signal("STOP");
    run(&mut session, "COMMIT");
    wait_until("the worker to be registered", || is_known(&mut session, "between"));
    let server_process = registering.unwrap();
    let idle = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND state = 'idle')";
    wait_until("the answer to be sent", || ask(&mut observer, idle, &[&server_process]));
    signal(server_process, "STOP");
    program.signal("TERM");
    program.signal("CONT");
    let status = program.end();
    let known = is_known(&mut session, "between");
    signal(server_process, "CONT");
    assert_eq!(status.code(), Some(128 + SIGTERM));
    assert!(!known, "it has deregistered");
}

pub fn a_frozen_server_holds_up_the_end_for_two_deadlines(client: Client) {
    let cluster = Cluster::quick().start();
    let (_database, connection) = database(&cluster, client, "held");
    let mut programs = ["stop", "exit"].map(|command| {
        let program = client.start(&connection, json!({"at_exit": true, "deadline": 5.0}));
        program.await_state("may_claim", true);
        (command, program)
    });
    cluster.freeze(|| {
        let frozen = Instant::now();
        wait_until("a heartbeat that is not answered", || frozen.elapsed() > Duration::from_millis(500));
        let began = Instant::now();
        programs.iter_mut().for_each(|(command, program)| program.tell(command));
        programs.iter_mut().for_each(|(_, program)| {
            program.end();
        });
        // A third one for what else a busy machine does meanwhile.
        assert!(began.elapsed() < Duration::from_secs(14), "it took {:?}", began.elapsed());
    });
}

pub fn after_the_stop_a_signal_ends_the_program_as_ever(client: Client) {
    let cluster = server();
    let (_database, connection) = database(&cluster, client, "stopped_first");
    let mut program = client.start(&connection, json!({"at_exit": true}));
    program.await_state("may_claim", true);
    program.tell("rest");
    program.last("rests");
    program.signal("TERM");
    assert_eq!(program.end().signal(), Some(SIGTERM));
}

pub fn a_handler_of_the_program_s_own_goes_first(client: Client) {
    let cluster = server();
    let (_database, connection) = database(&cluster, client, "handler");
    let mut program = client.start(&connection, json!({"at_exit": true}));
    program.await_state("may_claim", true);
    program.tell("handle");
    assert_eq!(program.last("handled")["handled"], 0);
    program.signal("TERM");
    wait_until("the signal to be handled", || program.last("handled")["handled"] == 1);
    program.tell("rest");
    program.last("rests");
    program.signal("TERM");
    wait_until("the second one to be handled", || program.last("handled")["handled"] == 2);
}

/// The child stops what it takes for its own. Its parent goes on, is seen to vanish, and the child lives on.
pub fn a_forked_child_has_no_part_in_the_worker(client: Client) {
    let cluster = Shared::of(|| {
        Cluster::quick()
            .setting("rgrid_heartbeat.stale_threshold", "1h")
            .setting("rgrid_heartbeat.disconnect_grace", "200ms")
    });
    let (database, connection) = database(&cluster, client, "forked");
    let mut session = database.connect();
    let mut program = client.start(&connection, json!({"interval": NEVER}));
    program.await_state("may_claim", true);
    let worker = program.worker();
    claim_jobs(&mut session, &worker, 1);
    program.tell("fork");
    assert_eq!(program.last("child")["may_claim_in_child"], false);
    let heard = last_heard(&mut session, &worker);
    stays(WHILE, "the parent's pauses stay as long", || last_heard(&mut session, &worker) == heard);
    program.tell("probe");
    assert_eq!(program.last("probe")["may_claim"], true);
    program.signal("KILL");
    wait_until("its death", || deaths(&mut session, &worker) == 1);
    assert_eq!(ledger(&mut session, &worker), ["1 disconnected 1 gone"]);
    let child = program.last("child")["child"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    assert!(is_alive(child.expect("it is a process id")), "the child lives on");
}

/// As servers do that load the program once and then fork.
pub fn a_worker_may_be_made_before_the_fork(client: Client) {
    let cluster = server();
    let (database, connection) = database(&cluster, client, "prefork");
    let program = client.start(&connection, json!({"work_in_child": true}));
    program.await_state("may_claim", true);
    let worker = program.worker();
    program.stop();
    assert!(!is_known(&mut database.connect(), &worker), "it has deregistered");
}
