//! What a listener on the channel `rgrid_worker_deaths` gets.

use crate::cluster::*;

#[test]
fn listeners_hear_of_each_death_once_it_is_committed() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("notified");
    let mut listener = database.connect();
    run(&mut listener, "LISTEN rgrid_worker_deaths");
    let mut client = database.connect();
    claim_jobs(&mut client, "silent", 2);
    silent_worker(&mut client, "silent");

    let notice = next_notice(&mut listener);
    assert_eq!(notice["worker_id"], "silent");
    assert_eq!(notice["incarnation"], 1);
    assert_eq!(notice["hostname"], "silent.example");
    assert_eq!(notice["reason"], "stale");
    assert_eq!(notice["jobs"][0]["table"], "public.executions");
    assert_eq!(notice["jobs"][0]["failed"], 2);
    assert_eq!(notice["truncated"], false);
    assert!(ask::<bool>(
        &mut client,
        "SELECT notified FROM rgrid_worker_deaths WHERE worker_id = 'silent'",
        &[]
    ));

    run(&mut client, "SELECT rgrid_register('restarted', 'there')");
    run(&mut client, "BEGIN; SELECT rgrid_register('restarted', 'there'); ROLLBACK");
    run(&mut client, "SELECT rgrid_register('restarted', 'there')");
    let notice = next_notice(&mut listener);
    assert_eq!((&notice["worker_id"], &notice["reason"]), (&"restarted".into(), &"restarted".into()));
    assert_eq!(notice["incarnation"], 1, "the one that was rolled back is not told");
}

#[test]
fn a_name_too_long_for_a_notification_delays_no_death() {
    let cluster = Cluster::quick().start();
    let database = cluster.empty_database("long_names");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE TABLE worker_heartbeats (worker_id text PRIMARY KEY, hostname text, last_heartbeat_at timestamp NOT NULL);
         CREATE EXTENSION rgrid_heartbeat;
         INSERT INTO worker_heartbeats VALUES ('w1', repeat('h', 9000), now() - interval '1 hour')",
    );
    silent_worker(&mut client, "w2");
    await_death(&mut client, "w1");
    await_death(&mut client, "w2");
}

/// Before PostgreSQL 17 the queue always has 8 GB, more than a test can fill.
#[test]
fn a_full_queue_of_notifications_keeps_no_death_from_being_declared() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("full_queue");
    let mut client = database.connect();
    if ask::<i32>(&mut client, "SELECT current_setting('server_version_num')::int", &[]) < 170_000 {
        let usage =
            "SELECT detail FROM rgrid_health() WHERE check_name = 'notification queue' AND status = 'ok'";
        assert!(ask::<String>(&mut client, usage, &[]).ends_with("is 0 % full."));
        return;
    }
    run(&mut client, "ALTER SYSTEM SET max_notify_queue_pages = 64");
    cluster.restart("fast");
    let (mut client, mut listener) = (database.connect(), database.connect());
    run(&mut listener, "LISTEN others");
    run(&mut listener, "BEGIN; SELECT 1");
    let fill = "SELECT count(pg_notify('others', repeat(n::text, 1000))) FROM generate_series(1, 8) n";
    wait_until("the queue to be nearly full", || {
        let _ = client.execute(fill, &[]);
        ask::<bool>(&mut client, "SELECT pg_notification_queue_usage() > 0.9", &[])
    });
    silent_worker(&mut client, "victim");
    await_death(&mut client, "victim");
    assert!(!cluster.log_lines_with(&["notifications not sent: 1"]).is_empty());
    assert!(!ask::<bool>(&mut client, "SELECT notified FROM rgrid_worker_deaths", &[]), "the ledger says so");
    let warned =
        "SELECT string_agg(check_name, ', ' ORDER BY check_name) FROM rgrid_health() WHERE status = 'warning'
                  AND check_name IN ('notification queue', 'untold deaths')";
    assert_eq!(ask::<String>(&mut client, warned, &[]), "notification queue, untold deaths");
    let check = "SELECT detail FROM rgrid_health() WHERE check_name = 'untold deaths'";
    assert!(ask::<String>(&mut client, check, &[]).starts_with("1 deaths in the last day"));
}
