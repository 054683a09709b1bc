//! Jobs in tables whose rows a library brings from elsewhere, as those of a distributed table. Such a table takes a
//! plain `UPDATE`, and nothing that needs the place of a row; locked rows are waited for there, whatever is set here.

use crate::cluster::*;
use postgres::Client;

const COLUMNS: &str = "id int PRIMARY KEY, status text, worker_id text, execution_error text,
                       completed_at timestamptz, retry_count int NOT NULL DEFAULT 0, max_retries int";

/// A server that sweeps only when asked.
fn unswept() -> Cluster {
    Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h").tables_elsewhere().start()
}

fn server() -> Cluster {
    Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1s").tables_elsewhere().start()
}

/// `elsewhere.jobs`, whose rows are in `shards.jobs`, with a trigger that the library has put there itself. Owned by a
/// role that reaches the rows by the library alone.
fn jobs_elsewhere(client: &mut Client, watch: &str) {
    let sql = format!(
        "CREATE ROLE owner LOGIN;
         CREATE SCHEMA shards; CREATE TABLE shards.jobs ({COLUMNS});
         CREATE SCHEMA elsewhere AUTHORIZATION owner; CREATE TABLE jobs ({COLUMNS});
         CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
         CREATE TRIGGER librarys BEFORE TRUNCATE ON jobs EXECUTE FUNCTION nothing();
         ALTER TABLE jobs SET SCHEMA elsewhere; ALTER TABLE elsewhere.jobs OWNER TO owner;
         {watch}"
    );
    run(client, &sql);
}

const FAILING: &str = "SELECT rgrid_watch_jobs('elsewhere.jobs')";
const REQUEUEING: &str =
    "SELECT rgrid_watch_jobs('elsewhere.jobs', on_death => 'requeue', max_attempts_column => 'max_retries')";

/// Two jobs of the worker: one with attempts left, and one without.
fn start_jobs(client: &mut Client, worker: &str) {
    let sql = "INSERT INTO shards.jobs (id, status, worker_id, retry_count, max_retries)
               SELECT (SELECT count(*) FROM shards.jobs) + n, 'running', $1, n, 2 FROM generate_series(1, 2) n";
    assert_eq!(client.execute(sql, &[&worker]).unwrap(), 2);
}

/// How many jobs a worker runs.
fn running(client: &mut Client, worker: &str) -> i64 {
    ask(client, "SELECT count(*) FROM shards.jobs WHERE status = 'running' AND worker_id = $1", &[&worker])
}

/// Workers that have been silent for long, all at once, as those of a machine that is gone.
fn lose(client: &mut Client, workers: &[&str]) {
    let sql = "INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at)
               SELECT w, clock_timestamp() - interval '1 hour' FROM unnest($1::text[]) w";
    client.execute(sql, &[&workers]).unwrap();
}

/// The jobs that the ledger says were failed and requeued.
fn told(client: &mut Client, worker: &str) -> (i64, i64) {
    let sql = "SELECT jobs_failed, jobs_requeued FROM rgrid_worker_deaths WHERE worker_id = $1";
    let row = client.query_one(sql, &[&worker]).unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn jobs_elsewhere_are_failed() {
    let cluster = server();
    let database = cluster.database("failing");
    let mut client = database.connect();
    jobs_elsewhere(&mut client, FAILING);
    for worker in ["one", "two", "alive"] {
        start_jobs(&mut client, worker);
    }
    lose(&mut client, &["one", "two"]);
    wait_until("the jobs to be failed", || {
        let sql = "SELECT count(*) FROM shards.jobs WHERE status = 'failed' AND worker_id IN ('one', 'two')
                   AND execution_error = 'Worker died unexpectedly' AND completed_at IS NOT NULL";
        ask::<i64>(&mut client, sql, &[]) == 4
    });
    await_death(&mut client, "two");
    assert_eq!((told(&mut client, "one"), told(&mut client, "two")), ((2, 0), (2, 0)));
    assert_eq!(running(&mut client, "alive"), 2);
}

#[test]
fn jobs_elsewhere_go_back_to_the_queue_unless_their_attempts_are_used_up() {
    let cluster = server();
    let watches =
        [("requeueing", REQUEUEING.to_owned()), ("keyed", REQUEUEING.replace(')', ", notify_keys => true)"))];
    for (name, watch) in watches {
        let database = cluster.database(name);
        let mut client = database.connect();
        jobs_elsewhere(&mut client, &watch);
        let (dead, alive) = (["one", "two"], "alive");
        dead.iter().chain([&alive]).for_each(|worker| start_jobs(&mut client, worker));
        lose(&mut client, &dead);
        for worker in dead {
            await_death(&mut client, worker);
            assert_eq!(told(&mut client, worker), (1, 1), "{watch}");
        }
        let sql = "SELECT format('%s %s %s: %s', status, coalesce(worker_id, 'nobody'), retry_count, execution_error)
                   FROM shards.jobs WHERE status <> 'running' ORDER BY id";
        let jobs: Vec<String> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
        let died = "2: Worker died unexpectedly (attempts used: 2 of 2)";
        let [queued, one, two] =
            ["queued nobody", "failed one", "failed two"].map(|job| format!("{job} {died}"));
        assert_eq!(jobs, [queued.clone(), one, queued, two]);
        assert_eq!(running(&mut client, alive), 2);
        run(&mut client, "DROP OWNED BY owner CASCADE; DROP ROLE owner");
    }
}

#[test]
fn a_locked_job_elsewhere_keeps_back_its_own_worker_alone() {
    for (name, watch) in [("locked_failing", FAILING), ("locked_requeueing", REQUEUEING)] {
        let cluster = server();
        let database = cluster.database(name);
        let (mut client, mut blocker) = (database.connect(), database.connect());
        jobs_elsewhere(&mut client, watch);
        let workers = ["w1", "w2", "w3", "w4"];
        workers.iter().for_each(|worker| start_jobs(&mut client, worker));
        run(&mut blocker, "BEGIN; SELECT FROM shards.jobs WHERE worker_id = 'w2' FOR UPDATE");
        lose(&mut client, &workers);
        for worker in ["w1", "w3", "w4"] {
            wait_until(&format!("the jobs of {worker}"), || running(&mut client, worker) == 0);
        }
        await_death(&mut client, "w2");
        assert_eq!(running(&mut client, "w2"), 2);
        run(&mut blocker, "COMMIT");
        wait_until("the jobs that were locked", || running(&mut client, "w2") == 0);
        wait_until("the ledger to count them", || told(&mut client, "w2") != (0, 0));
    }
}

#[test]
fn a_server_that_is_away_costs_its_table_alone() {
    let cluster = server();
    let database = cluster.database("away");
    let mut client = database.connect();
    jobs_elsewhere(&mut client, REQUEUEING);
    start_jobs(&mut client, "worker");
    claim_jobs(&mut client, "worker", 1);
    cluster.set("elsewhere.away", "on");
    lose(&mut client, &["worker"]);
    await_death(&mut client, "worker");
    assert_eq!((running(&mut client, "worker"), failed_jobs(&mut client, "worker")), (2, 1));
    // Nor does it keep a worker away.
    assert_eq!(beat(&mut client, "worker"), 2);
    cluster.set("elsewhere.away", "off");
    lose(&mut client, &["other"]);
    await_death(&mut client, "other");
}

#[test]
fn a_worker_that_registers_gets_its_number_when_its_jobs_elsewhere_are_settled() {
    let cluster = unswept();
    let database = cluster.database("registering");
    let (mut client, mut blocker) = (database.connect(), database.connect());
    jobs_elsewhere(&mut client, REQUEUEING);
    assert_eq!(beat(&mut client, "worker"), 1);
    start_jobs(&mut client, "worker");
    run(&mut blocker, "BEGIN; SELECT FROM shards.jobs WHERE id = 1 FOR UPDATE");
    // Their versions mean nothing here: jobs cannot be told later from those that are claimed meanwhile.
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_register('worker')"), "55P03");
    assert_eq!(running(&mut client, "worker"), 2);
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM rgrid_unsettled_jobs", &[]), 0);
    run(&mut blocker, "COMMIT");
    run(&mut client, "SELECT rgrid_register('worker')");
    assert_eq!(beat(&mut client, "worker"), 2);
    assert_eq!((running(&mut client, "worker"), told(&mut client, "worker")), (0, (1, 1)));
}

#[test]
fn jobs_in_one_of_very_many_partitions_elsewhere_are_found() {
    let cluster = server();
    let database = cluster.database("partitions");
    let mut client = database.connect();
    run(
        &mut client,
        &format!(
            "CREATE SCHEMA shards; CREATE SCHEMA elsewhere; CREATE TABLE shards.jobs ({COLUMNS});
             CREATE TABLE elsewhere.jobs ({COLUMNS}) PARTITION BY RANGE (id);
             DO $$ BEGIN FOR n IN 0..149 LOOP
                 EXECUTE format('CREATE TABLE elsewhere.jobs_%s PARTITION OF elsewhere.jobs FOR VALUES FROM (%s) TO (%s)',
                                n, n * 10, n * 10 + 10);
             END LOOP; END $$"
        ),
    );
    run(&mut client, FAILING);
    start_jobs(&mut client, "worker");
    let health = "SELECT status FROM rgrid_health() WHERE check_name = 'job index elsewhere.jobs'";
    assert_eq!(ask::<String>(&mut client, health, &[]), "ok");
    lose(&mut client, &["worker"]);
    await_death(&mut client, "worker");
    assert_eq!((running(&mut client, "worker"), told(&mut client, "worker")), (0, (2, 0)));
}

#[test]
fn a_dry_run_and_a_rehearsal_touch_no_job_elsewhere() {
    let cluster = unswept();
    let database = cluster.database("rehearsing");
    let mut client = database.connect();
    jobs_elsewhere(&mut client, REQUEUEING);
    start_jobs(&mut client, "worker");
    let sql = "SELECT status || ' ' || detail FROM rgrid_rehearse('elsewhere.jobs')";
    let rehearsed: String = ask(&mut client, sql, &[]);
    assert!(rehearsed.starts_with("ok Tried the statement in elsewhere.jobs without a job"), "{rehearsed}");
    lose(&mut client, &["worker"]);
    let sql = "SELECT coalesce(sum(jobs_failed) || ' and ' || sum(jobs_requeued), 'nobody')
               FROM rgrid_sweep(dry_run => true)";
    run(&mut client, "SET rgrid_heartbeat.stale_threshold = '200ms'");
    wait_until("the worker to be silent", || ask::<String>(&mut client, sql, &[]) == "1 and 1");
    assert_eq!(running(&mut client, "worker"), 2);
}

#[test]
fn a_table_that_refuses_every_job_its_new_values_cannot_be_watched() {
    let cluster = unswept();
    let database = cluster.database("by_status");
    let mut client = database.connect();
    let columns = "status text, worker_id text, execution_error text, completed_at timestamptz";
    let sql = format!(
        "CREATE SCHEMA shards; CREATE SCHEMA elsewhere;
         CREATE TABLE shards.by_status ({columns}); CREATE TABLE elsewhere.by_status ({columns})"
    );
    run(&mut client, &sql);
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_watch_jobs('elsewhere.by_status')"), "0A000");
}

#[test]
fn a_table_that_takes_no_triggers_is_told_what_to_do_instead_of_a_fence() {
    let cluster = server();
    let database = cluster.database("unfenced");
    let mut client = database.connect();
    jobs_elsewhere(&mut client, FAILING);
    let refused = client.query_one("SELECT rgrid_fence('elsewhere.jobs')", &[]).unwrap_err();
    let error = refused.as_db_error().expect("it is the server's");
    assert_eq!(error.code().code(), "0A000");
    assert_eq!(error.message(), "cannot put up a fence at table elsewhere.jobs");
    assert_eq!(error.detail(), Some("triggers are not supported on a table whose rows are elsewhere"));
    assert!(error.hint().is_some_and(|hint| hint.contains("WHERE") && hint.contains("worker")), "{error:?}");
    let fence = "SELECT status FROM rgrid_health() WHERE check_name = 'fence elsewhere.jobs'";
    assert_eq!(ask::<String>(&mut client, fence, &[]), "ok");
}
