//! PgQueuer: its log, its seats, and idle workers that wait for half a minute.

use super::yard::*;
use crate::cluster::*;
use serde_json::json;

const LIBRARY: Library = Library {
    name: "pgqueuer",
    program: "pgqueuer_worker.py",
    status: "SELECT coalesce(max(status::text), 'gone') FROM pgqueuer WHERE payload = convert_to($1, 'UTF8')",
    done: "gone",
};

super::about!(LIBRARY;
    a_killed_worker_s_job_is_done_by_another_in_time
    with_the_default_settings_a_lost_session_is_enough
    a_worker_that_comes_back_changes_nothing_twice
    the_page_shows_what_its_workers_do);

#[test]
fn a_death_is_an_attempt_and_a_line_of_the_log() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "attempts");
    yard.worker_at("job").kill();
    yard.await_status("job", "queued");
    let attempts: i32 = ask(&mut yard.client, "SELECT attempts FROM pgqueuer", &[]);
    assert_eq!(attempts, 1);
    let sql = "SELECT string_agg(concat_ws(' ', status, traceback ->> 'exception_message'), ', ' ORDER BY id)
               FROM pgqueuer_log";
    let log: String = ask(&mut yard.client, sql, &[]);
    assert_eq!(log, "queued, picked, queued Worker died unexpectedly");
    // The library can read it.
    assert!(yard.told(&["log"]).contains("WorkerDied"));
}

#[test]
fn a_job_that_goes_back_leaves_its_seat() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "seats");
    let victim = yard.worker_with("job", &json!({"entrypoint": "limited"}));
    let _other = yard.idle_worker();
    victim.kill();
    yard.await_status("job", "gone");
    assert_eq!(yard.runs("job"), 2);
}
