//! Chancy: claims, and attempts that are used up at the first one.

use super::yard::*;
use crate::cluster::*;

const LIBRARY: Library = Library {
    name: "chancy",
    program: "chancy_worker.py",
    status: "SELECT state::text FROM chancy_jobs WHERE kwargs ->> 'name' = $1",
    done: "succeeded",
};

super::about!(LIBRARY;
    a_killed_worker_s_job_is_done_by_another_in_time
    with_the_default_settings_a_lost_session_is_enough
    a_worker_that_comes_back_changes_nothing_twice
    a_job_outlives_each_of_its_workers
    the_page_shows_what_its_workers_do);

/// A job has one attempt by default.
#[test]
fn a_death_costs_no_attempt_and_ends_the_claim() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "attempts");
    yard.worker_at("job").kill();
    yard.await_status("job", "pending");
    let sql = "SELECT format('%s of %s, %s', attempts, max_attempts, coalesce(taken_by, claim_id::text,
                   started_at::text, 'nobody''s')) FROM chancy_jobs";
    assert_eq!(ask::<String>(&mut yard.client, sql, &[]), "0 of 2, nobody's");
}
