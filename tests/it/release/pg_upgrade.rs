//! `pg_upgrade` from the version of `OLD_PG_CONFIG` to that of `PG_CONFIG`. Both have the extension installed.

use crate::cluster::*;

#[test]
fn pg_upgrade_keeps_deaths_and_watched_tables_and_gives_a_whole_threshold() {
    let new = Cluster::quick().start();
    let old = Cluster::quick().start_older_than(&new);
    new.stop("fast");
    run(&mut old.connect("postgres"), "CREATE DATABASE grid");
    let mut client = old.connect("grid");
    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
    executions_table(&mut client);
    run(
        &mut client,
        "CREATE TABLE tasks (worker_id text, status text, execution_error text, completed_at timestamptz);
         SELECT rgrid_watch_jobs('tasks')",
    );
    await_sweep(&mut client, "gone");
    for worker in ["healthy", "silent"] {
        beat(&mut client, worker);
        claim_jobs(&mut client, worker, 2);
    }
    run(&mut client, "INSERT INTO tasks VALUES ('silent', 'running')");
    run(&mut client, "ALTER SYSTEM SET rgrid_heartbeat.enabled = off");
    old.restart("fast");
    let mut client = old.connect("grid");
    ["healthy", "silent"].iter().for_each(|worker| age_row(&mut client, worker));
    let tables = ["rgrid_worker_deaths", "rgrid_job_tables", "executions", "tasks", "worker_heartbeats"];
    let before = tables.map(|table| rows(&mut client, table));
    forget_newer_options(&old);
    old.stop("fast");

    let log = old.upgrade_into(&new);
    assert!(log.contains("database system is ready"), "it should have started servers: {log}");
    assert!(!log.contains("rgrid_heartbeat launcher"), "nothing of ours may run meanwhile: {log}");

    new.start();
    let mut client = new.connect("grid");
    assert_eq!(tables.map(|table| rows(&mut client, table)), before);
    let _beats = Beating::calling(new.connect("grid"), "healthy");
    await_death(&mut client, "silent");
    let sql = "SELECT declared_dead_at >= pg_postmaster_start_time() + interval '2 seconds'
               FROM rgrid_worker_deaths WHERE worker_id = 'silent'";
    assert!(ask::<bool>(&mut client, sql, &[]), "silence counts from the start of the new server");
    assert_eq!((failed_jobs(&mut client, "silent"), jobs(&mut client, "healthy", "running")), (2, 2));
    assert_eq!(ask::<String>(&mut client, "SELECT status FROM tasks", &[]), "failed");
    assert_eq!((deaths(&mut client, "healthy"), beat(&mut client, "healthy")), (0, 1));
    let number = beat(&mut client, "gone");
    assert!(number > NEW_BASE, "the new server is another one: {number}");
}

/// A minor release of the old version may be younger than that of the new one, and may mark columns with options
/// that the new one does not know. Upgraded servers are of one age; those of a test are what there is.
fn forget_newer_options(old: &Cluster) {
    for database in ["grid", "postgres", "template1"] {
        let sql = "UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text LIKE '{pg\\_%'";
        run(&mut old.connect(database), sql);
    }
}
