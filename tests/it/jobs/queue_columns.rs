//! Tables of jobs whose columns mean what those of queues mean: settled by sweepers, and by a worker that returns.

use std::time::Duration;

use crate::cluster::*;
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

fn server() -> Shared {
    Shared::of(|| Cluster::quick().setting("rgrid_heartbeat.retention", "1s"))
}

/// A queue that keeps all workers of a job, and counts no attempts. Its owner is no superuser.
fn queue(client: &mut Client) {
    let role: String = ask(client, "SELECT 'owner_in_' || current_database()", &[]);
    run(
        client,
        &format!(
            "CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role};
             GRANT EXECUTE ON FUNCTION rgrid_watch_jobs, rgrid_rehearse TO {role};
             SET ROLE {role};
             CREATE TABLE tasks (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), status text NOT NULL,
                                 workers jsonb NOT NULL, errors jsonb, name text);
             SELECT rgrid_watch_jobs('tasks', worker_column => 'workers', error_column => 'errors',
                                     finished_column => NULL, on_death => 'requeue', also_running => '{{claimed}}',
                                     attempts_column => NULL, max_attempts_column => NULL, max_attempts => 2,
                                     max_attempts_means => 'attempts', wake_channel => 'tasks', wake_payload => 'more');
             RESET ROLE"
        ),
    );
}

fn claim(client: &mut Client, name: &str, status: &str, worker: &str) {
    let sql =
        "INSERT INTO tasks (name, status, workers) VALUES ($1, $2, jsonb_build_array('earlier', $3::text))";
    client.execute(sql, &[&name, &status, &worker]).expect("a job can be added");
}

fn claim_again(client: &mut Client, worker: &str) {
    let sql = "UPDATE tasks SET status = 'running', workers = workers || jsonb_build_array($1::text) WHERE status = 'queued'";
    client.execute(sql, &[&worker]).expect("jobs can be claimed");
}

/// The jobs by name, each with its status.
fn statuses(client: &mut Client) -> String {
    ask(client, "SELECT coalesce(string_agg(name || ' ' || status, ', ' ORDER BY name), '') FROM tasks", &[])
}

/// The counted attempts of jobs that there are, by name, and how many rows have none.
fn attempts(client: &mut Client) -> String {
    let sql =
        "SELECT coalesce(string_agg(coalesce(t.name, 'gone') || ' ' || a.attempts, ', ' ORDER BY t.name), '')
               FROM rgrid_job_attempts a LEFT JOIN tasks t ON t.id::text = a.job_key
               WHERE a.job_table = 'public.tasks'";
    ask(client, sql, &[])
}

#[test]
fn a_job_without_a_counter_comes_back_until_the_extension_has_counted_enough() {
    let cluster = server();
    let mut client = cluster.database("uncounted").connect();
    queue(&mut client);
    claim(&mut client, "a", "running", "first");
    claim(&mut client, "b", "claimed", "first");
    claim(&mut client, "c", "running", "nobody");
    silent_worker(&mut client, "first");
    wait_until("the jobs of the dead worker to be queued", || {
        statuses(&mut client) == "a queued, b queued, c running"
    });
    assert_eq!(attempts(&mut client), "a 1, b 1");
    assert_eq!(
        ask::<String>(&mut client, "SELECT errors #>> '{}' FROM tasks WHERE name = 'b'", &[]),
        "Worker died unexpectedly (attempts used: 1 of 2)"
    );
    // A job that is no longer there needs no count.
    run(&mut client, "DELETE FROM tasks WHERE name = 'b'");
    wait_until("its count to be forgotten", || attempts(&mut client) == "a 1");
    // The session of a worker that returns counts, too.
    run(&mut client, "SELECT rgrid_register('second')");
    claim_again(&mut client, "second");
    claim(&mut client, "d", "running", "second");
    run(&mut client, "SELECT rgrid_register('second')");
    assert_eq!(statuses(&mut client), "a failed, c running, d queued");
    assert_eq!(attempts(&mut client), "d 1", "a job that has failed may be queued afresh by hand");
    let database = cluster.empty_database("uncounted_copy");
    cluster.dump_and_restore("uncounted", "uncounted_copy");
    assert_eq!(attempts(&mut database.connect()), "d 1", "a dump has the counts");
}

#[test]
fn a_job_that_refuses_to_be_queued_is_failed_and_only_the_others_are_counted() {
    let cluster = server();
    let mut client = cluster.database("counted_in_parts").connect();
    queue(&mut client);
    run(&mut client, "CREATE UNIQUE INDEX ON tasks (name) WHERE status = 'queued'");
    for (name, status, worker) in [
        ("twin", "queued", "nobody"),
        ("twin", "running", "first"),
        ("other", "running", "first"),
        ("third", "running", "another"),
    ] {
        claim(&mut client, name, status, worker);
    }
    silent_worker(&mut client, "first");
    silent_worker(&mut client, "another");
    wait_until("all to be settled", || {
        statuses(&mut client).replace("twin failed, twin queued", "twin queued, twin failed")
            == "other queued, third queued, twin queued, twin failed"
    });
    assert_eq!(attempts(&mut client), "other 1, third 1");
}

#[test]
fn an_idle_worker_is_woken_when_jobs_go_back_to_the_queue_and_only_then() {
    let cluster = server();
    let database = cluster.database("woken");
    let (mut client, mut idle) = (database.connect(), database.connect());
    queue(&mut client);
    run(&mut idle, "LISTEN tasks");
    // A rehearsal, a worker without jobs and a job that fails wake nobody.
    run(&mut client, "SELECT rgrid_rehearse('tasks')");
    silent_worker(&mut client, "without jobs");
    await_death(&mut client, "without jobs");
    run(
        &mut client,
        "INSERT INTO tasks (id, name, status, workers)
         VALUES ('11111111-1111-1111-1111-111111111111', 'last', 'running', '[\"first\"]');
         INSERT INTO rgrid_job_attempts VALUES ('public.tasks', '11111111-1111-1111-1111-111111111111', 1)",
    );
    silent_worker(&mut client, "first");
    wait_until("the job to fail", || statuses(&mut client) == "last failed");
    run(&mut idle, "SELECT");
    assert_eq!(idle.notifications().iter().count().unwrap(), 0);

    claim(&mut client, "a", "running", "second");
    claim(&mut client, "b", "claimed", "second");
    silent_worker(&mut client, "second");
    let mut notifications = idle.notifications();
    let notice = notifications.timeout_iter(Duration::from_secs(30)).next().unwrap().expect("it is woken");
    assert_eq!((notice.channel(), notice.payload()), ("tasks", "more"));
    assert_eq!(
        statuses(&mut client),
        "a queued, b queued, last failed",
        "when it is told, the jobs are there"
    );
    drop(notifications);
    await_sweep(&mut client, "witness");
    run(&mut idle, "SELECT");
    assert_eq!(idle.notifications().iter().count().unwrap(), 0, "once");
}

#[test]
fn the_index_that_health_advises_can_be_made_for_workers_in_arrays() {
    let cluster = server();
    let mut client = cluster.database("indexed").connect();
    run(
        &mut client,
        "CREATE DOMAIN ids AS uuid[];
         CREATE TABLE large (id int, status text NOT NULL, listed uuid[], named ids, jsons jsonb, execution_error text);
         INSERT INTO large SELECT n, 'done' FROM generate_series(1, 100000) n; ANALYZE large",
    );
    for column in ["listed", "named", "jsons"] {
        let watch = format!(
            "SELECT rgrid_watch_jobs('large', worker_column => '{column}', also_running => '{{claimed}}',
                                     finished_column => NULL)"
        );
        run(&mut client, &watch);
        let check = "SELECT status || coalesce(hint, '') FROM rgrid_health() WHERE check_name = 'job index public.large'";
        let advice: String = ask(&mut client, check, &[]);
        let statement =
            advice.strip_prefix("warning").expect("there is no index").replace(" CONCURRENTLY", "");
        run(&mut client, &statement);
        assert_eq!(ask::<String>(&mut client, check, &[]), "ok", "{statement}");
        run(
            &mut client,
            "DO $$BEGIN EXECUTE 'DROP INDEX ' || (SELECT indexrelid::regclass FROM pg_index
                                                             WHERE indrelid = 'large'::regclass); END$$",
        );
    }
}
