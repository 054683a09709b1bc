//! Logical replication with the extension on both sides, as in a major upgrade: the publisher judges, until the
//! subscription is gone.

use crate::cluster::*;
use chrono::{DateTime, Utc};
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
    assert_eq!(subscriber.log_lines_with(&["no worker is declared dead here"]).len(), 1, "said once");
    assert_eq!(publisher.log_lines_with(&["no worker is declared dead here"]).len(), 0);
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
    for call in ["rgrid_sweep()", "rgrid_sweep(force => true)", "rgrid_sweep(dry_run => true)"] {
        assert_eq!(ask::<i64>(&mut there, &format!("SELECT count(*) FROM {call}"), &[]), 0, "{call}");
    }
    let found = health(&mut there, "subscription");
    assert!(found.starts_with("warning: No worker is declared dead here: subscription \"sub\""), "{found}");
    assert!(found.contains("ALTER SUBSCRIPTION \"sub\" DISABLE"), "{found}");

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

#[test]
fn a_subscription_whose_owner_may_not_write_to_the_tables_stops_no_death() {
    let (publisher, subscriber) = two_servers();
    let (old, new) = (publisher.database("grid"), subscriber.database("grid"));
    let (mut here, mut there) = (old.connect(), new.connect());
    subscribe((&publisher, &mut here), &mut there, "FOR ALL TABLES");
    // Since 16 a role can be granted the right to make one. Before, it needs to have been a superuser.
    run(
        &mut there,
        "CREATE ROLE meddler SUPERUSER; ALTER SUBSCRIPTION sub OWNER TO meddler; ALTER ROLE meddler NOSUPERUSER",
    );
    assert!(health(&mut there, "subscription").starts_with("ok: "));
    silent_worker(&mut there, "silent");
    await_death(&mut there, "silent");
    run(&mut there, "GRANT INSERT ON worker_heartbeats TO meddler");
    assert!(health(&mut there, "subscription").starts_with("warning: "));
}

/// A table of jobs beside RGrid's, watched as requeue.
const TASKS: &str =
    "CREATE TABLE IF NOT EXISTS tasks (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        worker_id text, status text, execution_error text, completed_at timestamptz,
        retry_count integer NOT NULL DEFAULT 0, max_retries integer NOT NULL DEFAULT 3);
    SELECT rgrid_watch_jobs('tasks', on_death => 'requeue')";

fn claim_task(client: &mut Client, worker: &str) {
    run(client, &format!("INSERT INTO tasks (worker_id, status) VALUES ('{worker}', 'running')"));
}

/// What `tasks` says of a worker's jobs.
fn tasks(client: &mut Client) -> String {
    ask(client, "SELECT coalesce(string_agg(status, ' ' ORDER BY id), '') FROM tasks", &[])
}

#[test]
fn rows_of_the_extension_that_are_on_both_sides_stop_no_subscription() {
    let (publisher, subscriber) = two_servers();
    let (old, new) = (publisher.database("grid"), subscriber.database("grid"));
    let (mut here, mut there) = (old.connect(), new.connect());
    for client in [&mut here, &mut there] {
        run(client, TASKS);
        silent_worker(client, "died on both");
        claim_task(client, "died on both");
        await_death(client, "died on both");
        beat(client, "known to both");
    }
    run(&mut there, "TRUNCATE tasks; INSERT INTO rgrid_incarnations VALUES ('', 7), ('known to both', 3)");
    run(&mut here, "INSERT INTO rgrid_incarnations VALUES ('', 5)");
    subscribe((&publisher, &mut here), &mut there, "FOR ALL TABLES");
    let _beats = Beating::calling(old.connect(), "known to both");

    // Calls that reach the wrong server: their rows are in the way of the publisher's.
    for client in [&mut there, &mut here] {
        run(client, "SELECT rgrid_register('early'), rgrid_register('known to both')");
        run(client, "INSERT INTO rgrid_incarnations VALUES ('numbered', 9)");
        beat(client, "died on both");
    }
    run(&mut here, "CREATE TABLE here_alone (LIKE tasks INCLUDING ALL)");
    silent_worker(&mut here, "early 2");
    run(&mut here, "INSERT INTO rgrid_tried_tables VALUES ('here_alone'::regclass, now())");
    claim_task(&mut here, "early 2");
    await_death(&mut here, "early 2");
    queue_jobs(&mut here, "later", 1);
    await_apply(&mut here);
    let own = ["rgrid_worker_deaths", "rgrid_incarnations", "rgrid_worker_owners", "rgrid_job_tables"];
    for table in ["executions", "tasks"].into_iter().chain(own) {
        let copied = rows(&mut there, table);
        for row in rows(&mut here, table) {
            assert!(copied.contains(&row), "{row} is not among {copied:?}");
        }
    }
    let tables = "SELECT count(*) FROM rgrid_tried_tables t WHERE t.job_table::regclass::text = 'tasks'";
    assert_eq!(ask::<i64>(&mut there, tables, &[]), 1, "its own");
    assert_eq!(rows(&mut there, "rgrid_tried_tables").len(), 1, "and no other server's");
    assert!(subscriber.log_lines_with(&["logical replication", "ERROR"]).is_empty());
    assert_eq!(health(&mut there, "own objects").split(':').next(), Some("ok"));
}

/// A server with the extension that watches `tasks`, and one without it that publishes that table.
fn tasks_of_another(publisher: &Cluster, there: &mut Client) -> Client {
    run(there, TASKS);
    let mut here = publisher.connect("postgres");
    run(&mut here, TASKS.split("SELECT").next().unwrap());
    subscribe((publisher, &mut here), there, "FOR TABLE tasks");
    here
}

#[test]
fn a_replicated_table_of_jobs_is_left_out_alone() {
    let (publisher, subscriber) = two_servers();
    let new = subscriber.database("grid");
    let mut there = new.connect();
    let mut here = tasks_of_another(&publisher, &mut there);
    claim_task(&mut here, "gone");
    claim_task(&mut here, "back");
    await_apply(&mut here);
    claim_jobs(&mut there, "gone", 1);
    silent_worker(&mut there, "gone");
    await_death(&mut there, "gone");
    assert_eq!((failed_jobs(&mut there, "gone"), tasks(&mut there).as_str()), (1, "running running"));

    // Neither a worker that starts again nor one that leaves has these jobs settled before the cut-over.
    run(&mut there, "SELECT rgrid_register('back'), rgrid_register('idle'), rgrid_deregister('idle')");
    let noted = "SELECT string_agg(worker_id || ' ' || job_keys::text, ' ') FROM rgrid_unsettled_jobs";
    assert_eq!(ask::<String>(&mut there, noted, &[]), "back {2}");
    let dry = "SELECT count(*) FROM rgrid_sweep(dry_run => true)";
    assert_eq!(ask::<i64>(&mut there, dry, &[]), 0);
    await_sweep(&mut there, "witness");
    assert_eq!(tasks(&mut there), "running running");
    assert_eq!(problems(&mut there), ["job table 55000"]);
    assert_eq!(
        subscriber.log_lines_with(&["sweeper", "could not settle jobs in table public.tasks"]).len(),
        1
    );
    assert!(health(&mut there, "subscription").starts_with("ok: "));
    let found = health(&mut there, "job table public.tasks");
    assert!(found.starts_with("warning: Its jobs are not settled here: subscription \"sub\""), "{found}");

    run(&mut there, "DROP SUBSCRIPTION sub");
    wait_until("the jobs to be settled", || tasks(&mut there) == "queued queued");
    wait_until("the problem to be over", || problems(&mut there).is_empty());
}

#[test]
fn partitions_and_parents_of_replicated_tables_are_left_out() {
    let (publisher, subscriber) = two_servers();
    let new = subscriber.database("grid");
    let (mut here, mut there) = (publisher.connect("postgres"), new.connect());
    let mut watched = vec!["by_leaf", "by_root_1"];
    for client in [&mut here, &mut there] {
        for table in ["by_leaf", "by_root"] {
            let columns = "id bigint PRIMARY KEY, worker_id text, status text, execution_error text, completed_at timestamptz";
            run(
                client,
                &format!(
                    "CREATE TABLE {table} ({columns}) PARTITION BY RANGE (id);
                     CREATE TABLE {table}_1 PARTITION OF {table} FOR VALUES FROM (0) TO (10)"
                ),
            );
        }
    }
    let run_by_gone = |client: &mut Client, table: &str| {
        run(client, &format!("INSERT INTO {table} VALUES (1, 'gone', 'running')"));
    };
    run(&mut here, "CREATE PUBLICATION rooted FOR TABLE by_root WITH (publish_via_partition_root)");
    subscribe((&publisher, &mut here), &mut there, "FOR TABLE by_leaf");
    run(&mut there, "ALTER SUBSCRIPTION sub ADD PUBLICATION rooted");
    await_copies(&mut there);
    for table in &watched {
        run(&mut there, &format!("SELECT rgrid_watch_jobs('{table}')"));
    }
    watched.iter().for_each(|table| run_by_gone(&mut here, table.trim_end_matches("_1")));
    await_apply(&mut here);
    silent_worker(&mut there, "gone");
    await_death(&mut there, "gone");
    watched.push("by_root");
    for table in watched {
        assert_eq!(
            ask::<String>(&mut there, &format!("SELECT status FROM {table}"), &[]),
            "running",
            "{table}"
        );
    }
    assert_eq!(problems(&mut there), ["job table 55000", "job table 55000"]);
}

/// The scripts of the document, in their order.
fn scripts() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/logical-replication.md");
    let text = std::fs::read_to_string(path).expect("the document is there");
    let blocks = text.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_upgrade_of_the_documents_loses_no_worker_and_no_job() {
    let (publisher, subscriber) = two_servers();
    let (old, new) = (publisher.database("grid"), subscriber.empty_database("grid"));
    let mut here = old.connect();
    run(&mut here, TASKS);
    silent_worker(&mut here, "died before");
    await_death(&mut here, "died before");
    run(&mut here, "SELECT rgrid_register('restarted'), rgrid_register('restarted')");
    claim_jobs(&mut here, "moving", 2);
    claim_task(&mut here, "restarted");
    let beats = ["moving", "restarted", "stays away"].map(|worker| Beating::calling(old.connect(), worker));
    let environment =
        format!("OLD='{}'\nNEW='{}'\n", publisher.conninfo("grid"), subscriber.conninfo("grid"));
    let step = |script: &str| publisher.run_script(&format!("{environment}{script}"));
    let [schema, publish, subscribe, pause, cut_over] = scripts().try_into().expect("five scripts");

    step(&schema);
    assert_eq!(step(&publish), "CREATE PUBLICATION", "every table can be updated");
    step(&subscribe);
    let mut there = new.connect();
    assert!(health(&mut there, "subscription").starts_with("warning: "));
    stays(THRESHOLD, "nobody dies", || deaths(&mut there, "moving") == 0);
    step(&pause);
    wait_until("sweeping to pause", || !publisher.log_lines_with(&["sweeping is disabled"]).is_empty());
    drop(beats);
    step(&cut_over);
    let cut = server_time(&mut there);
    publisher.stop("fast");

    let _beats = ["moving", "restarted"].map(|worker| Beating::calling(new.connect(), worker));
    assert_eq!((beat(&mut there, "moving"), beat(&mut there, "restarted")), (1, 2), "their numbers");
    claim_jobs(&mut there, "moving", 1);
    await_death(&mut there, "stays away");
    let after = "SELECT declared_dead_at - $1 >= interval '1.5 seconds' FROM rgrid_worker_deaths
                 WHERE worker_id = 'stays away'";
    assert!(ask::<bool>(&mut there, after, &[&cut]), "silence counts from the cut-over");
    assert_eq!((jobs(&mut there, "moving", "running"), tasks(&mut there).as_str()), (3, "running"));
    assert_eq!(ledger(&mut there, "died before"), ["1 stale 0 gone"]);
    let bad = "SELECT coalesce(string_agg(check_name || ': ' || detail, ' '), '') FROM rgrid_health()
               WHERE status = 'error'";
    assert_eq!(ask::<String>(&mut there, bad, &[]), "");
}

fn is_observed_since(client: &mut Client, moment: DateTime<Utc>) -> bool {
    let sql = "SELECT observing_since >= $1 FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    ask(client, sql, &[&moment])
}

#[test]
fn the_launcher_notices_a_cut_over_between_two_sweeps() {
    let publisher = Cluster::publishing().start();
    let subscriber = Cluster::quick()
        .setting("rgrid_heartbeat.check_interval", "1h")
        .setting("rgrid_heartbeat.flush_interval", "1h")
        .start();
    let (old, new) = (publisher.database("grid"), subscriber.database("grid"));
    let (mut here, mut there) = (old.connect(), new.connect());
    let beats = Beating::calling(old.connect(), "twice");
    subscribe((&publisher, &mut here), &mut there, "FOR ALL TABLES");
    wait_until("a sweeper to notice", || problems(&mut there) == ["subscription 55000"]);
    known_worker(&mut there, "twice");
    drop(beats);
    await_death(&mut here, "twice");
    await_apply(&mut here);

    let before = server_time(&mut there);
    run(&mut there, "ALTER SUBSCRIPTION sub DISABLE");
    wait_until("silence to count anew", || is_observed_since(&mut there, before));
    wait_until("the problem to be over", || problems(&mut there).is_empty());
    assert_eq!(beat(&mut there, "twice"), 2, "it learns of the death that the publisher has declared");
}

#[test]
fn a_subscription_that_is_being_dropped_stops_nobody_elsewhere() {
    let (publisher, subscriber) = two_servers();
    let (old, new) = (publisher.database("grid"), subscriber.database("grid"));
    let other = subscriber.database("other");
    let (mut here, mut there) = (old.connect(), new.connect());
    run(&mut publisher.connect("postgres"), "ALTER SYSTEM SET rgrid_heartbeat.enabled = off");
    publisher.reload();
    silent_worker(&mut here, "silent");
    subscribe((&publisher, &mut here), &mut there, "FOR ALL TABLES");
    wait_until("a sweeper to notice", || problems(&mut there) == ["subscription 55000"]);

    // As while it waits for a publisher that does not answer: the catalog is locked until the end.
    let mut dropping = new.connect();
    run(&mut there, "ALTER SUBSCRIPTION sub DISABLE; ALTER SUBSCRIPTION sub ENABLE");
    run(
        &mut dropping,
        "BEGIN; ALTER SUBSCRIPTION sub DISABLE; ALTER SUBSCRIPTION sub SET (slot_name = NONE); DROP SUBSCRIPTION sub",
    );
    let mut elsewhere = other.connect();
    run(&mut elsewhere, "SELECT rgrid_register('restarted')");
    claim_jobs(&mut elsewhere, "restarted", 1);
    run(&mut elsewhere, "SELECT rgrid_register('restarted')");
    assert_eq!(failed_jobs(&mut elsewhere, "restarted"), 1);
    silent_worker(&mut elsewhere, "silent");
    await_death(&mut elsewhere, "silent");
    stays(2 * THRESHOLD, "here nobody dies", || deaths(&mut there, "silent") == 0);
    run(&mut dropping, "COMMIT");
    await_death(&mut there, "silent");
}
