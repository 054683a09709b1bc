//! Procrastinate: locks of waiting jobs, requested aborts, and workers that the library itself forgets.

use super::yard::*;
use crate::cluster::*;
use serde_json::json;

const LIBRARY: Library = Library {
    name: "procrastinate",
    program: "procrastinate_worker.py",
    status: "SELECT status::text FROM procrastinate_jobs WHERE args ->> 'job' = $1",
    done: "succeeded",
};

super::about!(LIBRARY;
    a_killed_worker_s_job_is_done_by_another_in_time
    with_the_default_settings_a_lost_session_is_enough
    a_worker_that_comes_back_changes_nothing_twice
    the_page_shows_what_its_workers_do);

const JOB: &str = "SELECT id FROM procrastinate_jobs WHERE args ->> 'job' = 'job'";

#[test]
fn a_death_is_an_attempt_and_an_event_as_a_retry_is() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "attempts");
    yard.worker_at("job").kill();
    yard.await_status("job", "todo");
    let attempts: i32 = ask(&mut yard.client, "SELECT attempts FROM procrastinate_jobs", &[]);
    assert_eq!(attempts, 1);
    let events = format!(
        "SELECT string_agg(type::text, ' ' ORDER BY id) FROM procrastinate_events WHERE job_id = ({JOB})"
    );
    let events: String = ask(&mut yard.client, &events, &[]);
    assert_eq!(events, "deferred started scheduled deferred_for_retry");
}

#[test]
fn a_job_fails_while_another_one_waits_with_its_queueing_lock() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "queueing_lock");
    let lock = json!({"queueing_lock": "one at a time"});
    let victim = yard.worker_with("job", &lock);
    yard.enqueue_with("quick next", &lock);
    victim.kill();
    yard.await_status("job", "failed");
    assert_eq!(yard.settled(), "1 failed, 0 requeued");
    let _other = yard.worker();
    yard.await_status("quick next", "succeeded");
}

#[test]
fn of_several_jobs_with_one_queueing_lock_the_first_goes_back() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "queueing_locks");
    let victim = yard.worker_with("job", &json!({"queueing_lock": "one at a time"}));
    run(
        &mut yard.owner(),
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args, queueing_lock, status, worker_id)
         SELECT queue_name, task_name, '{\"job\": \"second\"}', queueing_lock, status, worker_id
         FROM procrastinate_jobs",
    );
    victim.kill();
    yard.await_status("job", "todo");
    assert_eq!(yard.status("second"), "failed");
    assert_eq!(yard.settled(), "1 failed, 1 requeued");
}

#[test]
fn a_job_whose_abort_was_requested_fails() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "abort");
    let victim = yard.worker_at("job");
    victim.signal("STOP");
    run(&mut yard.owner(), &format!("SELECT procrastinate_cancel_job_v1(({JOB}), true, false)"));
    victim.kill();
    yard.await_status("job", "failed");
    assert_eq!(yard.settled(), "1 failed, 0 requeued");
}

/// The library forgets a silent worker when another one starts. Workers as on its page wait a day with that.
#[test]
fn a_worker_that_starts_does_not_hide_the_jobs_of_the_dead() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "pruning");
    let victim = yard.worker_at("job");
    victim.kill();
    run(&mut yard.owner(), "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'");
    let _other = yard.worker();
    yard.await_status("job", "succeeded");
    assert_eq!(yard.runs("job"), 2);
}

/// Whose such a job was is not known any more, and its worker may be alive.
#[test]
fn a_job_of_a_worker_that_the_library_has_forgotten_is_left_to_the_library() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "forgotten");
    let victim = yard.worker_at("job");
    victim.kill();
    run(
        &mut yard.owner(),
        "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour';
         SELECT procrastinate_prune_stalled_workers_v1(30)",
    );
    yard.await_death();
    stays(WHILE, "the job is as it was", || yard.status("job") == "doing");
}

#[test]
fn a_queue_whose_tables_the_library_has_changed_waits_and_a_check_says_what_differs() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "changed");
    let victim = yard.worker_at("job");
    run(&mut yard.owner(), "ALTER TABLE procrastinate_jobs RENAME abort_requested TO abort_requested_at");
    let refusal = sqlstate(&mut yard.owner(), "SELECT rgrid_watch_queue('procrastinate')");
    assert_eq!(refusal, "55000");
    let sql = "SELECT string_agg(detail, ' ') FROM rgrid_health() WHERE status = 'error'";
    let detail: String = ask(&mut yard.client, sql, &[]);
    assert!(detail.contains("table procrastinate_jobs has no column abort_requested"), "{detail}");
    victim.kill();
    yard.await_death();
    stays(WHILE, "the job waits", || yard.status("job") == "doing");
    run(&mut yard.owner(), "ALTER TABLE procrastinate_jobs RENAME abort_requested_at TO abort_requested");
    yard.await_status("job", "todo");
}

#[test]
fn a_queue_in_another_schema_with_another_prefix_is_watched_and_one_that_is_not_watched_is_left_alone() {
    let server = server();
    let elsewhere = "CREATE SCHEMA \"Other queue\" AUTHORIZATION app;
                     ALTER DATABASE procrastinate_elsewhere SET search_path = \"Other queue\", public";
    let mut yard = Yard::prepared(&server, LIBRARY, "elsewhere", elsewhere);
    let status = "SELECT status::text FROM \"Other queue\".procrastinate_jobs";
    let mut owner = yard.owner();
    assert_eq!(sqlstate(&mut owner, "SELECT rgrid_watch_queue('procrastinate')"), "55000");
    let watch = "SELECT rgrid_watch_queue('procrastinate', 'Other queue', 'procrastinate')";
    run(&mut owner, watch);
    let unwatch = "SELECT rgrid_unwatch_queue('procrastinate', 'Other queue')";
    assert!(ask::<bool>(&mut owner, unwatch, &[]));
    yard.worker_at("job").kill();
    yard.await_death();
    stays(WHILE, "nobody settles the job", || ask::<String>(&mut owner, status, &[]) == "doing");
    run(&mut owner, &watch.replace("'procrastinate')", "'procrastinate:')"));
    wait_until("the job to go back", || ask::<String>(&mut owner, status, &[]) == "todo");
}
