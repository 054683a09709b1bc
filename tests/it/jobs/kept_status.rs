//! A settlement is what the row says afterwards: a trigger or a rule may keep a job running, and the UPDATE does not
//! tell.

use crate::cluster::*;
use postgres::Client;

fn server() -> Shared {
    Shared::of(Cluster::quick)
}

/// Two watched tables of one kind: `kept`, with this code, and `free`. `w` and `v` run a job in each, `w` two in
/// `kept`.
fn tables(client: &mut Client, on_death: &str, code: &str) {
    let sql = format!(
        "CREATE TABLE free (id int PRIMARY KEY, worker_id text, status text, execution_error text,
                            completed_at timestamptz, retry_count int NOT NULL DEFAULT 0);
         CREATE TABLE kept (LIKE free INCLUDING ALL);
         SELECT rgrid_watch_jobs(job_table::regclass, on_death => '{on_death}', max_attempts_column => NULL)
             FROM unnest('{{free,kept}}'::text[]) AS t (job_table);
         INSERT INTO free VALUES (1, 'w', 'running'), (2, 'v', 'running');
         INSERT INTO kept VALUES (1, 'w', 'running'), (2, 'w', 'running'), (3, 'v', 'running');
         {code}"
    );
    run(client, &sql);
}

/// Code that keeps job 2 as it is.
const KEEPERS: [(&str, &str); 4] = [
    ("before_null", "BEFORE UPDATE ON kept FOR EACH ROW WHEN (OLD.id = 2) EXECUTE FUNCTION nothing()"),
    ("before_back", "BEFORE UPDATE ON kept FOR EACH ROW WHEN (OLD.id = 2) EXECUTE FUNCTION back()"),
    (
        "after_back",
        "AFTER UPDATE ON kept FOR EACH ROW WHEN (OLD.id = 2 AND NEW.status <> 'running') EXECUTE FUNCTION again()",
    ),
    ("rule", ""),
];

fn keeper(event: &str) -> String {
    let functions = "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN NEW.status := OLD.status; NEW.worker_id := OLD.worker_id; RETURN NEW; END';
         CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN
                 UPDATE public.kept SET status = 'running', worker_id = OLD.worker_id WHERE id = NEW.id;
                 RETURN NULL;
             END$$;";
    match event {
        "" => "CREATE RULE keep AS ON UPDATE TO kept WHERE OLD.id = 2 DO INSTEAD NOTHING".into(),
        event => format!("{functions} CREATE TRIGGER keep {event}"),
    }
}

fn statuses(client: &mut Client, table: &str) -> String {
    ask(client, &format!("SELECT string_agg(status, ' ' ORDER BY id) FROM {table}"), &[])
}

fn problem(client: &mut Client, database: &str) -> String {
    let sql = "SELECT coalesce(string_agg(problem || ' ' || message, ', '), '') FROM pg_stat_rgrid_problems
               WHERE datname = $1";
    ask(client, sql, &[&database])
}

#[test]
fn a_job_that_is_kept_running_is_named_and_counted_as_what_it_is() {
    let cluster = server();
    for on_death in ["fail", "requeue"] {
        for (name, event) in KEEPERS {
            let name = format!("{on_death}_{name}");
            let database = cluster.database(&name);
            let mut client = database.connect();
            tables(&mut client, on_death, &keeper(event));
            ["w", "v"].iter().for_each(|worker| silent_worker(&mut client, worker));
            ["w", "v"].iter().for_each(|worker| await_death(&mut client, worker));
            let done = if on_death == "fail" { "failed" } else { "queued" };
            assert_eq!(statuses(&mut client, "free"), format!("{done} {done}"), "{name}");
            if event.is_empty() {
                // PostgreSQL refuses RETURNING there, and with it the whole statement.
                assert_eq!(statuses(&mut client, "kept"), "running running running", "{name}");
            } else {
                assert_eq!(statuses(&mut client, "kept"), format!("{done} running {done}"), "{name}");
                let said = "job table could not settle jobs in table public.kept: job 2: it is running after it was settled";
                wait_until("the job to be named", || problem(&mut client, &name).starts_with(said));
            }
            wait_until("the problem", || problem(&mut client, &name).contains("public.kept"));
            assert!(!problem(&mut client, &name).contains("locked"), "{}", problem(&mut client, &name));
            await_sweep(&mut client, "a-later-one");
            let counted: i64 = ask(
                &mut client,
                "SELECT (sum(jobs_failed) + sum(jobs_requeued))::int8 FROM rgrid_worker_deaths",
                &[],
            );
            assert_eq!(counted, if event.is_empty() { 2 } else { 4 }, "{name}");
            assert!(cluster.log_lines_with(&["still ran were settled"]).is_empty(), "{name}");
        }
    }
}

#[test]
fn a_worker_whose_job_is_kept_running_is_told_and_the_job_is_noted() {
    let cluster = server();
    let mut client = cluster.database("kept_for_a_worker").connect();
    tables(&mut client, "fail", &keeper(KEEPERS[2].1));
    assert_eq!(ask::<i64>(&mut client, "SELECT incarnation FROM rgrid_register('w')", &[]), 2);
    assert_eq!(statuses(&mut client, "kept"), "failed running running");
    assert_eq!(ask::<Vec<String>>(&mut client, "SELECT job_keys FROM rgrid_unsettled_jobs", &[]), ["2"]);
}
