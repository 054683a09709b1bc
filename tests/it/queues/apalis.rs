//! Apalis. Its worker is a program of its own, `tests/queues/apalis`.

use super::yard::*;
use crate::cluster::*;
use serde_json::json;

const LIBRARY: Library = Library {
    name: "apalis",
    program: "apalis/src/main.rs",
    status: "SELECT status FROM apalis.jobs WHERE convert_from(job, 'UTF8')::json #>> '{}' = $1",
    done: "Done",
};

super::about!(LIBRARY;
    a_killed_worker_s_job_is_done_by_another_in_time
    with_the_default_settings_a_lost_session_is_enough
    a_worker_that_comes_back_changes_nothing_twice
    a_job_outlives_each_of_its_workers
    the_page_shows_what_its_workers_do);

/// A worker claims several jobs at once.
#[test]
fn jobs_that_were_claimed_and_not_started_go_back() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "claimed");
    yard.enqueue("quick one behind it");
    run(&mut yard.owner(), "UPDATE apalis.jobs SET priority = -1");
    let victim = yard.worker_at("job");
    yard.await_status("quick one behind it", "Queued");
    let _other = yard.worker();
    stays(WHILE, "the other worker has no job", || yard.runs("quick one behind it") == 0);
    victim.kill();
    yard.await_ends("quick one behind it", 1);
    yard.await_ends("job", 1);
    assert_eq!(yard.settled(), "0 failed, 2 requeued");
}

#[test]
fn a_job_without_attempts_left_is_failed() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "attempts");
    let victim = yard.worker_with("job", &json!({"max_attempts": 1}));
    let _other = yard.idle_worker();
    victim.kill();
    yard.await_status("job", "Failed");
    assert_eq!(yard.settled(), "1 failed, 0 requeued");
    let result = "SELECT last_result ->> 'Err' FROM apalis.jobs WHERE status = 'Failed'";
    assert_eq!(ask::<String>(&mut yard.client, result, &[]), "Worker died unexpectedly");
    stays(WHILE, "the job is not run again", || yard.runs("job") == 1);
}
