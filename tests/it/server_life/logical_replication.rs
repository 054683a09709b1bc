//! Logical replication with the extension on both sides, as in a major upgrade: the publisher judges, until the
//! subscription is gone.

use crate::cluster::*;
use postgres::Client;
use std::time::Duration;

/// The threshold of the servers here.
const THRESHOLD: Duration = Duration::from_secs(2);

fn problems(client: &mut Client) -> Vec<String> {
    let sql = "SELECT problem || ' ' || sqlstate FROM pg_stat_rgrid_problems
               WHERE datname = current_database() ORDER BY 1";
    let rows = client.query(sql, &[]).expect("the problems can be read");
    rows.iter().map(|row| row.get(0)).collect()
}

fn health(client: &mut Client, check: &str) -> String {
    ask(
        client,
        "SELECT status || ': ' || detail || coalesce(' ' || hint, '') FROM rgrid_health() WHERE check_name = $1",
        &[&check],
    )
}

/// Two servers with the extension and RGrid's tables.
fn two_servers() -> (Cluster, Cluster) {
    (Cluster::publishing().start(), Cluster::quick().start())
}

#[test]
fn a_subscription_that_stalls_kills_no_worker() {
    let (publisher, subscriber) = two_servers();
    let (old, new) = (publisher.database("grid"), subscriber.database("grid"));
    let (mut here, mut there) = (old.connect(), new.connect());
    let beats = Beating::calling(old.connect(), "healthy");
    claim_jobs(&mut here, "healthy", 2);
    subscribe((&publisher, &mut here), &mut there, "FOR ALL TABLES");
    wait_until("its jobs to be copied", || jobs(&mut there, "healthy", "running") == 2);

    let mut blocker = new.connect();
    run(&mut blocker, "BEGIN; LOCK TABLE worker_heartbeats IN SHARE ROW EXCLUSIVE MODE");
    stays(3 * THRESHOLD, "the worker lives, and so do its jobs", || {
        deaths(&mut there, "healthy") == 0 && jobs(&mut there, "healthy", "running") == 2
    });
    run(&mut blocker, "ROLLBACK");

    // A death comes from the publisher, and so does all that follows.
    drop(beats);
    await_death(&mut here, "healthy");
    queue_jobs(&mut here, "later", 1);
    await_apply(&mut here);
    assert_eq!(ledger(&mut there, "healthy"), ["1 stale 2 gone"]);
    assert_eq!(rows(&mut there, "executions"), rows(&mut here, "executions"));
    assert_eq!(problems(&mut there), ["subscription 55000"]);
    assert_eq!(subscriber.log_lines_with(&["nobody is judged"]).len(), 1, "said once");
    assert_eq!(publisher.log_lines_with(&["nobody is judged"]).len(), 0);
}

#[test]
fn without_its_subscription_silence_counts_from_then_on() {
    let (publisher, subscriber) = two_servers();
    let (old, new) = (publisher.database("grid"), subscriber.database("grid"));
    let (mut here, mut there) = (old.connect(), new.connect());
    run(&mut publisher.connect("postgres"), "ALTER SYSTEM SET rgrid_heartbeat.enabled = off");
    publisher.reload();
    for worker in ["silent", "moved", "silent later"] {
        silent_worker(&mut here, worker);
        claim_jobs(&mut here, worker, 1);
    }
    subscribe((&publisher, &mut here), &mut there, "FOR ALL TABLES");
    stays(2 * THRESHOLD, "nobody dies", || jobs(&mut there, "silent", "running") == 1);

    run(&mut there, "ALTER SUBSCRIPTION sub DISABLE");
    let disabled = server_time(&mut there);
    let _beats = Beating::calling(new.connect(), "moved");
    await_death(&mut there, "silent");
    let after =
        "SELECT declared_dead_at - $1 >= interval '2 seconds' FROM rgrid_worker_deaths WHERE worker_id = $2";
    assert!(ask::<bool>(&mut there, after, &[&disabled, &"silent"]), "a whole threshold");
    assert_eq!((deaths(&mut there, "moved"), jobs(&mut there, "moved", "running")), (0, 1));
    assert_eq!(problems(&mut there), [""; 0]);
    assert!(health(&mut there, "subscription").starts_with("ok: "));
}
