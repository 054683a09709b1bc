//! Checks of the watched tables and of the jobs in them.

use super::*;

#[test]
fn a_database_without_a_table_of_jobs_is_told() {
    let cluster = server();
    let database = cluster.empty_database("jobless");
    let mut client = database.connect();
    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
    let (status, detail, _) = finding(&mut client, "job tables");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("No job table is watched"), "{detail}");
}

#[test]
fn a_watched_table_that_was_dropped_is_told() {
    let cluster = server();
    let database = cluster.database("dropped");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE TABLE tasks (worker_id text, status text, execution_error text, completed_at timestamptz);
         SELECT rgrid_watch_jobs('tasks')",
    );
    assert_eq!(finding(&mut client, "job tables").0, "ok");
    assert_eq!(finding(&mut client, "job table public.tasks").0, "ok");
    run(&mut client, "DROP TABLE tasks");
    let (status, _, hint) = finding(&mut client, "job tables");
    assert_eq!(status, "warning");
    run(&mut client, &hint);
    assert_eq!(finding(&mut client, "job tables").0, "ok");
}

#[test]
fn a_job_table_that_lost_a_column_is_reported_and_is_the_last_error() {
    let cluster = server();
    let database = cluster.database("misshapen");
    let mut client = database.connect();
    run(&mut client, "ALTER TABLE executions RENAME COLUMN completed_at TO ended_at");
    let (status, detail, _) = finding(&mut client, "job table public.executions");
    assert_eq!(status, "error");
    assert!(detail.contains("column \"completed_at\""), "{detail}");
    silent_worker(&mut client, "victim");
    let (detail, _) = await_status(&mut client, "last error", "error");
    assert!(detail.contains("could not settle jobs in table public.executions: column"), "{detail}");
    run(&mut client, "ALTER TABLE executions RENAME COLUMN ended_at TO completed_at");
    await_status(&mut client, "last error", "ok");
    assert_eq!(finding(&mut client, "job table public.executions").0, "ok");
}

#[test]
fn a_table_that_refuses_to_be_settled_is_told_with_its_reason() {
    let cluster = server();
    let database = cluster.database("refusing");
    let mut client = database.connect();
    refuse_to_settle(&mut client);
    claim_jobs(&mut client, "victim", 1);
    silent_worker(&mut client, "victim");
    let (detail, _) = await_status(&mut client, "job table public.executions", "error");
    assert!(detail.contains("sweeps could not settle its jobs: job 1: not today."), "{detail}");
    run(&mut client, "DROP TRIGGER refuse ON executions");
    await_status(&mut client, "job table public.executions", "ok");
}

#[test]
fn a_large_table_without_an_index_on_running_jobs_is_reported() {
    let cluster = server();
    let database = cluster.database("unindexed");
    let mut client = database.connect();
    run(&mut client, "DROP INDEX ix_executions_status");
    assert_eq!(finding(&mut client, "job index public.executions").0, "ok", "it is small");
    queue_jobs(&mut client, "anybody", 50_000);
    let (status, _, hint) = finding(&mut client, "job index public.executions");
    assert_eq!(status, "warning");
    run(&mut client, &hint);
    assert_eq!(finding(&mut client, "job index public.executions").0, "ok", "{hint}");

    for (index, is_enough) in [
        ("(worker_id)", true),
        ("(status)", true),
        ("(worker_id) WHERE status = 'queued'", false),
        ("(created_at)", false),
    ] {
        run(&mut client, "DROP INDEX executions_worker_id_idx");
        run(&mut client, &format!("CREATE INDEX executions_worker_id_idx ON executions {index}"));
        let status = if is_enough { "ok" } else { "warning" };
        assert_eq!(finding(&mut client, "job index public.executions").0, status, "{index}");
    }
}

#[test]
fn a_table_that_is_too_large_to_read_as_a_whole_is_not_read() {
    let cluster = server();
    let database = cluster.database("huge");
    let mut client = database.connect();
    run(&mut client, "DROP INDEX ix_executions_status");
    claim_jobs(&mut client, "unheard-of", 1);
    let check = "jobs of unknown workers public.executions";
    assert_eq!(finding(&mut client, check).0, "warning");
    // As if it had a hundred thousand times as many pages.
    run(&mut client, "SET seq_page_cost = 200000");
    let (status, detail, _) = finding(&mut client, check);
    assert_eq!(status, "ok");
    assert!(detail.starts_with("Not checked"), "{detail}");
    assert!(finding(&mut client, "jobs without worker public.executions").1.starts_with("Not checked"));
}

#[test]
fn running_jobs_that_no_sweep_settles_are_reported() {
    let cluster = server();
    let database = cluster.database("orphans");
    let mut client = database.connect();
    beat(&mut client, "known");
    claim_jobs(&mut client, "known", 2);
    for check in ["jobs without worker public.executions", "jobs of unknown workers public.executions"] {
        assert_eq!(finding(&mut client, check).0, "ok");
    }
    claim_jobs(&mut client, "it's gone", 3);
    run(&mut client, "UPDATE executions SET worker_id = NULL WHERE worker_id = 'known' AND id = 1");
    let (status, detail, _) = finding(&mut client, "jobs without worker public.executions");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("1 running jobs have no worker"), "{detail}");
    let (status, detail, hint) = finding(&mut client, "jobs of unknown workers public.executions");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("3 running jobs belong to 1 workers"), "{detail}");
    run(&mut client, hint.split_once(": ").unwrap().1);
    assert_eq!(finding(&mut client, "jobs of unknown workers public.executions").0, "ok");
    assert_eq!(failed_jobs(&mut client, "it's gone"), 3);
}

#[test]
fn locked_jobs_of_a_dead_worker_are_told_with_the_process_that_locked_them() {
    let cluster = server();
    let database = cluster.database("heldjobs");
    let (mut client, mut other) = (database.connect(), database.connect());
    claim_jobs(&mut client, "victim", 3);
    run(&mut other, "BEGIN; SELECT FROM executions WHERE id < 3 FOR UPDATE");
    silent_worker(&mut client, "victim");
    await_death(&mut client, "victim");
    let (detail, hint) = await_status(&mut client, "locked jobs public.executions", "warning");
    let holder = pid_of_idle(&mut client);
    assert!(detail.ends_with(&format!("locked: 2 by process {holder}.")), "{detail}");
    run(&mut client, hint.split_once(": ").unwrap().1);
    await_status(&mut client, "locked jobs public.executions", "ok");
    wait_until("the jobs to be settled", || failed_jobs(&mut client, "victim") == 3);
}

/// The session of this database that has left a transaction open.
fn pid_of_idle(client: &mut Client) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
               AND state = 'idle in transaction'";
    ask(client, sql, &[])
}

#[test]
fn jobs_locked_by_a_prepared_transaction_are_told() {
    let cluster = server();
    let database = cluster.database("prepared");
    let mut client = database.connect();
    claim_jobs(&mut client, "victim", 1);
    run(&mut client, "BEGIN; SELECT FROM executions FOR UPDATE; PREPARE TRANSACTION 'holder'");
    silent_worker(&mut client, "victim");
    let (detail, hint) = await_status(&mut client, "locked jobs public.executions", "warning");
    assert!(detail.ends_with("1 by a prepared transaction."), "{detail}");
    assert!(hint.contains("ROLLBACK PREPARED"), "{hint}");
    run(&mut client, "ROLLBACK PREPARED 'holder'");
    await_status(&mut client, "locked jobs public.executions", "ok");
}

#[test]
fn a_fence_that_is_disabled_somewhere_is_told() {
    let cluster = server();
    let database = cluster.database("unfenced");
    let mut client = database.connect();
    let check = "fence public.executions";
    assert!(finding(&mut client, check).1.starts_with("There is no fence"));
    run(&mut client, "SELECT rgrid_fence('executions')");
    assert_eq!(finding(&mut client, check).1, "Late results of jobs that were given up are refused.");
    for state in ["DISABLE TRIGGER USER", "ENABLE REPLICA TRIGGER rgrid_fence"] {
        run(&mut client, &format!("ALTER TABLE executions {state}"));
        let (status, detail, hint) = finding(&mut client, check);
        assert_eq!(status, "warning", "{state}");
        assert!(detail.starts_with("The trigger rgrid_fence of public.executions is disabled"), "{detail}");
        run(&mut client, &hint);
        assert_eq!(finding(&mut client, check).0, "ok", "{state}");
    }
    run(
        &mut client,
        "CREATE TABLE parted (LIKE executions) PARTITION BY LIST (status);
         CREATE TABLE part PARTITION OF parted DEFAULT;
         SELECT rgrid_watch_jobs('parted'), rgrid_fence('parted');
         ALTER TABLE part DISABLE TRIGGER rgrid_fence",
    );
    let (status, detail, _) = finding(&mut client, "fence public.parted");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("The trigger rgrid_fence of public.part is disabled"), "{detail}");
}

#[test]
fn locked_tables_are_not_waited_for() {
    let cluster = server();
    let database = cluster.database("shut");
    let (mut client, mut other) = (database.connect(), database.connect());
    run(&mut other, "BEGIN; LOCK TABLE executions, worker_heartbeats, rgrid_worker_deaths");
    run(&mut client, "SET statement_timeout = '10s'");
    let (status, detail, _) = finding(&mut client, "job table public.executions");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("Another session has locked the whole table"), "{detail}");
    let (status, detail, _) = finding(&mut client, "future heartbeats");
    assert_eq!(status, "warning");
    assert!(detail.contains("could not be checked: canceling statement due to lock timeout"), "{detail}");
    run(&mut other, "ROLLBACK");
    await_status(&mut client, "future heartbeats", "ok");
}
