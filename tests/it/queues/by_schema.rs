//! Queues whose libraries no registry has that the tests can ask. Their tables are made from what is known of their
//! schemas, with a job of each kind, and looked at after a death. What a real worker does then is not seen.

use super::yard::*;
use crate::cluster::*;
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use std::time::Duration;

/// The queue's tables, watched as its page says.
fn watched<'a>(server: &'a Cluster, name: &'static str, schema: &'static str) -> Yard<'a> {
    Yard::new(server, Library { name, program: schema, status: "", done: "" }, "died")
}

/// Returns when a worker of the queue is dead, whom the library calls `worker`.
fn die(yard: &mut Yard<'_>, queue: &str, worker: &str) {
    let worker = format!("{queue}:{worker}");
    silent_worker(&mut yard.client, &worker);
    await_death(&mut yard.client, &worker);
}

/// One text for each row.
fn rows_of(yard: &mut Yard<'_>, sql: &str) -> Vec<String> {
    let rows = yard.client.query(sql, &[]).expect("the tables can be read");
    rows.iter().map(|row| row.get(0)).collect()
}

/// A session that hears how idle workers are woken.
fn listener(yard: &Yard<'_>, channel: &str) -> Client {
    let mut client = yard.owner();
    run(&mut client, &format!("LISTEN \"{channel}\""));
    client
}

fn heard(listener: &mut Client) -> String {
    let mut notifications = listener.notifications();
    let notice = notifications.timeout_iter(Duration::from_secs(30)).next().expect("the server is there");
    notice.expect("a notification within the deadline").payload().to_owned()
}

#[test]
fn river_jobs_are_available_again_or_discarded() {
    let server = server();
    let mut yard = watched(&server, "river", "schema/river.sql");
    let mut idle = listener(&yard, "public.river_insert");
    die(&mut yard, "river", "one");
    let jobs = rows_of(
        &mut yard,
        "SELECT format('%s: %s, %s attempts, %s', kind, state, attempt, errors[1] ->> 'error')
           FROM river_job ORDER BY id",
    );
    assert_eq!(
        jobs,
        [
            "first: available, 1 attempts, Worker died unexpectedly",
            "moved on: available, 2 attempts, Worker died unexpectedly",
            "last: discarded, 3 attempts, Worker died unexpectedly",
            "unwanted: cancelled, 1 attempts, Worker died unexpectedly",
            "of others: running, 2 attempts, ",
            "over: completed, 1 attempts, ",
            "waiting: available, 0 attempts, ",
        ]
    );
    let due = "SELECT kind FROM river_job WHERE state = 'available' AND attempt > 0 AND scheduled_at BETWEEN
                   now() - interval '1 minute' AND now() ORDER BY id";
    assert_eq!(rows_of(&mut yard, due), ["first", "moved on"]);
    assert_eq!(yard.settled(), "2 failed, 2 requeued");
    assert_eq!(heard(&mut idle), r#"{"queue" : "default"}"#);
}

#[test]
fn oban_jobs_are_available_again_or_discarded() {
    let server = server();
    let mut yard = watched(&server, "oban", "schema/oban.sql");
    let mut idle = listener(&yard, "public.oban_insert");
    die(&mut yard, "oban", "one");
    let jobs = rows_of(
        &mut yard,
        "SELECT format('%s: %s, %s attempts, %s', worker, state, attempt,
                    timezone('UTC', now()) - discarded_at < interval '1 minute') FROM oban_jobs ORDER BY id",
    );
    assert_eq!(
        jobs,
        [
            "first: available, 1 attempts, ",
            "last: discarded, 3 attempts, t",
            "of others: executing, 1 attempts, ",
            "over: completed, 1 attempts, ",
            "waiting: available, 0 attempts, ",
        ]
    );
    assert_eq!(yard.settled(), "1 failed, 1 requeued");
    assert_eq!(heard(&mut idle), r#"{"queue" : "default"}"#);
}

#[test]
fn solid_queue_jobs_are_ready_again_and_keep_their_place_in_the_semaphore() {
    let server = server();
    let mut yard = watched(&server, "solid_queue", "schema/solid_queue.sql");
    die(&mut yard, "solid_queue", "7");
    let jobs = rows_of(
        &mut yard,
        "SELECT format('%s: %s %s, priority %s', class_name,
                    CASE WHEN claimed.job_id IS NOT NULL THEN 'claimed' END,
                    CASE WHEN ready.job_id IS NOT NULL THEN 'ready in ' || ready.queue_name END, ready.priority)
           FROM solid_queue_jobs AS job
           LEFT JOIN solid_queue_claimed_executions AS claimed ON claimed.job_id = job.id
           LEFT JOIN solid_queue_ready_executions AS ready ON ready.job_id = job.id ORDER BY job.id",
    );
    assert_eq!(
        jobs,
        [
            "claimed:  ready in mail, priority 5",
            "of others: claimed , priority ",
            "orphaned: claimed , priority ",
            "ready:  ready in mail, priority 0",
        ]
    );
    assert_eq!(rows_of(&mut yard, "SELECT value::text FROM solid_queue_semaphores"), ["0"]);
    assert_eq!(yard.settled(), "0 failed, 1 requeued");
}

#[test]
fn good_job_jobs_are_unlocked_and_known_as_interrupted() {
    let server = server();
    let mut yard = watched(&server, "good_job", "schema/good_job.sql");
    let mut idle = listener(&yard, "good_job");
    die(&mut yard, "good_job", "00000000-0000-0000-0000-000000000001");
    let jobs = rows_of(
        &mut yard,
        "SELECT format('%s: %s %s', job_class, CASE WHEN locked_by_id IS NULL AND locked_at IS NULL THEN 'free'
                    WHEN locked_by_id IS NOT NULL AND locked_at IS NOT NULL THEN 'locked' END,
                    CASE WHEN performed_at IS NOT NULL THEN 'performed' END)
           FROM good_jobs ORDER BY job_class",
    );
    assert_eq!(
        jobs,
        [
            "claimed: free ",
            "of others: locked performed",
            "over: locked performed",
            "running: free performed",
            "waiting: free ",
        ]
    );
    assert_eq!(yard.settled(), "0 failed, 2 requeued");
    assert_eq!(heard(&mut idle), r#"{"queue_name" : "mail"}"#);
}

#[test]
fn delayed_job_jobs_are_unlocked_until_their_attempts_are_used_up() {
    let server = server();
    let mut yard = watched(&server, "delayed_job", "schema/delayed_job.sql");
    die(&mut yard, "delayed_job", "host:a pid:1");
    let jobs = rows_of(
        &mut yard,
        "SELECT format('%s: %s attempts, %s, %s %s', handler, attempts, last_error,
                    CASE WHEN locked_by IS NOT NULL AND locked_at IS NOT NULL THEN 'locked' END,
                    CASE WHEN failed_at IS NOT NULL THEN 'failed' END) FROM delayed_jobs ORDER BY id",
    );
    assert_eq!(
        jobs,
        [
            "first: 1 attempts, Worker died unexpectedly,  ",
            "last: 25 attempts, Worker died unexpectedly,  failed",
            "of others: 0 attempts, , locked ",
            "failed: 25 attempts, , locked failed",
            "waiting: 0 attempts, ,  ",
        ]
    );
    assert_eq!(yard.settled(), "1 failed, 1 requeued");
}
