//! Those who mean harm, and code of others that does it without meaning to: owners of tables, of the database and
//! of triggers, callers that catch what they should not, clients with other encodings.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;

use cluster::*;
use postgres::Client;
use std::sync::OnceLock;
use std::time::Duration;

/// Sweeps by hand, unless a test says otherwise.
fn server() -> Shared {
    static SERVER: OnceLock<Cluster> = OnceLock::new();
    Shared::of(&SERVER, || Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h"))
}

/// A trigger on executions, before or after the update of a row, with this body.
fn trigger(client: &mut Client, when: &str, body: &str) {
    run(
        client,
        &format!(
            "CREATE FUNCTION on_job() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN {body}; RETURN NEW; END$f$;
             CREATE TRIGGER on_job {when} UPDATE ON executions FOR EACH ROW EXECUTE FUNCTION on_job()"
        ),
    );
}

#[test]
fn a_name_that_a_client_cannot_be_sent_does_not_stop_the_server() {
    let cluster = server();
    let database = cluster.database("encodings");
    let mut client = database.connect();
    let started: String = ask(&mut client, "SELECT pg_postmaster_start_time()::text", &[]);
    run(&mut client, "SET client_encoding = 'LATIN1'; SET client_min_messages = 'log'");
    for _ in 0..2 {
        run(&mut client, "SELECT length(id) FROM rgrid_register('w' || chr(28450))");
    }
    assert_eq!(ask::<String>(&mut client, "SELECT pg_postmaster_start_time()::text", &[]), started);
    let logged = cluster.log_lines_with(&["was registered again"]);
    assert_eq!(logged.len(), 1, "the death is in the server's log: {logged:?}");
}

#[test]
fn the_owner_of_the_schema_cannot_put_a_table_of_its_own_in_the_place_of_the_ledger() {
    let cluster = server();
    let database = cluster.database("renamed");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE ROLE schema_owner LOGIN; ALTER DATABASE renamed OWNER TO schema_owner;
         ALTER TABLE executions OWNER TO schema_owner",
    );
    claim_jobs(&mut client, "victim", 1);
    let mut owner = database.connect_as("schema_owner");
    run(
        &mut owner,
        "CREATE FUNCTION climb() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN EXECUTE 'ALTER ROLE schema_owner SUPERUSER'; RETURN NEW; END$$;
         CREATE FUNCTION swap() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             EXECUTE 'ALTER SCHEMA public RENAME TO hidden';
             EXECUTE 'CREATE SCHEMA public';
             EXECUTE 'CREATE TABLE public.rgrid_worker_deaths (worker_id text, incarnation bigint, hostname text,
                 last_heartbeat_at timestamptz, declared_dead_at timestamptz, reason text, jobs_failed bigint,
                 jobs_requeued bigint, returned_at timestamptz)';
             EXECUTE 'CREATE TABLE public.rgrid_incarnations (worker_id text, incarnation bigint)';
             EXECUTE 'CREATE TRIGGER climb BEFORE INSERT ON public.rgrid_worker_deaths FOR EACH ROW
                 EXECUTE FUNCTION hidden.climb()';
             RETURN NULL; END$$;
         CREATE TRIGGER swap AFTER UPDATE ON executions FOR EACH STATEMENT EXECUTE FUNCTION swap()",
    );
    let code = sqlstate(&mut client, "SELECT * FROM rgrid_register('victim')");
    assert_eq!(code, "55000", "the stranger is refused before its code runs");
    let climbed: bool = ask(&mut client, "SELECT rolsuper FROM pg_roles WHERE rolname = 'schema_owner'", &[]);
    assert!(!climbed);
    drop(owner);
    run(&mut client, "ALTER DATABASE renamed OWNER TO postgres; DROP OWNED BY schema_owner CASCADE");
    run(&mut client, "DROP ROLE schema_owner");
}

#[test]
fn a_cancelled_settlement_leaves_the_callers_blocks_as_they_are() {
    let cluster = server();
    let database = cluster.database("cancelled");
    let mut client = database.connect();
    run(&mut client, "CREATE TABLE kept (block text); SELECT rgrid_register('w1')");
    claim_jobs(&mut client, "w1", 1);
    trigger(&mut client, "BEFORE", "PERFORM pg_sleep(60)");
    run(&mut client, "SET statement_timeout = '500ms'");
    run(
        &mut client,
        "DO $$BEGIN
             INSERT INTO kept VALUES ('outer');
             BEGIN
                 INSERT INTO kept VALUES ('inner');
                 PERFORM rgrid_register('w1');
             EXCEPTION WHEN query_canceled THEN NULL;
             END;
         END$$",
    );
    run(&mut client, "SET statement_timeout = 0; INSERT INTO kept VALUES ('after')");
    let mut other = database.connect();
    let kept: String = ask(&mut other, "SELECT string_agg(block, ' ') FROM kept", &[]);
    assert_eq!(kept, "outer after");
}

#[test]
fn jobs_of_a_worker_that_came_back_by_itself_are_its_own_while_nobody_is_judged() {
    let cluster = server();
    let database = cluster.database("paused");
    let mut client = database.connect();
    silent_worker(&mut client, "py");
    sweep_away(&mut client, "py");
    // Observation starts anew, and the worker is back before it has lasted for a threshold.
    cluster.restart("fast");
    let mut client = database.connect();
    run(&mut client, "UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp()");
    claim_jobs(&mut client, "py", 1);
    run(&mut client, "SELECT rgrid_sweep()");
    assert_eq!(jobs(&mut client, "py", "running"), 1);
}

#[test]
fn a_trigger_that_beats_for_its_worker_does_not_bring_an_old_incarnation_back() {
    let cluster = server();
    let database = cluster.database("beating_trigger");
    let mut client = database.connect();
    run(&mut client, "SELECT rgrid_register('w1')");
    claim_jobs(&mut client, "w1", 1);
    trigger(&mut client, "BEFORE", "PERFORM public.rgrid_heartbeat(NEW.worker_id::text)");
    sweep_away(&mut client, "w1");
    assert_eq!(beat(&mut client, "w1"), 2);
    assert_eq!(beat(&mut client, "w1"), 2);
}

#[test]
fn a_deregistration_that_is_rolled_back_forgets_no_heartbeat() {
    let cluster = server();
    let database = cluster.database("rolled_back");
    let mut client = database.connect();
    known_worker(&mut client, "w1");
    age_row(&mut client, "w1");
    let before = server_time(&mut client);
    assert!(beats_in_memory(&mut client, "w1"));
    run(&mut client, "BEGIN; SELECT rgrid_deregister('w1'); ROLLBACK");
    assert!(last_heard(&mut client, "w1").unwrap() >= before);
    assert_eq!(beat(&mut client, "w1"), 1);
    known_worker(&mut client, "w1");
}

#[test]
fn a_row_that_cannot_be_written_keeps_no_other_heartbeat_back() {
    let cluster = server();
    let database = cluster.database("poisoned");
    let mut client = database.connect();
    for worker in ["bad", "good", "better"] {
        known_worker(&mut client, worker);
        age_row(&mut client, worker);
    }
    run(&mut client, "ALTER TABLE worker_heartbeats ADD CHECK (worker_id <> 'bad') NOT VALID");
    let before = server_time(&mut client);
    for worker in ["bad", "good", "better"] {
        assert!(beats_in_memory(&mut client, worker));
    }
    cluster.set("rgrid_heartbeat.flush_interval", "50ms");
    wait_until("the good rows to be written", || {
        ["good", "better"].into_iter().all(|worker| row_time(&mut client, worker).unwrap() >= before)
    });
    wait_until("the bad row to be reported", || {
        !cluster.log_lines_with(&["could not write heartbeats", "violates check constraint"]).is_empty()
    });
    cluster.set("rgrid_heartbeat.flush_interval", "10s");
}

#[test]
fn a_table_that_raises_a_cancellation_stops_no_sweep() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("cancelling");
    let mut client = database.connect();
    trigger(&mut client, "BEFORE", "RAISE EXCEPTION 'not now' USING ERRCODE = '57014'");
    // Queued first: the trigger is in the way of a claim, too.
    run(&mut client, "ALTER TABLE executions DISABLE TRIGGER on_job");
    claim_jobs(&mut client, "w1", 1);
    run(&mut client, "ALTER TABLE executions ENABLE TRIGGER on_job");
    silent_worker(&mut client, "w1");
    silent_worker(&mut client, "w2");
    await_death(&mut client, "w1");
    await_death(&mut client, "w2");
    assert_eq!(cluster.log_lines_with(&["could not settle jobs", "not now"]).len(), 1, "said once");
}

#[test]
fn sweepers_that_hang_keep_no_other_database_waiting() {
    let cluster = Cluster::quick().start();
    let hanging: Vec<_> = (0..3).map(|n| cluster.database(&format!("hanging{n}"))).collect();
    for database in &hanging {
        let mut client = database.connect();
        claim_jobs(&mut client, "w1", 1);
        trigger(&mut client, "BEFORE", "PERFORM pg_sleep(600)");
        silent_worker(&mut client, "w1");
    }
    wait_until("three sweepers to hang", || cluster.pids(cluster::SWEEPER).len() >= 3);
    let healthy = cluster.database("healthy");
    let mut client = healthy.connect();
    silent_worker(&mut client, "w1");
    await_death(&mut client, "w1");
    cluster.set("rgrid_heartbeat.enabled", "off");
    for pid in cluster.pids(cluster::SWEEPER) {
        cluster.terminate(pid);
    }
    for database in &hanging {
        run(&mut database.connect(), "DROP TRIGGER on_job ON executions");
    }
}

#[test]
fn a_rule_that_swallows_heartbeats_is_no_silent_loss() {
    let cluster = server();
    let database = cluster.database("ruled");
    let mut client = database.connect();
    run(&mut client, "CREATE RULE swallow AS ON INSERT TO worker_heartbeats DO INSTEAD NOTHING");
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_heartbeat('b')"), "09000");
    run(&mut client, "DROP RULE swallow ON worker_heartbeats");
    assert_eq!(beat(&mut client, "c"), 1);
    assert!(row_time(&mut client, "c").is_some(), "the session has forgotten the rule");
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

#[test]
fn troubles_of_flushes_and_of_sweeps_side_by_side_are_said_once() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.flush_interval", "50ms").start();
    let database = cluster.database("troubled");
    let mut client = database.connect();
    claim_jobs(&mut client, "dead", 1);
    known_worker(&mut client, "bad");
    run(
        &mut client,
        "ALTER TABLE executions DROP COLUMN completed_at;
         ALTER TABLE worker_heartbeats ADD CHECK (worker_id <> 'bad') NOT VALID",
    );
    let _beats = Beating::calling(database.connect(), "bad");
    silent_worker(&mut client, "dead");
    let both = ["could not settle jobs in table public.executions", "could not write heartbeats"];
    wait_until("both to be said", || !cluster.log_lines_with(&both).is_empty());
    let said = || cluster.log_lines_with(&["WARNING:", "could not"]).len();
    let before = said();
    stays(Duration::from_secs(3), "nothing is said again", || said() == before);
}

#[test]
fn a_worker_without_an_id_does_not_wait_for_ever_where_no_row_can_be_made() {
    let cluster = server();
    let database = cluster.database("swallowed");
    let mut client = database.connect();
    run(&mut client, "CREATE RULE swallow AS ON INSERT TO worker_heartbeats DO INSTEAD NOTHING");
    for call in ["rgrid_register()", "rgrid_heartbeat('w1')"] {
        assert_eq!(sqlstate(&mut client, &format!("SELECT {call}")), "09000", "{call}");
    }
}

#[test]
fn a_name_too_long_for_a_notification_keeps_no_death_back() {
    let cluster = Cluster::quick().start();
    let database = cluster.empty_database("long_names");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE TABLE worker_heartbeats (worker_id text PRIMARY KEY, hostname text, last_heartbeat_at timestamp NOT NULL);
         CREATE EXTENSION rgrid_heartbeat;
         INSERT INTO worker_heartbeats VALUES ('w1', repeat('h', 9000), now() - interval '1 hour')",
    );
    silent_worker(&mut client, "w2");
    await_death(&mut client, "w1");
    await_death(&mut client, "w2");
}
