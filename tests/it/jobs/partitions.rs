//! Tables of very many partitions: where nothing runs in them, calls do not open them all. Where something does, it is
//! found, whatever the indexes.

use crate::cluster::*;
use postgres::Client;

fn server() -> Shared {
    Shared::of(|| Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1h"))
}

/// A table `jobs` with 150 partitions, a finished job in each, and this index; watched.
fn partitioned(client: &mut Client, status: &str, index: &str) {
    run(
        client,
        &format!(
            "CREATE TYPE state AS ENUM ('queued', 'running', 'completed', 'failed');
             CREATE TABLE jobs (id int, status {status} NOT NULL, worker_id varchar(64), execution_error text,
                                completed_at timestamp, PRIMARY KEY (id)) PARTITION BY RANGE (id);
             DO $$ BEGIN FOR n IN 0..149 LOOP
                 EXECUTE format('CREATE TABLE jobs_%s PARTITION OF jobs FOR VALUES FROM (%s) TO (%s)',
                                n, n * 10, n * 10 + 10);
             END LOOP; END $$;
             {index};
             SELECT rgrid_watch_jobs('jobs')"
        ),
    );
}

fn finish_some(client: &mut Client) {
    run(client, "INSERT INTO jobs SELECT n * 10, 'completed', 'earlier' FROM generate_series(0, 149) n");
}

/// How many partitions a call has locked at its end, as a plan for all of them does.
fn partitions_locked_by(client: &mut Client, call: &str) -> i64 {
    let locked = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                  WHERE l.pid = pg_backend_pid() AND c.relname ~ '^jobs_[0-9]+$'";
    run(client, "BEGIN");
    run(client, call);
    let count = ask(client, locked, &[]);
    run(client, "COMMIT");
    count
}

const INDEXES: [(&str, &str, &str); 5] = [
    ("by_worker", "text", "CREATE INDEX ON jobs (worker_id) WHERE status = 'running'"),
    ("of_varchar", "varchar(50)", "CREATE INDEX ON jobs (worker_id) WHERE status = 'running'"),
    ("of_enum", "state", "CREATE INDEX ON jobs (worker_id) WHERE status = 'running'"),
    ("by_id", "text", "CREATE INDEX ON jobs (id) WHERE status = 'running'"),
    ("by_status", "varchar(50)", "CREATE INDEX ON jobs (status)"),
];

#[test]
fn calls_do_not_open_partitions_in_which_nothing_runs() {
    let cluster = server();
    for (name, status, index) in INDEXES {
        let database = cluster.empty_database(&format!("idle_{name}"));
        let mut client = database.connect();
        run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
        partitioned(&mut client, status, index);
        finish_some(&mut client);
        for call in
            ["SELECT rgrid_register('w')", "SELECT * FROM rgrid_health()", "SELECT rgrid_deregister('w')"]
        {
            assert_eq!(partitions_locked_by(&mut client, call), 0, "{call} with {index}");
        }
        let found =
            "SELECT string_agg(status, ' ') FROM rgrid_health() WHERE check_name ~ '^jobs|^job index'";
        assert_eq!(ask::<String>(&mut client, found, &[]), "ok ok ok ok");
    }
}

#[test]
fn jobs_of_several_statuses_are_looked_for_in_the_same_way() {
    let cluster = server();
    let indexes = [
        ("listed", "text", "WHERE status IN ('running', 'queued')"),
        ("listed_varchar", "varchar(50)", "WHERE status IN ('running', 'queued')"),
        ("listed_enum", "state", "WHERE status IN ('running', 'queued')"),
        ("array", "text", "WHERE status = ANY ('{running,queued}')"),
        ("array_varchar", "varchar(50)", "WHERE status = ANY ('{running,queued}')"),
        ("array_enum", "state", "WHERE status = ANY ('{running,queued}')"),
    ];
    for (name, status, condition) in indexes {
        let database = cluster.empty_database(&format!("several_{name}"));
        let mut client = database.connect();
        run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
        partitioned(&mut client, status, &format!("CREATE INDEX ON jobs (worker_id) {condition}"));
        run(&mut client, "SELECT rgrid_watch_jobs('jobs', also_running => '{queued}')");
        finish_some(&mut client);
        assert_eq!(partitions_locked_by(&mut client, "SELECT rgrid_register('w')"), 0, "{condition}");
        run(
            &mut client,
            "INSERT INTO jobs VALUES (775, 'queued'); UPDATE jobs SET worker_id = 'w' WHERE id = 775",
        );
        run(&mut client, "SELECT rgrid_register('w')");
        let status: String = ask(&mut client, "SELECT status::text FROM jobs WHERE id = 775", &[]);
        assert_eq!(status, "failed", "{condition}");
    }
}

#[test]
fn without_an_index_partitions_that_have_no_row_are_not_opened() {
    let cluster = server();
    let database = cluster.empty_database("no_index");
    let mut client = database.connect();
    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
    partitioned(&mut client, "text", "");
    assert_eq!(partitions_locked_by(&mut client, "SELECT rgrid_register('w')"), 0);
    assert_eq!(partitions_locked_by(&mut client, "SELECT * FROM rgrid_health()"), 0);
    finish_some(&mut client);
    assert!(partitions_locked_by(&mut client, "SELECT rgrid_register('w')") > 0, "rows have to be read");
}

#[test]
fn whatever_runs_is_found_in_each_partition() {
    let cluster = server();
    let others = [
        ("none", "text", ""),
        ("other_status", "text", "CREATE INDEX ON jobs (worker_id) WHERE status = 'queued'"),
        ("not_all", "text", "CREATE INDEX ON ONLY jobs (worker_id) WHERE status = 'running'"),
    ];
    for (name, status, index) in INDEXES.into_iter().chain(others) {
        let database = cluster.empty_database(&format!("busy_{name}"));
        let mut client = database.connect();
        run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
        partitioned(&mut client, status, index);
        for job in [5, 775, 1_495] {
            // Queued first: the status changes in place.
            run(&mut client, &format!("INSERT INTO jobs VALUES ({job}, 'queued')"));
            run(
                &mut client,
                &format!("UPDATE jobs SET status = 'running', worker_id = 'w' WHERE id = {job}"),
            );
            run(&mut client, "SELECT rgrid_register('w')");
            let status: String = ask(&mut client, "SELECT status::text FROM jobs WHERE id = $1", &[&job]);
            assert_eq!(status, "failed", "job {job} with {index}");
        }
        run(&mut client, "INSERT INTO jobs VALUES (1005, 'running')");
        let check = "SELECT status FROM rgrid_health() WHERE check_name ~ '^jobs without worker'";
        assert_eq!(ask::<String>(&mut client, check, &[]), "warning", "with {index}");
    }
}

#[test]
fn entries_of_rows_that_are_gone_are_no_jobs() {
    let cluster = server();
    let database = cluster.empty_database("vacuumed");
    let mut client = database.connect();
    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
    partitioned(&mut client, "text", "CREATE INDEX ON jobs (worker_id) WHERE status = 'running'");
    run(&mut client, "INSERT INTO jobs SELECT n * 10, 'running', 'w' FROM generate_series(0, 149) n");
    run(&mut client, "UPDATE jobs SET status = 'completed'");
    wait_until("the entries to be removed", || {
        run(&mut client, "VACUUM jobs");
        partitions_locked_by(&mut client, "SELECT rgrid_register('w')") == 0
    });
    run(&mut client, "INSERT INTO jobs VALUES (1, 'running', 'another')");
    assert_eq!(partitions_locked_by(&mut client, "SELECT rgrid_register('w')"), 0, "it runs none itself");
    run(&mut client, "BEGIN ISOLATION LEVEL SERIALIZABLE");
    run(&mut client, "SELECT rgrid_register('another')");
    run(&mut client, "COMMIT");
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM jobs WHERE status = 'failed'", &[]), 1);
}
