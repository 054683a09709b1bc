//! Absurd, with its tables as its own tool makes them.

use super::yard::*;
use crate::cluster::*;
use serde_json::json;

const LIBRARY: Library = Library {
    name: "absurd",
    program: "node/absurd.js",
    status: "SELECT state FROM absurd.t_jobs WHERE params ->> 'job' = $1",
    done: "completed",
};

super::about!(LIBRARY;
    a_killed_worker_s_job_is_done_by_another_in_time
    with_the_default_settings_a_lost_session_is_enough
    a_worker_that_comes_back_changes_nothing_twice
    a_job_outlives_each_of_its_workers
    the_page_shows_what_its_workers_do);

#[test]
fn a_task_without_attempts_left_is_failed() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "attempts");
    let victim = yard.worker_with("job", &json!({"maxAttempts": 1}));
    let _other = yard.idle_worker();
    victim.kill();
    yard.await_status("job", "failed");
    assert_eq!(yard.settled(), "1 failed, 0 requeued");
    let reason = "SELECT failure_reason ->> 'message' FROM absurd.r_jobs WHERE state = 'failed'";
    assert_eq!(ask::<String>(&mut yard.client, reason, &[]), "Worker died unexpectedly");
    stays(WHILE, "the task is not run again", || yard.runs("job") == 1);
}

/// Each queue has tables of its own.
#[test]
fn runs_of_all_queues_are_found() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "queues");
    let claim = "SELECT absurd.create_queue('it''s \"another\"');
                 SELECT absurd.spawn_task('it''s \"another\"', 'task', '{}');
                 SELECT absurd.claim_task('it''s \"another\"', '<one & only>', 3600);
                 SELECT absurd.spawn_task('jobs', 'task', '{\"job\": \"one\"}');
                 SELECT absurd.claim_task('jobs', '<one & only>', 3600)";
    run(&mut yard.owner(), claim);
    silent_worker(&mut yard.client, "absurd:<one & only>");
    await_death(&mut yard.client, "absurd:<one & only>");
    assert_eq!(yard.settled(), "0 failed, 2 requeued");
}
