//! What sweepers cannot do: each problem is logged, listed and checked by itself, for as long as it lasts.

use crate::cluster::*;
use chrono::{DateTime, Utc};
use postgres::Client;
use std::time::Duration;

/// Sweeps every 200 ms and flushes between.
fn quick() -> Builder {
    Cluster::quick().setting("rgrid_heartbeat.flush_interval", "50ms")
}

/// Its log does not tell databases apart: no two tests have problems with tables of the same name.
fn server() -> Shared {
    Shared::of(quick)
}

/// How many problems were logged that have this in their text.
fn said(cluster: &Cluster, part: &str) -> usize {
    cluster.log_lines_with(&["WARNING:  could not ", part]).len()
}

/// How often a table was logged as one whose jobs cannot be settled.
fn said_of_table(cluster: &Cluster, table: &str) -> usize {
    said(cluster, &format!("settle jobs in table public.{table}: "))
}

fn job_table(client: &mut Client, table: &str) {
    let sql = format!(
        "CREATE TABLE {table} (worker_id text, status text, execution_error text, completed_at timestamptz);
         INSERT INTO rgrid_job_tables VALUES ('{table}')"
    );
    run(client, &sql);
}

/// A trigger that raises such an exception at each update of the table, and a job of `worker` to be settled.
fn refuse(client: &mut Client, table: &str, worker: &str, exception: &str) {
    let sql = format!(
        "CREATE FUNCTION {table}_refuses() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE {exception}; END$$;
         CREATE TRIGGER refuse BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_refuses();
         INSERT INTO {table} (worker_id, status) VALUES ('{worker}', 'running')"
    );
    run(client, &sql);
}

/// Whether a check finds no error, and what it found.
fn check(client: &mut Client, name: &str) -> (bool, String) {
    let sql = "SELECT status <> 'error', detail FROM rgrid_health() WHERE check_name = $1";
    let row = client.query_one(sql, &[&name]).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    (row.get(0), row.get(1))
}

/// Returns what the check found when that is an error.
fn await_complaint(client: &mut Client, name: &str) -> String {
    wait_until(&format!("a complaint of the check {name}"), || !check(client, name).0);
    check(client, name).1
}

/// Returns when so many more sweeps of this database are done.
fn await_sweeps(client: &mut Client, count: i64) {
    let sql = "SELECT sweeps FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    let before: i64 = ask(client, sql, &[]);
    wait_until(&format!("{count} sweeps"), || ask::<i64>(client, sql, &[]) >= before + count);
}

/// How many problems of this database the view has for which the condition holds.
fn listed(client: &mut Client, condition: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_rgrid_problems WHERE datname = current_database() AND ";
    ask(client, &format!("{sql}({condition})"), &[])
}

#[test]
fn a_third_table_that_begins_to_fail_is_logged_once_and_fails_its_own_check() {
    let cluster = server();
    let database = cluster.database("third");
    let mut client = database.connect();
    let names =
        ["parcels_of_the_northern_warehouse", "parcels_of_the_southern_warehouse", "parcels_on_their_way"];
    names.iter().for_each(|name| job_table(&mut client, name));
    for name in &names[..2] {
        run(&mut client, &format!("ALTER TABLE {name} DROP COLUMN completed_at"));
    }
    await_sweep(&mut client, "victim");
    let lines = || names.map(|name| said_of_table(&cluster, name));
    wait_until("both to be said", || lines() == [1, 1, 0]);
    refuse(&mut client, names[2], "victim", "'the road is closed'");
    let detail = await_complaint(&mut client, "job table public.parcels_on_their_way");
    assert!(detail.contains("the road is closed"), "{detail}");
    await_sweeps(&mut client, 3);
    assert_eq!(lines(), [1, 1, 1]);
}

#[test]
fn what_one_table_raises_says_nothing_of_another() {
    let cluster = server();
    let database = cluster.database("imitated");
    let mut client = database.connect();
    job_table(&mut client, "imitators");
    claim_jobs(&mut client, "victim", 1);
    silent_worker(&mut client, "victim");
    let imitation =
        "E'x; could not settle jobs in table public.executions: x\\ncould not write heartbeats: x'";
    refuse(&mut client, "imitators", "victim", imitation);
    await_complaint(&mut client, "job table public.imitators");
    let (is_ok, detail) = check(&mut client, "job table public.executions");
    assert!(is_ok, "{detail}");
    assert_eq!(failed_jobs(&mut client, "victim"), 1);
    assert_eq!(listed(&mut client, "true"), 1);
    assert_eq!(listed(&mut client, "problem = 'job table' AND relid = 'imitators'::regclass"), 1);
}

#[test]
fn three_problems_are_three_log_lines_however_many_rounds_meet_them() {
    let cluster = quick().start();
    let database = cluster.database("lasting");
    let mut client = database.connect();
    for name in ["orders_of_the_northern_warehouse", "orders_of_the_southern_warehouse"] {
        job_table(&mut client, name);
        run(&mut client, &format!("ALTER TABLE {name} DROP COLUMN completed_at"));
    }
    known_worker(&mut client, "refused");
    run(&mut client, "ALTER TABLE worker_heartbeats ADD CHECK (worker_id <> 'refused') NOT VALID");
    let _beats = Beating::calling(database.connect(), "refused");
    await_sweep(&mut client, "victim");
    let lines = || ["northern", "southern", "write heartbeats"].map(|part| said(&cluster, part));
    wait_until("all three to be said", || lines() == [1, 1, 1]);
    await_sweeps(&mut client, 10);
    stays(Duration::from_secs(2), "nothing is said again", || said(&cluster, "") == 3);
}

#[test]
fn a_hundred_failing_tables_are_all_listed_and_logged_once_each() {
    let cluster = server();
    let database = cluster.database("hundred");
    let mut client = database.connect();
    let names: Vec<String> = (0..100).map(|number| format!("jobs_{number:02}")).collect();
    for name in &names {
        job_table(&mut client, name);
    }
    let asked = server_time(&mut client);
    let drops = names.iter().map(|name| format!("ALTER TABLE {name} DROP COLUMN completed_at;"));
    run(&mut client, &drops.collect::<String>());
    silent_worker(&mut client, "victim");
    let sql = "SELECT count(DISTINCT relid) FROM pg_stat_rgrid_problems
               WHERE datname = current_database() AND problem = 'job table' AND sqlstate = '42703' AND rounds > 1
                 AND since > $1 AND since < last_at AND strpos(message, relid::regclass::text) > 0";
    wait_until("all to be listed", || ask::<i64>(&mut client, sql, &[&asked]) == 100);
    assert_eq!(listed(&mut client, "true"), 100);
    for name in &names {
        assert_eq!(said_of_table(&cluster, name), 1, "{name}");
    }
}

#[test]
fn a_problem_that_is_over_is_not_listed_and_is_logged_again_when_it_is_back() {
    let cluster = server();
    let database = cluster.database("recurring");
    let mut client = database.connect();
    job_table(&mut client, "lifts");
    silent_worker(&mut client, "victim");
    refuse(&mut client, "lifts", "victim", "'out of order'");
    await_complaint(&mut client, "last error");
    assert_eq!(listed(&mut client, "sqlstate = 'P0001' AND message LIKE '%: out of order'"), 1);
    let since = "SELECT max(since) FROM pg_stat_rgrid_problems WHERE datname = current_database()";
    let first: DateTime<Utc> = ask(&mut client, since, &[]);

    run(&mut client, "DROP TRIGGER refuse ON lifts");
    wait_until("the end of the problem", || check(&mut client, "last error").0);
    let (_, detail) = check(&mut client, "last error");
    assert!(detail.starts_with("The last problem is over: ") && detail.contains("out of order"), "{detail}");
    assert_eq!(listed(&mut client, "true"), 0);
    assert_eq!(said_of_table(&cluster, "lifts"), 1);

    run(&mut client, "DROP FUNCTION lifts_refuses()");
    refuse(&mut client, "lifts", "victim", "'out of order'");
    wait_until("another line", || said_of_table(&cluster, "lifts") == 2);
    assert!(ask::<DateTime<Utc>>(&mut client, since, &[]) > first);
}

#[test]
fn a_problem_whose_words_change_each_time_is_not_logged_each_time() {
    let cluster = server();
    let database = cluster.database("wordy");
    let mut client = database.connect();
    job_table(&mut client, "timetable");
    silent_worker(&mut client, "victim");
    refuse(&mut client, "timetable", "victim", "'late by %', clock_timestamp()");
    wait_until("the line", || said_of_table(&cluster, "timetable") == 1);
    await_sweeps(&mut client, 10);
    assert_eq!(said_of_table(&cluster, "timetable"), 1);
    let message = "SELECT message FROM pg_stat_rgrid_problems WHERE datname = current_database()";
    let first: String = ask(&mut client, message, &[]);
    wait_until("the latest words in the view", || ask::<String>(&mut client, message, &[]) != first);
}

#[test]
fn problems_of_one_database_are_no_problems_of_another_nor_of_a_new_installation() {
    let cluster = server();
    let (troubled, quiet) = (cluster.database("troubled"), cluster.database("quiet"));
    let (mut client, mut other) = (troubled.connect(), quiet.connect());
    run(&mut client, "ALTER TABLE executions DROP COLUMN completed_at");
    silent_worker(&mut client, "victim");
    await_complaint(&mut client, "last error");
    await_sweep(&mut other, "victim");
    let none = (true, "No problem is known since the server started.".to_owned());
    assert_eq!(check(&mut other, "last error"), none);
    assert_eq!((listed(&mut client, "true"), listed(&mut other, "true")), (1, 0));

    run(&mut client, "DROP EXTENSION rgrid_heartbeat");
    let gone = "SELECT NOT has_extension FROM pg_stat_rgrid_heartbeat WHERE datname = 'troubled'";
    wait_until("a sweeper to find no extension", || ask(&mut other, gone, &[]));
    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
    assert_eq!(check(&mut client, "last error"), none);
    assert_eq!(listed(&mut client, "true"), 0);
}

#[test]
fn locked_jobs_are_listed_as_what_they_are() {
    let cluster = server();
    let database = cluster.database("locked");
    let (mut client, mut holder) = (database.connect(), database.connect());
    claim_jobs(&mut client, "victim", 3);
    run(&mut holder, "BEGIN; SELECT FROM executions WHERE id <= 2 FOR UPDATE");
    silent_worker(&mut client, "victim");
    let of_locked = "problem = 'locked jobs' AND sqlstate = '55P03' AND message LIKE '%: 2'
                     AND relid = 'executions'::regclass";
    wait_until("the locked jobs to be listed", || listed(&mut client, of_locked) == 1);
    assert_eq!(listed(&mut client, "true"), 1);
    run(&mut holder, "COMMIT");
    wait_until("the jobs to be settled", || failed_jobs(&mut client, "victim") == 3);
    wait_until("nothing to be listed", || listed(&mut client, "true") == 0);
}
