//! Graphile Worker. Its workers here poll once a minute: what they find sooner, they were woken for.

use super::yard::*;
use crate::cluster::*;
use serde_json::json;

const LIBRARY: Library = Library {
    name: "graphile_worker",
    program: "node/graphile_worker.js",
    // The library deletes a job that is done.
    status: "SELECT CASE WHEN EXISTS (SELECT FROM graphile_worker._private_jobs WHERE payload ->> 'job' = $1)
                         THEN 'not done' ELSE 'done' END",
    done: "done",
};

super::about!(LIBRARY;
    a_killed_worker_s_job_is_done_by_another_in_time
    with_the_default_settings_a_lost_session_is_enough
    a_worker_that_comes_back_changes_nothing_twice
    a_job_outlives_each_of_its_workers
    the_page_shows_what_its_workers_do);

#[test]
fn a_job_without_attempts_left_is_failed() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "attempts");
    let victim = yard.worker_with("job", &json!({"maxAttempts": 1}));
    let _other = yard.idle_worker();
    victim.kill();
    wait_until("the death", || yard.settled() == "1 failed, 0 requeued");
    let failed =
        "SELECT locked_by IS NULL AND attempts = max_attempts AND last_error = 'Worker died unexpectedly'
                  FROM graphile_worker._private_jobs";
    assert!(ask::<bool>(&mut yard.client, failed, &[]));
    stays(WHILE, "the job is not run again", || yard.runs("job") == 1);
}

#[test]
fn a_named_queue_goes_on() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "named");
    let named = json!({"queueName": "named"});
    let victim = yard.worker_with("job", &named);
    let _other = yard.idle_worker();
    yard.enqueue_with("quick one after it", &named);
    stays(WHILE, "the queue is locked", || yard.runs("quick one after it") == 0);
    let seconds = yard.time_to_next_run("job", victim);
    assert!(seconds <= AGAIN_WITHIN, "after {seconds} s");
    yard.await_ends("job", 1);
    // Wakes the worker, which may have looked for the next one before the queue was free.
    yard.enqueue("quick nudge");
    yard.await_ends("quick one after it", 1);
}
