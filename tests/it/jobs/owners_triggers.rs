//! Triggers on a table of jobs that hang, raise errors or call the extension, without meaning harm.

use crate::cluster::*;
use postgres::Client;

/// Only sessions sweep.
fn server() -> Shared {
    Shared::of(|| Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h"))
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
fn a_cancelled_settlement_leaves_the_callers_blocks_as_they_are() {
    let cluster = server();
    let database = cluster.database("cancelled");
    let mut client = database.connect();
    run(&mut client, "CREATE TABLE kept (block text); SET rgrid_heartbeat.stale_threshold = '100ms'");
    silent_worker(&mut client, "w1");
    claim_jobs(&mut client, "w1", 1);
    trigger(&mut client, "BEFORE", "PERFORM pg_sleep(60)");
    let found = "SELECT count(*) FROM rgrid_sweep(dry_run => true)";
    wait_until("a sweep that may judge", || ask::<i64>(&mut client, found, &[]) == 1);
    run(&mut client, "SET statement_timeout = '500ms'");
    run(
        &mut client,
        "DO $$BEGIN
             INSERT INTO kept VALUES ('outer');
             BEGIN
                 INSERT INTO kept VALUES ('inner');
                 PERFORM rgrid_sweep();
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
fn a_trigger_that_beats_for_its_worker_revives_no_old_incarnation() {
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
fn sweepers_that_hang_delay_no_other_database() {
    let cluster = Cluster::quick().start();
    let hanging: Vec<_> = (0..3).map(|n| cluster.database(&format!("hanging{n}"))).collect();
    for database in &hanging {
        let mut client = database.connect();
        claim_jobs(&mut client, "w1", 1);
        trigger(&mut client, "BEFORE", "PERFORM pg_sleep(600)");
        silent_worker(&mut client, "w1");
    }
    wait_until("three sweepers to hang", || cluster.pids(SWEEPER).len() >= 3);
    let healthy = cluster.database("healthy");
    let mut client = healthy.connect();
    silent_worker(&mut client, "w1");
    await_death(&mut client, "w1");
    cluster.set("rgrid_heartbeat.enabled", "off");
    for pid in cluster.pids(SWEEPER) {
        cluster.terminate(pid);
    }
    for database in &hanging {
        run(&mut database.connect(), "DROP TRIGGER on_job ON executions");
    }
}
