//! A row that cannot take its new values, because an index, a constraint, a key or a trigger refuses it with whichever
//! SQLSTATE, stops nothing but itself.

use crate::cluster::*;
use postgres::Client;

fn server() -> Shared {
    Shared::of(Cluster::quick)
}

/// A table of jobs with a key of its own, watched with this policy.
fn table(client: &mut Client, on_death: &str) {
    let sql = format!(
        "CREATE TABLE tasks (id int PRIMARY KEY, worker_id text, status text NOT NULL, execution_error text,
                             completed_at timestamptz, retry_count int NOT NULL DEFAULT 0, name text);
         SELECT rgrid_watch_jobs('tasks', on_death => '{on_death}', max_attempts_column => NULL)"
    );
    run(client, &sql);
}

/// A running job of each of these workers, numbered from 1.
fn run_tasks(client: &mut Client, workers: &[&str]) {
    for (id, worker) in (1..).zip(workers) {
        let sql =
            "INSERT INTO tasks (id, worker_id, status, name) VALUES ($1, $2, 'running', 'task ' || $1::int)";
        client.execute(sql, &[&id, worker]).expect("a job can be added");
    }
}

fn ids_of(client: &mut Client, status: &str) -> Vec<i32> {
    let sql = "SELECT id FROM tasks WHERE status = $1 ORDER BY id";
    client.query(sql, &[&status]).expect("jobs can be read").iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_job_that_cannot_be_requeued_is_failed_and_the_others_are_requeued() {
    let cluster = server();
    let mut client = cluster.database("not_requeued").connect();
    table(&mut client, "requeue");
    run(&mut client, "CREATE UNIQUE INDEX ON tasks (name) WHERE status = 'queued'");
    run_tasks(&mut client, &["w1", "w1", "w2", "w3"]);
    run(&mut client, "INSERT INTO tasks (id, status, name) VALUES (9, 'queued', 'task 1')");
    ["w1", "w2", "w3"].iter().for_each(|worker| silent_worker(&mut client, worker));
    wait_until("the others to be queued", || ids_of(&mut client, "queued") == [2, 3, 4, 9]);
    wait_until("the one to fail", || ids_of(&mut client, "failed") == [1]);
    let said: String = ask(&mut client, "SELECT execution_error FROM tasks WHERE id = 1", &[]);
    assert!(said.starts_with("Worker died unexpectedly (could not be requeued: duplicate key"), "{said}");
    let counted =
        "SELECT format('%s %s', jobs_failed, jobs_requeued) FROM rgrid_worker_deaths WHERE worker_id = 'w1'";
    assert_eq!(ask::<String>(&mut client, counted, &[]), "1 1");
}

#[test]
fn a_job_that_cannot_be_failed_is_named_and_keeps_no_other_from_it() {
    let cluster = server();
    for (kind, refuse, code, undo) in [
        (
            "constraint",
            "ALTER TABLE tasks ADD CONSTRAINT stays CHECK (status = 'running' OR id <> 2)",
            "23514",
            "ALTER TABLE tasks DROP CONSTRAINT stays",
        ),
        (
            "key",
            "CREATE TABLE allowed (id int, status text, PRIMARY KEY (id, status));
             INSERT INTO allowed VALUES (1, 'running'), (2, 'running'), (3, 'running'), (4, 'running'),
                                        (1, 'failed'), (3, 'failed'), (4, 'failed');
             ALTER TABLE tasks ADD CONSTRAINT stays FOREIGN KEY (id, status) REFERENCES allowed",
            "23503",
            "ALTER TABLE tasks DROP CONSTRAINT stays",
        ),
        (
            "trigger",
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN IF OLD.id = 2 THEN RAISE 'it stays'; END IF; RETURN NEW; END$$;
             CREATE TRIGGER stays BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION refuse()",
            "P0001",
            "DROP TRIGGER stays ON tasks",
        ),
    ] {
        let mut client = cluster.database(&format!("refused_by_{kind}")).connect();
        table(&mut client, "fail");
        run(&mut client, refuse);
        run_tasks(&mut client, &["w1", "w2", "w2", "w3"]);
        ["w1", "w2", "w3"].iter().for_each(|worker| silent_worker(&mut client, worker));
        wait_until("the others to fail", || ids_of(&mut client, "failed") == [1, 3, 4]);
        let problem = "SELECT coalesce(max(message), '') FROM pg_stat_rgrid_problems
                       WHERE datname = current_database() AND relid = 'tasks'::regclass AND sqlstate = $1";
        let mut known = || ask::<String>(&mut client, problem, &[&code]);
        wait_until("the problem", || known().contains(": job 2: "));
        let reason = known();
        run(&mut client, undo);
        wait_until("the last one to fail", || ids_of(&mut client, "running").is_empty());
        wait_until("no problem", || ask::<String>(&mut client, problem, &[&code]).is_empty());
        assert_eq!(cluster.log_lines_with(&[&reason]).len(), 1, "{reason}");
    }
}

/// A trigger that raises the SQLSTATE that is a job's name, or recurses for the job `recurses`.
const RAISES_NAMES: &str = "
    CREATE FUNCTION recurse() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM public.recurse(); END';
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN
            IF OLD.name = 'recurses' THEN PERFORM public.recurse(); END IF;
            IF OLD.name NOT LIKE 'task%' THEN RAISE 'closed' USING ERRCODE = OLD.name; END IF;
            RETURN NEW;
          END$$;
    CREATE TRIGGER refuse BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION refuse()";

/// What it raises.
const RAISED: [&str; 11] =
    ["40001", "40P01", "42501", "45000", "53200", "55000", "55P03", "57014", "P0001", "XX000", "recurses"];

/// A worker for each of them, with a job that it refuses and one that it takes.
fn run_raising_tasks(client: &mut Client) {
    let sql = "INSERT INTO tasks (id, worker_id, status, name)
               SELECT 2 * n + k, name, 'running', CASE k WHEN 0 THEN name ELSE 'task' END
               FROM unnest($1::text[]) WITH ORDINALITY AS raised (name, n), generate_series(0, 1) AS k";
    client.execute(sql, &[&RAISED.to_vec()]).expect("jobs can be added");
}

fn names_of(client: &mut Client, status: &str) -> Vec<String> {
    let sql = "SELECT name FROM tasks WHERE status = $1 ORDER BY name";
    client.query(sql, &[&status]).expect("jobs can be read").iter().map(|row| row.get(0)).collect()
}

#[test]
fn whatever_a_trigger_raises_for_a_job_stops_that_job_alone() {
    let cluster = server();
    let mut client = cluster.database("raises").connect();
    table(&mut client, "fail");
    run(&mut client, RAISES_NAMES);
    run_raising_tasks(&mut client);
    RAISED.iter().for_each(|worker| silent_worker(&mut client, worker));
    wait_until("the others to fail", || names_of(&mut client, "failed") == ["task"; RAISED.len()]);
    assert_eq!(names_of(&mut client, "running"), RAISED);
    run(&mut client, "SELECT rgrid_sweep()");
    run(&mut client, "ALTER TABLE tasks DISABLE TRIGGER refuse");
    // A sweeper may be at them at this moment.
    wait_until("the last ones to fail", || {
        run(&mut client, "SELECT rgrid_sweep()");
        names_of(&mut client, "running").is_empty()
    });
}

#[test]
fn a_job_that_waits_for_another_session_stops_that_job_alone() {
    let cluster = server();
    let database = cluster.database("waits");
    let (mut client, mut other) = (database.connect(), database.connect());
    table(&mut client, "fail");
    run(&mut client, "CREATE UNIQUE INDEX ON tasks (name, status)");
    run_tasks(&mut client, &["w1", "w1", "w2", "w3"]);
    run(&mut other, "BEGIN; INSERT INTO tasks (id, status, name) VALUES (9, 'failed', 'task 1')");
    ["w1", "w2", "w3"].iter().for_each(|worker| silent_worker(&mut client, worker));
    wait_until("the others to fail", || ids_of(&mut client, "failed") == [2, 3, 4]);
    run(&mut other, "ROLLBACK");
    wait_until("the last one to fail", || ids_of(&mut client, "failed") == [1, 2, 3, 4]);
}

#[test]
fn a_worker_that_returns_leaves_only_the_refused_job_behind() {
    let cluster = Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h").start();
    let mut client = cluster.database("returns").connect();
    table(&mut client, "fail");
    run(&mut client, RAISES_NAMES);
    run_raising_tasks(&mut client);
    for worker in RAISED {
        client.execute("SELECT rgrid_register($1)", &[&worker]).expect("it is new");
        client
            .execute("SELECT rgrid_register($1)", &[&worker])
            .unwrap_or_else(|why| panic!("{worker}: {why}"));
    }
    assert_eq!(names_of(&mut client, "failed"), ["task"; RAISED.len()]);
    assert_eq!(names_of(&mut client, "running"), RAISED);
}

#[test]
fn a_table_that_refuses_every_row_is_given_up_after_some() {
    let cluster = Cluster::builder()
        .setting("rgrid_heartbeat.check_interval", "1h")
        .setting("rgrid_heartbeat.stale_threshold", "1s")
        .start();
    for (code, level, most) in
        [("P0001", "ROW", 300), ("55P03", "ROW", 300), ("57014", "ROW", 300), ("42501", "STATEMENT", 3)]
    {
        let mut client = cluster.database(&format!("refuses_all_{}", code.to_lowercase())).connect();
        table(&mut client, "fail");
        let sql = format!(
            "CREATE SEQUENCE attempts;
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
                 PERFORM pg_catalog.nextval('public.attempts'); RAISE 'closed' USING ERRCODE = '{code}'; END$$;
             CREATE TRIGGER refuse BEFORE UPDATE ON tasks FOR EACH {level} EXECUTE FUNCTION refuse();
             INSERT INTO tasks (id, worker_id, status)
                 SELECT n, 'w' || n % 100, 'running' FROM generate_series(1, 1000) n;
             INSERT INTO worker_heartbeats SELECT 'w' || n, 'host', '2000-01-01' FROM generate_series(0, 99) n"
        );
        run(&mut client, &sql);
        // The server has to listen for a threshold first.
        let declared = "SELECT count(DISTINCT worker_id) FROM rgrid_sweep()";
        wait_until("a sweep to declare them dead", || ask::<i64>(&mut client, declared, &[]) == 100);
        assert_eq!(ids_of(&mut client, "failed"), [0; 0]);
        let attempts: i64 = ask(&mut client, "SELECT last_value FROM attempts", &[]);
        assert!((2..=most).contains(&attempts), "{code}: {attempts}");
    }
}

#[test]
fn a_job_that_cannot_be_failed_is_tried_again_with_growing_pauses_or_by_hand() {
    let cluster = server();
    let mut client = cluster.database("pauses").connect();
    table(&mut client, "fail");
    run(&mut client, "ALTER TABLE tasks ADD CONSTRAINT stays CHECK (status = 'running')");
    run_tasks(&mut client, &["w1"]);
    silent_worker(&mut client, "w1");
    let lasted =
        "SELECT coalesce(max(last_at - since) > interval '5 seconds', false) FROM pg_stat_rgrid_problems
                  WHERE problem = 'job table' AND datname = 'pauses'";
    wait_until("the problem to last", || ask(&mut client, lasted, &[]));
    let rounds =
        "SELECT rounds FROM pg_stat_rgrid_problems WHERE problem = 'job table' AND datname = 'pauses'";
    let rounds: i64 = ask(&mut client, rounds, &[]);
    assert!(rounds <= 10, "it was met {rounds} times, with sweeps every 200 ms");
    run(&mut client, "ALTER TABLE tasks DROP CONSTRAINT stays; SELECT rgrid_sweep()");
    assert_eq!(ids_of(&mut client, "failed"), [1]);
}

#[test]
fn a_notification_tells_of_the_refused_job_and_of_its_key_on_request_only() {
    let cluster = server();
    for (name, notify_keys) in [("without_keys", false), ("with_keys", true)] {
        let database = cluster.database(name);
        let (mut client, mut listener) = (database.connect(), database.connect());
        table(&mut client, "fail");
        let watch = format!(
            "SELECT rgrid_watch_jobs('tasks', max_attempts_column => NULL, notify_keys => {notify_keys})"
        );
        run(&mut client, &watch);
        run(&mut client, "ALTER TABLE tasks ADD CONSTRAINT goes_on CHECK (status = 'running' OR id <> 3)");
        run_tasks(&mut client, &["w2", "w1", "w1"]);
        run(&mut listener, "LISTEN rgrid_worker_deaths");
        ["w1", "w2"].iter().for_each(|worker| silent_worker(&mut client, worker));
        let told = (next_notice(&mut listener), next_notice(&mut listener));
        let (w1, w2) = if told.0["worker_id"] == "w1" { told } else { (told.1, told.0) };
        let key = if notify_keys { serde_json::json!("3") } else { serde_json::Value::Null };
        let refused = serde_json::json!([{"table": "public.tasks", "key": key, "sqlstate": "23514"}]);
        assert_eq!((&w1["refused"], &w1["jobs"][0]["failed"]), (&refused, &serde_json::json!(1)));
        assert_eq!(w2["refused"], serde_json::json!([]));
    }
}
