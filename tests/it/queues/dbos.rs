//! DBOS: workflows that were started without a queue, and attempts that the library counts itself.

use super::yard::*;
use crate::cluster::*;
use serde_json::json;

const LIBRARY: Library = Library {
    name: "dbos",
    program: "dbos_worker.py",
    status: "SELECT status FROM dbos.workflow_status WHERE workflow_uuid = $1",
    done: "SUCCESS",
};

super::about!(LIBRARY;
    a_killed_worker_s_job_is_done_by_another_at_its_next_look
    with_the_default_settings_a_lost_session_is_enough
    a_worker_that_comes_back_changes_nothing_twice
    the_page_shows_what_its_workers_do);

#[test]
fn a_workflow_that_was_started_without_a_queue_is_done_by_another_executor() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "started");
    let victim = yard.worker_told(&["start", "job"]);
    yard.await_run("job", 1);
    let _other = yard.idle_worker();
    let seconds = yard.time_to_next_run("job", victim);
    assert!(seconds <= AGAIN_WITHIN + 1.0, "after {seconds} s");
    yard.await_status("job", "SUCCESS");
}

#[test]
fn a_workflow_that_goes_back_is_nobody_s_and_its_attempt_is_not_counted_twice() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "attempts");
    let victim = yard.worker_told(&["start", "job"]);
    yard.await_run("job", 1);
    victim.kill();
    yard.await_status("job", "ENQUEUED");
    let sql = "SELECT format('%s, %s, attempt %s', queue_name,
                   coalesce(owner_xid, started_at_epoch_ms::text, 'nobody''s'), recovery_attempts)
               FROM dbos.workflow_status WHERE workflow_uuid = 'job'";
    assert_eq!(ask::<String>(&mut yard.client, sql, &[]), "_dbos_internal_queue, nobody's, attempt 1");
    let _other = yard.worker();
    yard.await_status("job", "SUCCESS");
    assert!(ask::<String>(&mut yard.client, sql, &[]).ends_with("attempt 2"));
}

#[test]
fn a_workflow_without_attempts_left_is_given_up_by_the_library() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "exhausted");
    let victim = yard.worker_with("job", &json!({"workflow": "work_once"}));
    let _other = yard.idle_worker();
    victim.kill();
    yard.await_status("job", "MAX_RECOVERY_ATTEMPTS_EXCEEDED");
    assert_eq!(yard.runs("job"), 1);
}
