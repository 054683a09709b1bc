//! pg-boss. Its workers here poll once a minute: what they find sooner, they were woken for.

use super::yard::*;
use crate::cluster::*;
use serde_json::json;

const LIBRARY: Library = Library {
    name: "pg_boss",
    program: "node/pg_boss.js",
    status: "SELECT state::text FROM pgboss.job WHERE name = 'jobs' AND data ->> 'job' = $1",
    done: "completed",
};

super::about!(LIBRARY;
    a_killed_worker_s_job_is_done_by_another_in_time
    with_the_default_settings_a_lost_session_is_enough
    a_worker_that_comes_back_changes_nothing_twice
    a_job_outlives_each_of_its_workers
    the_page_shows_what_its_workers_do);

#[test]
fn a_death_counts_as_one_attempt() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "counted");
    let victim = yard.worker_at("job");
    let _other = yard.idle_worker();
    yard.time_to_next_run("job", victim);
    yard.await_done("job");
    let count = "SELECT retry_count FROM pgboss.job WHERE data ->> 'job' = 'job'";
    assert_eq!(ask::<i32>(&mut yard.client, count, &[]), 1);
}

#[test]
fn a_job_without_attempts_left_goes_to_the_dead_letters() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "attempts");
    let victim = yard.worker_with("job", &json!({"retryLimit": 0}));
    let _other = yard.idle_worker();
    victim.kill();
    yard.await_status("job", "failed");
    assert_eq!(yard.settled(), "1 failed, 0 requeued");
    let letter = "SELECT state = 'created' AND data ->> 'job' = 'job' AND source_name = 'jobs'
                     AND source_output #>> '{value,message}' = 'Worker died unexpectedly'
                  FROM pgboss.job WHERE name = 'dead-letters'";
    assert!(ask::<bool>(&mut yard.client, letter, &[]));
    stays(WHILE, "the job is not run again", || yard.runs("job") == 1);
}

/// Where jobs have other columns.
#[test]
fn version_10_is_served_too() {
    let server = server();
    let library = Library { program: "node/pg_boss_10.js", ..LIBRARY };
    let mut yard = Yard::new(&server, library, "version_10");
    let victim = yard.worker_at("job");
    let other = yard.idle_worker();
    let seconds = yard.time_to_next_run("job", victim);
    assert!(seconds <= AGAIN_WITHIN, "after {seconds} s");
    yard.await_done("job");
    yard.enqueue_with("last", &json!({"retryLimit": 0}));
    yard.await_run("last", 1);
    other.kill();
    yard.await_status("last", "failed");
    let letters = "SELECT count(*) FROM pgboss.job WHERE name = 'dead-letters' AND data ->> 'job' = 'last'";
    assert_eq!(ask::<i64>(&mut yard.client, letters, &[]), 1);
}
