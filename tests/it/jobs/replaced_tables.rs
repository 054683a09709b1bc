//! A watch follows the table that its owner means: the one that has the name now, or the one that was renamed.

use crate::cluster::*;
use postgres::Client;

fn server() -> Shared {
    Shared::of(|| Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1s"))
}

const COLUMNS: &str = "id int, status text, worker_id text, execution_error text, completed_at timestamptz, \
                       retry_count int, max_retries int";

fn table(client: &mut Client, name: &str) {
    run(client, &format!("CREATE TABLE {name} ({COLUMNS})"));
}

/// What every online schema change does: a new table takes the name of the old one in one transaction.
fn replace(client: &mut Client, name: &str) {
    let old = format!("{name}_old");
    run(
        client,
        &format!(
            "BEGIN; CREATE TABLE {name}_new (LIKE {name} INCLUDING ALL);
             ALTER TABLE {name} RENAME TO {old}; ALTER TABLE {name}_new RENAME TO {name}; COMMIT"
        ),
    );
}

fn job(client: &mut Client, table: &str, id: i32, worker: &str) {
    run(client, &format!("INSERT INTO {table} (id, status, worker_id) VALUES ({id}, 'running', '{worker}')"));
}

fn status(client: &mut Client, table: &str, id: i32) -> String {
    ask(client, &format!("SELECT status FROM {table} WHERE id = {id}"), &[])
}

/// The names of the entries, in their order.
fn entries(client: &mut Client) -> String {
    let sql = "SELECT coalesce(string_agg(job_table, ' ' ORDER BY job_table), '') FROM rgrid_job_tables";
    ask(client, sql, &[])
}

fn check(client: &mut Client, name: &str) -> (String, String) {
    let sql = "SELECT status, detail FROM rgrid_health() WHERE check_name = $1";
    let row = client.query_one(sql, &[&name]).unwrap();
    (row.get(0), row.get(1))
}

/// Waits until the table of this name was noted as the one that is meant.
fn await_noted(client: &mut Client, table: &str) {
    let sql =
        format!("SELECT count(*) = 1 FROM rgrid_job_table_oids WHERE relation = '{table}'::regclass::oid");
    wait_until("a sweeper to note the table", || ask(client, &sql, &[]));
}

#[test]
fn a_table_that_takes_the_place_of_a_watched_one_is_settled_as_that_one_was() {
    let cluster = server();
    let database = cluster.database("swapped");
    let mut client = database.connect();
    run(&mut client, "DROP TABLE executions CASCADE");
    ["executions", "duties", "parts"].iter().for_each(|name| table(&mut client, name));
    run(
        &mut client,
        "SELECT rgrid_watch_jobs('executions', on_death => 'requeue'), rgrid_watch_jobs('duties'),
                rgrid_watch_jobs('parts'), rgrid_fence('duties'), rgrid_fence('parts')",
    );
    ["executions", "duties"].iter().for_each(|name| replace(&mut client, name));
    // A table that is partitioned afterwards becomes a partition of the one of its name.
    run(
        &mut client,
        "BEGIN; ALTER TABLE parts RENAME TO parts_0; CREATE TABLE parts (LIKE parts_0) PARTITION BY RANGE (id);
         ALTER TABLE parts ATTACH PARTITION parts_0 FOR VALUES FROM (0) TO (10); COMMIT;
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (10) TO (20)",
    );
    ["executions", "duties", "parts"].iter().for_each(|name| await_noted(&mut client, name));
    for (table, id) in [("executions", 1), ("duties", 2), ("parts", 3), ("parts", 13)] {
        job(&mut client, table, id, "w");
    }
    silent_worker(&mut client, "w");
    await_death(&mut client, "w");
    for (table, id, after) in [
        ("executions", 1, "queued"),
        ("duties", 2, "failed"),
        ("parts", 3, "failed"),
        ("parts", 13, "failed"),
    ] {
        assert_eq!(status(&mut client, table, id), after, "{table} {id}");
    }
    for late in ["duties", "parts_0", "parts_1"] {
        let late = format!("UPDATE {late} SET status = 'done'");
        assert_eq!(sqlstate(&mut client, &late), "55000", "the fence has gone along: {late}");
    }
    assert_eq!(entries(&mut client), "public.duties public.executions public.parts");
    let said =
        "table public.duties is another one now, and is watched as the one before, and so is its fence";
    assert_eq!(cluster.log_lines_with(&[said]).len(), 1);
    await_sweep(&mut client, "witness");
    assert_eq!(cluster.log_lines_with(&["table public.parts is another one now"]).len(), 1, "each once");
    assert_eq!(check(&mut client, "job tables").0, "ok");
}

#[test]
fn the_fence_of_the_table_that_is_watched_without_an_entry_goes_along() {
    let cluster = server();
    let database = cluster.database("unlisted");
    let mut client = database.connect();
    run(&mut client, "SELECT rgrid_fence('executions')");
    replace(&mut client, "executions");
    let fence = "SELECT count(*) = 1 FROM pg_trigger WHERE tgrelid = 'executions'::regclass AND tgname = 'rgrid_fence'";
    wait_until("the fence", || ask(&mut client, fence, &[]));
    assert_eq!(check(&mut client, "fence public.executions").0, "ok");
}

#[test]
fn a_fence_that_could_not_go_along_is_reported_until_it_is_up_or_given_up() {
    let cluster = server();
    let database = cluster.database("unfenced");
    let mut client = database.connect();
    table(&mut client, "bare");
    run(
        &mut client,
        "CREATE ROLE unfenced; GRANT CREATE ON SCHEMA public TO unfenced; ALTER TABLE bare OWNER TO unfenced;
         SELECT rgrid_watch_jobs('bare'), rgrid_fence('bare');
         REVOKE EXECUTE ON FUNCTION rgrid_fence_violated FROM PUBLIC; SET ROLE unfenced",
    );
    replace(&mut client, "bare");
    run(&mut client, "RESET ROLE");
    await_noted(&mut client, "bare");
    let said = ["public.bare is another one now", "its fence could not be put up: permission denied"];
    assert_eq!(cluster.log_lines_with(&said).len(), 1);
    assert_eq!(check(&mut client, "fence public.bare").0, "warning");
    run(&mut client, "GRANT EXECUTE ON FUNCTION rgrid_fence_violated TO PUBLIC; SELECT rgrid_fence('bare')");
    assert_eq!(check(&mut client, "fence public.bare").0, "ok");
    run(&mut client, "DROP TRIGGER rgrid_fence ON bare");
    assert_eq!(check(&mut client, "fence public.bare").0, "warning");
    assert!(!ask::<bool>(&mut client, "SELECT rgrid_unfence('bare')", &[]));
    assert_eq!(check(&mut client, "fence public.bare").0, "ok");
}

#[test]
fn a_renamed_table_stays_watched_and_its_entry_gets_the_new_name() {
    let cluster = server();
    let database = cluster.database("renamed");
    let mut client = database.connect();
    table(&mut client, "moving");
    run(
        &mut client,
        "INSERT INTO rgrid_job_tables (job_table, on_death) VALUES ('moving', 'requeue'); CREATE SCHEMA \"New one\"",
    );
    await_noted(&mut client, "moving");
    run(
        &mut client,
        "ALTER TABLE moving RENAME TO \"Odd \"\"name.\"; ALTER TABLE \"Odd \"\"name.\" SET SCHEMA \"New one\"",
    );
    let new = r#""New one"."Odd ""name.""#;
    wait_until("the entry to have the new name", || entries(&mut client) == new);
    assert_eq!(cluster.log_lines_with(&["watched table moving is now called"]).len(), 1);
    silent_worker(&mut client, "w");
    job(&mut client, new, 1, "w");
    await_death(&mut client, "w");
    assert_eq!(status(&mut client, new, 1), "queued");
    assert_eq!(check(&mut client, "job tables").0, "ok");
}

#[test]
fn a_session_settles_the_new_table_before_any_sweep() {
    let cluster = Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h").start();
    let database = cluster.database("at_once");
    let mut client = database.connect();
    table(&mut client, "tasks");
    run(&mut client, "SELECT rgrid_watch_jobs('tasks', on_death => 'requeue'), rgrid_register('w')");
    replace(&mut client, "tasks");
    job(&mut client, "tasks", 1, "w");
    job(&mut client, "tasks_old", 1, "w");
    run(&mut client, "SELECT rgrid_register('w')");
    assert_eq!(status(&mut client, "tasks", 1), "queued");
    assert_eq!(status(&mut client, "tasks_old", 1), "running", "it is not the one that is meant any more");
    assert!(ask::<bool>(&mut client, "SELECT rgrid_unwatch_jobs('tasks')", &[]));
    assert_eq!(entries(&mut client), "");
    let left = "SELECT count(*) FROM rgrid_job_table_oids WHERE job_table = 'public.tasks'";
    assert_eq!(ask::<i64>(&mut client, left, &[]), 0);
}

#[test]
fn a_new_table_without_the_columns_is_an_error_and_the_old_one_stays_watched() {
    let cluster = server();
    let database = cluster.database("unfit");
    let mut client = database.connect();
    table(&mut client, "misfits");
    run(
        &mut client,
        "SELECT rgrid_watch_jobs('misfits');
         BEGIN; ALTER TABLE misfits RENAME TO misfits_old; CREATE TABLE misfits (id int, state text, worker_id text); COMMIT",
    );
    let (status_of, detail) = check(&mut client, "job tables");
    assert_eq!(status_of, "error");
    assert!(
        detail.contains("public.misfits: column \"status\" of relation \"public.misfits\" does not exist"),
        "{detail}"
    );
    silent_worker(&mut client, "w");
    job(&mut client, "misfits_old", 1, "w");
    await_death(&mut client, "w");
    assert_eq!(status(&mut client, "misfits_old", 1), "failed");
    let message = "could not settle jobs in table public.misfits: column \"status\"";
    assert_eq!(cluster.log_lines_with(&[message]).len(), 1);
    run(
        &mut client,
        "ALTER TABLE misfits RENAME state TO status; ALTER TABLE misfits ADD execution_error text",
    );
    run(&mut client, "ALTER TABLE misfits ADD completed_at date");
    await_noted(&mut client, "misfits");
    assert_eq!(check(&mut client, "job tables").0, "ok");
}

#[test]
fn a_dropped_table_that_is_created_again_is_watched_again_and_else_forgotten_after_a_day() {
    let cluster = server();
    let database = cluster.database("recreated");
    let mut client = database.connect();
    table(&mut client, "tasks");
    run(&mut client, "SELECT rgrid_watch_jobs('tasks', on_death => 'requeue'); DROP TABLE tasks");
    let missing =
        "SELECT count(*) = 1 FROM rgrid_job_table_oids WHERE missing_since > now() - interval '1 minute'";
    wait_until("a sweeper to miss it", || ask(&mut client, missing, &[]));
    assert_eq!(check(&mut client, "job tables").0, "warning");
    table(&mut client, "tasks");
    silent_worker(&mut client, "w");
    job(&mut client, "tasks", 1, "w");
    await_death(&mut client, "w");
    assert_eq!(status(&mut client, "tasks", 1), "queued");
    await_noted(&mut client, "tasks");
    run(&mut client, "DROP TABLE tasks");
    wait_until("a sweeper to miss it", || ask(&mut client, missing, &[]));
    assert_eq!(entries(&mut client), "public.tasks");
    run(&mut client, "UPDATE rgrid_job_table_oids SET missing_since = missing_since - interval '1 day'");
    wait_until("the entry to go", || entries(&mut client).is_empty());
    assert_eq!(check(&mut client, "job tables").0, "ok");
}

#[test]
fn two_names_of_one_table_settle_it_once() {
    let cluster = server();
    let database = cluster.database("twice");
    let mut client = database.connect();
    table(&mut client, "tasks");
    run(
        &mut client,
        "INSERT INTO rgrid_job_tables (job_table) VALUES ('public.tasks'), ('TASKS'), ('not a name')",
    );
    let (status_of, detail) = check(&mut client, "job tables");
    assert!(status_of == "error" && detail.contains("another entry means the same table"), "{detail}");
    silent_worker(&mut client, "w");
    job(&mut client, "tasks", 1, "w");
    await_death(&mut client, "w");
    let failed = "SELECT jobs_failed FROM rgrid_worker_deaths WHERE worker_id = 'w'";
    assert_eq!(ask::<i64>(&mut client, failed, &[]), 1);
}
