//! Django's tasks: a list of workers, of which the last one counts.

use super::yard::*;
use crate::cluster::*;

const LIBRARY: Library = Library {
    name: "django_tasks",
    program: "django_tasks_worker.py",
    status: "SELECT status::text FROM django_tasks_database_dbtaskresult WHERE args_kwargs -> 'args' ->> 0 = $1",
    done: "SUCCESSFUL",
};

super::about!(LIBRARY;
    a_killed_worker_s_job_is_done_by_another_at_its_next_look
    with_the_default_settings_a_lost_session_is_enough
    a_worker_that_comes_back_changes_nothing_twice
    a_job_outlives_each_of_its_workers
    the_page_shows_what_its_workers_do);

#[test]
fn a_task_that_goes_back_is_as_it_was_but_for_the_list_of_its_workers() {
    let server = server();
    let mut yard = Yard::new(&server, LIBRARY, "attempts");
    yard.worker_at("job").kill();
    yard.await_status("job", "READY");
    let sql = "SELECT format('%s of %s', worker_ids, coalesce(started_at::text, 'nobody'))
               FROM django_tasks_database_dbtaskresult";
    let victim: String = ask(&mut yard.client, "SELECT worker_id FROM rgrid_worker_deaths", &[]);
    let victim = victim.strip_prefix("django_tasks:").expect("it has the prefix");
    assert_eq!(ask::<String>(&mut yard.client, sql, &[]), format!("[\"{victim}\"] of nobody"));
}
