//! Watched tables of every kind, and what can happen to them while they are watched.

use crate::cluster::*;
use postgres::Client;

fn server() -> Shared {
    Shared::of(|| Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1s"))
}

/// The columns that a table of jobs has in these tests, all of them RGrid's.
const COLUMNS: &str =
    "id int, status text NOT NULL, worker_id text, execution_error text, completed_at timestamp,
                       retry_count int NOT NULL DEFAULT 0, max_retries int NOT NULL DEFAULT 3";

fn start_job(client: &mut Client, table: &str, id: i32, worker: &str) {
    run(client, &format!("INSERT INTO {table} (id, status, worker_id) VALUES ({id}, 'running', '{worker}')"));
}

fn status(client: &mut Client, table: &str, id: i32) -> String {
    ask(client, &format!("SELECT status FROM {table} WHERE id = $1"), &[&id])
}

/// Lets a worker die that runs a job of each of these tables, and a witness in `executions`; returns when they are
/// settled, or were tried.
fn die_running(client: &mut Client, worker: &str, tables: &[&str]) {
    for (id, table) in (1..).zip(tables) {
        start_job(client, table, id, worker);
    }
    claim_jobs(client, worker, 1);
    silent_worker(client, worker);
    await_death(client, worker);
    assert_eq!(failed_jobs(client, worker), 1, "executions is settled whatever becomes of the others");
}

#[test]
fn tables_of_every_kind_are_settled_in_one_sweep() {
    let cluster = server();
    let database = cluster.database("kinds");
    let mut client = database.connect();
    run(
        &mut client,
        &format!(
            "CREATE TABLE plain ({COLUMNS});
             CREATE UNLOGGED TABLE unlogged ({COLUMNS});
             CREATE TABLE deep ({COLUMNS}) PARTITION BY RANGE (id);
             CREATE TABLE deep_1 PARTITION OF deep FOR VALUES FROM (0) TO (100) PARTITION BY LIST (status);
             CREATE TABLE deep_1_running PARTITION OF deep_1 FOR VALUES IN ('running');
             CREATE TABLE deep_1_other PARTITION OF deep_1 DEFAULT;
             CREATE TABLE parent ({COLUMNS});
             CREATE TABLE child (more text) INHERITS (parent);
             CREATE TABLE generated ({COLUMNS}, is_over boolean GENERATED ALWAYS AS (status <> 'running') STORED);
             CREATE TABLE keyed ({COLUMNS}, PRIMARY KEY (id));
             CREATE TABLE referring (job int REFERENCES keyed, {COLUMNS}, FOREIGN KEY (id) REFERENCES keyed);
             CREATE SCHEMA \"Weird \"\"Name\"; CREATE TABLE \"Weird \"\"Name\".\"Weird \"\"Name\" ({COLUMNS});
             CREATE TABLE public.notes (note text);
             CREATE TABLE triggered ({COLUMNS});
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN INSERT INTO public.notes VALUES (OLD.status || ' to ' || NEW.status); RETURN NEW; END$$;
             CREATE TRIGGER before BEFORE UPDATE ON triggered FOR EACH ROW EXECUTE FUNCTION note();
             CREATE TRIGGER after AFTER UPDATE ON triggered FOR EACH ROW EXECUTE FUNCTION note()"
        ),
    );
    let weird = r#""Weird ""Name"."Weird ""Name""#;
    let tables =
        ["plain", "unlogged", "deep", "parent", "generated", "keyed", "referring", weird, "triggered"];
    for table in tables {
        run(&mut client, &format!("SELECT rgrid_watch_jobs('{table}')"));
    }
    start_job(&mut client, "child", 77, "victim");
    start_job(&mut client, "keyed", 7, "somebody else");
    die_running(&mut client, "victim", &["plain", "unlogged", "deep", "parent", "generated", "keyed"]);
    assert_eq!(status(&mut client, "keyed", 7), "running");
    start_job(&mut client, "referring", 7, "victim");
    start_job(&mut client, weird, 8, "victim");
    start_job(&mut client, "triggered", 9, "victim");
    for (table, id) in [("child", 77), ("referring", 7), (weird, 8), ("triggered", 9)] {
        wait_until(&format!("the job in {table}"), || status(&mut client, table, id) == "failed");
    }
    for (id, table) in (1..).zip(&tables[..6]) {
        assert_eq!(status(&mut client, table, id), "failed", "{table}");
    }
    assert!(ask::<bool>(&mut client, "SELECT is_over FROM generated", &[]));
    assert_eq!(
        ask::<i64>(&mut client, "SELECT count(*) FROM notes WHERE note = 'running to failed'", &[]),
        2
    );
    assert_eq!(cluster.log_lines_with(&["kinds", "WARNING"]).len(), 0);
}

#[test]
fn an_altered_table_is_reported_once_and_settled_when_it_is_fixed() {
    let cluster = server();
    let database = cluster.database("altered");
    let mut client = database.connect();
    run(&mut client, &format!("CREATE TABLE altered ({COLUMNS}); SELECT rgrid_watch_jobs('altered')"));
    run(&mut client, "ALTER TABLE altered RENAME completed_at TO finished_at");
    die_running(&mut client, "victim", &["altered"]);
    assert_eq!(status(&mut client, "altered", 1), "running");
    let complaint = "column \"completed_at\" of relation \"public.altered\" does not exist";
    wait_until("a line in the log", || !cluster.log_lines_with(&[complaint]).is_empty());
    await_sweep(&mut client, "witness");
    await_sweep(&mut client, "second");
    assert_eq!(cluster.log_lines_with(&[complaint]).len(), 1, "a problem that stays is logged once");
    run(&mut client, "ALTER TABLE altered ADD completed_at date; ALTER TABLE altered RENAME TO renamed");
    wait_until("the table to be settled", || status(&mut client, "renamed", 1) == "failed");
    let jobs: i64 =
        ask(&mut client, "SELECT jobs_failed FROM rgrid_worker_deaths WHERE worker_id = 'victim'", &[]);
    assert_eq!(jobs, 2, "the ledger counts what was settled later, too");
}

#[test]
fn a_locked_job_is_requeued_by_a_later_sweep() {
    let cluster = server();
    let database = cluster.database("requeued");
    let mut client = database.connect();
    run(
        &mut client,
        &format!(
            "CREATE TABLE again ({COLUMNS}) PARTITION BY LIST (id);
             CREATE TABLE again_1 PARTITION OF again FOR VALUES IN (1);
             CREATE TABLE again_2 PARTITION OF again DEFAULT;
             SELECT rgrid_watch_jobs('again', on_death => 'requeue')"
        ),
    );
    start_job(&mut client, "again", 2, "victim");
    let mut blocker = database.connect();
    start_job(&mut client, "again", 1, "victim");
    run(&mut blocker, "BEGIN; SELECT FROM again WHERE id = 1 FOR UPDATE");
    die_running(&mut client, "victim", &[]);
    assert_eq!(status(&mut client, "again", 2), "queued");
    assert_eq!(status(&mut client, "again", 1), "running");
    run(&mut blocker, "COMMIT");
    wait_until("the job that was locked", || status(&mut client, "again", 1) == "queued");
    let sql = "SELECT jobs_requeued FROM rgrid_worker_deaths WHERE worker_id = 'victim'";
    assert_eq!(ask::<i64>(&mut client, sql, &[]), 2);
    let line = "jobs that dead worker \"victim\" still ran were settled: jobs failed: 0, requeued: 1";
    assert_eq!(cluster.log_lines_with(&[line]).len(), 1);
}

#[test]
fn a_job_that_kills_its_workers_is_tried_as_often_as_it_may_and_then_fails() {
    let cluster = server();
    let database = cluster.database("poison");
    let mut client = database.connect();
    run(
        &mut client,
        &format!("CREATE TABLE poisoned ({COLUMNS}); INSERT INTO poisoned VALUES (1, 'queued')"),
    );
    run(&mut client, "SELECT rgrid_watch_jobs('poisoned', on_death => 'requeue')");
    for (attempt, after) in [(1, "queued"), (2, "queued"), (3, "queued"), (4, "failed")] {
        let worker = format!("worker-{attempt}");
        let claim =
            "UPDATE poisoned SET status = 'running', worker_id = $1 WHERE id = 1 AND status = 'queued'";
        assert_eq!(client.execute(claim, &[&worker]).unwrap(), 1, "attempt {attempt}");
        silent_worker(&mut client, &worker);
        await_death(&mut client, &worker);
        assert_eq!(status(&mut client, "poisoned", 1), after, "after attempt {attempt}");
    }
    let error: String = ask(&mut client, "SELECT execution_error FROM poisoned", &[]);
    assert_eq!(error, "Worker died unexpectedly (attempts used: 3 of 3)");
}

#[test]
fn listeners_are_told_the_keys_of_the_jobs_where_the_watch_says_so() {
    let cluster = server();
    let database = cluster.database("keys");
    let mut client = database.connect();
    run(
        &mut client,
        &format!(
            "CREATE TABLE secret ({COLUMNS}, PRIMARY KEY (id)); SELECT rgrid_watch_jobs('secret');
             CREATE TABLE told ({COLUMNS}, PRIMARY KEY (id)); SELECT rgrid_watch_jobs('told', notify_keys => true);
             SELECT rgrid_unwatch_jobs('executions'); LISTEN rgrid_worker_deaths"
        ),
    );
    run(&mut client, "INSERT INTO told SELECT i, 'running', 'victim' FROM generate_series(1, 3000) i");
    run(&mut client, "INSERT INTO secret VALUES (42, 'running', 'victim')");
    silent_worker(&mut client, "victim");
    let mut notifications = client.notifications();
    let notice =
        postgres::fallible_iterator::FallibleIterator::next(&mut notifications.timeout_iter(HOUR)).unwrap();
    let notice: serde_json::Value = serde_json::from_str(notice.unwrap().payload()).unwrap();
    let jobs =
        |table: &str| notice["jobs"].as_array().unwrap().iter().find(|jobs| jobs["table"] == table).unwrap();
    let (secret, told) = (jobs("public.secret"), jobs("public.told"));
    assert_eq!((&secret["failed"], &secret["keys"]), (&1.into(), &serde_json::json!([])));
    assert_eq!(told["failed"], 3000);
    let keys = told["keys"].as_array().unwrap();
    assert!(keys.len() > 500 && keys.contains(&"1".into()), "{} keys fit", keys.len());
    assert_eq!(notice["truncated"], true);
}

#[test]
fn a_table_that_changed_hands_is_settled_as_its_current_owner() {
    let cluster = server();
    let database = cluster.database("hands");
    let mut client = database.connect();
    run(
        &mut client,
        &format!(
            "CREATE ROLE hands_seller LOGIN; CREATE ROLE hands_buyer LOGIN;
             GRANT CREATE ON SCHEMA public TO hands_seller, hands_buyer;
             GRANT EXECUTE ON FUNCTION rgrid_watch_jobs, rgrid_unwatch_jobs TO hands_seller;
             SET ROLE hands_seller;
             CREATE TABLE traded ({COLUMNS}, by name);
             CREATE FUNCTION sign() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN NEW.by := current_user; RETURN NEW; END$$;
             CREATE TRIGGER sign BEFORE UPDATE ON traded FOR EACH ROW EXECUTE FUNCTION sign();
             RESET ROLE; SELECT rgrid_watch_jobs('traded');
             ALTER TABLE traded OWNER TO hands_buyer"
        ),
    );
    die_running(&mut client, "victim", &["traded"]);
    assert_eq!(ask::<String>(&mut client, "SELECT by::text FROM traded", &[]), "hands_buyer");
    let mut seller = database.connect_as("hands_seller");
    assert_eq!(sqlstate(&mut seller, "SELECT rgrid_unwatch_jobs('traded')"), "42501");
    drop(seller);
    run(&mut client, "DROP OWNED BY hands_seller CASCADE; DROP ROLE hands_seller");
    start_job(&mut client, "traded", 2, "victim");
    wait_until("a table whose first owner is gone", || status(&mut client, "traded", 2) == "failed");
    run(&mut client, "DROP OWNED BY hands_buyer CASCADE; DROP ROLE hands_buyer");
}
