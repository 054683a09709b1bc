//! Registrations of many workers in one call: each is told what it would be told alone, and its jobs are settled.

use crate::cluster::*;
use postgres::Client;
use std::thread;
use std::time::Instant;

fn server() -> Shared {
    Shared::of(|| Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h"))
}

/// What the workers of this query are told in one call, in its order.
fn register_all(client: &mut Client, ids: &str, host: Option<&str>) -> Vec<(String, i64)> {
    let sql =
        format!("SELECT id, incarnation FROM rgrid_register(ARRAY(SELECT {ids})::text[], hostname => $1)");
    let rows = client.query(&sql, &[&host]).expect("registrations");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The same, each by a call of its own.
fn register_each(client: &mut Client, ids: &str) -> Vec<(String, i64)> {
    let sql = "SELECT id, incarnation FROM rgrid_register($1)";
    let workers = client.query(&format!("SELECT {ids}"), &[]).expect("ids");
    let workers = workers.iter().map(|row| row.get::<_, String>(0));
    workers
        .map(|id| client.query_one(sql, &[&id]).map(|row| (row.get(0), row.get(1))).expect("registered"))
        .collect()
}

const FIFTY: &str = "'w' || n FROM generate_series(1, 50) AS n";

/// Worker 7 is dead, 20 has returned from death, 9 lives, 11 lives and runs jobs, 13 has left, 15 runs jobs although
/// nobody has heard of it, and 17 has died and its row was removed.
fn all_kinds(client: &mut Client) {
    for worker in ["w7", "w17", "w20"] {
        beat(client, worker);
        claim_jobs(client, worker, 2);
        sweep_away(client, worker);
    }
    claim_jobs(client, "w7", 1);
    run(client, "DELETE FROM worker_heartbeats WHERE worker_id = 'w17'");
    ["w20", "w9", "w11", "w13"].iter().for_each(|worker| _ = beat(client, worker));
    run(client, "SELECT rgrid_deregister('w13')");
    ["w11", "w15"].iter().for_each(|worker| claim_jobs(client, worker, 3));
}

/// All that the tables say afterwards, but for times.
fn outcome(client: &mut Client) -> Vec<String> {
    [
        "SELECT concat_ws(' ', worker_id, incarnation, reason, jobs_failed, returned_at IS NOT NULL)
         FROM rgrid_worker_deaths ORDER BY worker_id, incarnation",
        "SELECT concat_ws(' ', worker_id, status, count(*)) FROM executions GROUP BY worker_id, status ORDER BY 1",
        "SELECT concat_ws(' ', worker_id, owner) FROM rgrid_worker_owners ORDER BY 1",
        "SELECT worker_id FROM worker_heartbeats ORDER BY 1",
        "SELECT concat_ws(' ', worker_id, incarnation) FROM rgrid_incarnations ORDER BY 1",
    ]
    .iter()
    .flat_map(|sql| client.query(*sql, &[]).expect("a table").into_iter().map(|row| row.get(0)))
    .collect()
}

#[test]
fn each_is_told_what_it_would_be_told_alone() {
    let cluster = server();
    let (together, alone) = (cluster.database("together"), cluster.database("alone"));
    let (mut together, mut alone) = (together.connect(), alone.connect());
    [&mut together, &mut alone].into_iter().for_each(all_kinds);
    let told = register_each(&mut alone, FIFTY);
    assert_eq!(register_all(&mut together, FIFTY, None), told);
    assert_eq!(outcome(&mut together), outcome(&mut alone));
    let number = |worker: &str| told.iter().find(|(id, _)| id == worker).map(|(_, number)| *number);
    assert_eq!(["w1", "w7", "w9", "w15", "w17", "w20"].map(number), [1, 2, 2, 2, 2, 3].map(Some));
    assert_eq!(ask::<i64>(&mut together, "SELECT count(*) FROM executions WHERE status = 'running'", &[]), 0);
}

#[test]
fn they_are_in_memory_afterwards_with_their_host() {
    // A server of its own: whoever registers elsewhere may keep an entry of the same partition out.
    let cluster = Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h").start();
    let database = cluster.database("remembered");
    let mut client = database.connect();
    for round in 1..=2 {
        assert!(register_all(&mut client, FIFTY, Some("here")).iter().all(|(_, number)| *number == round));
        let in_rows =
            "SELECT heartbeats_in_row FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
        let before: i64 = ask(&mut client, in_rows, &[]);
        let beaten = format!("SELECT count(*) FROM rgrid_heartbeat(ARRAY(SELECT {FIFTY}), 'here')");
        assert_eq!(ask::<i64>(&mut client, &beaten, &[]), 50);
        assert_eq!(ask::<i64>(&mut client, in_rows, &[]), before, "round {round}");
    }
    let rows = "SELECT count(*) FROM worker_heartbeats WHERE hostname = 'here'";
    assert_eq!(ask::<i64>(&mut client, rows, &[]), 50);
}

#[test]
fn a_worker_that_is_named_twice_is_registered_once() {
    let cluster = server();
    let database = cluster.database("twice");
    let mut client = database.connect();
    for number in 1..=2 {
        let told = register_all(&mut client, "'w' || n % 20 FROM generate_series(1, 60) AS n", None);
        assert_eq!(told.len(), 60);
        assert_eq!((told[0].0.as_str(), told[20].0.as_str(), told[19].0.as_str()), ("w1", "w1", "w0"));
        assert!(told.iter().all(|(_, told)| *told == number));
    }
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM rgrid_worker_deaths", &[]), 20);
    assert!(register_all(&mut client, "'' WHERE false", None).is_empty());
}

#[test]
fn the_id_of_another_role_refuses_the_whole_call() {
    let cluster = server();
    let database = cluster.database("roles");
    let (mut mine, mut theirs) = (tenant(&database, "crew"), tenant(&database, "outsider"));
    assert_eq!(register_all(&mut mine, FIFTY, None).len(), 50);
    assert_eq!(owner(&mut database.connect(), "w50"), "crew");
    let others = "SELECT count(*) FROM rgrid_register(ARRAY(SELECT 'x' || n FROM generate_series(1, 40) AS n) || 'w5'::text)";
    run(&mut mine, "BEGIN; SELECT rgrid_register('w5')");
    assert_eq!(sqlstate(&mut theirs, others), "42501", "it waits for nobody");
    run(&mut mine, "ROLLBACK");
    assert_eq!(sqlstate(&mut theirs, others), "42501");
    let rows = "SELECT count(*) FROM worker_heartbeats";
    assert_eq!(ask::<i64>(&mut database.connect(), rows, &[]), 50);
    assert_eq!(deaths(&mut database.connect(), "w5"), 0);
}

#[test]
fn an_error_of_one_refuses_the_whole_call() {
    let cluster = server();
    let database = cluster.database("refused");
    let mut client = database.connect();
    for (bad, code) in
        [("NULL", "22004"), ("''", "22023"), ("repeat('x', 256)", "22023"), ("e'a\\nb'", "22023")]
    {
        let call = format!("SELECT count(*) FROM rgrid_register(ARRAY(SELECT {FIFTY}) || {bad}::text)");
        assert_eq!(sqlstate(&mut client, &call), code, "{bad}");
    }
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_register(NULL::text[])"), "22004");
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM worker_heartbeats", &[]), 0);
}

#[test]
fn a_limit_of_workers_holds_for_many_at_once() {
    let cluster = server();
    let database = cluster.database("limited");
    drop(tenant(&database, "limited crew"));
    let limit = "ALTER ROLE \"limited crew\" SET rgrid_heartbeat.max_workers_per_role = 30";
    run(&mut database.connect(), limit);
    let mut agent = database.connect_as("limited crew");
    let call = |count: i32| {
        format!(
            "SELECT count(*) FROM rgrid_register(ARRAY(SELECT 'w' || n FROM generate_series(1, {count}) AS n))"
        )
    };
    assert_eq!(sqlstate(&mut agent, &call(31)), "53400");
    for count in [20, 30, 30] {
        assert_eq!(ask::<i64>(&mut agent, &call(count), &[]), i64::from(count));
    }
    assert_eq!(sqlstate(&mut agent, &call(31)), "53400");
}

#[test]
fn unknown_workers_start_above_all_that_was_pruned() {
    let cluster = server();
    let database = cluster.database("floor");
    let mut client = database.connect();
    beat(&mut client, "first");
    run(
        &mut client,
        "INSERT INTO rgrid_incarnations VALUES ('', 7);
         ALTER DATABASE floor SET rgrid_heartbeat.max_workers_per_role = 1000",
    );
    let mut client = database.connect();
    assert!(register_all(&mut client, FIFTY, None).iter().all(|(_, number)| *number == 7));
    let beaten = "SELECT min(told) = 7 AND max(told) = 7
                  FROM rgrid_heartbeat(ARRAY(SELECT 'x' || n FROM generate_series(1, 50) AS n)) AS told";
    assert!(ask::<bool>(&mut client, beaten, &[]));
    let noted = "SELECT count(*) FROM rgrid_incarnations WHERE incarnation = 7 AND worker_id <> ''";
    assert_eq!(ask::<i64>(&mut client, noted, &[]), 100);
}

#[test]
fn agents_whose_workers_are_partly_the_same_do_not_deadlock() {
    let cluster = server();
    let database = cluster.database("agents");
    let agents: Vec<_> = [("n", 0, false), ("-n", 70, true), ("n * 3 % 100", 0, true), ("n + 30", 0, false)]
        .into_iter()
        .map(|(order, more, registers)| {
            let mut client = database.connect();
            let ids = format!("'w' || abs({more} + n) FROM generate_series(1, 100) AS n ORDER BY {order}");
            let call = if registers { "rgrid_register" } else { "rgrid_heartbeat" };
            let call = format!("SELECT count(*) FROM {call}(ARRAY(SELECT {ids}))");
            thread::spawn(move || (0..5).for_each(|_| assert_eq!(ask::<i64>(&mut client, &call, &[]), 100)))
        })
        .collect();
    agents.into_iter().for_each(|agent| agent.join().expect("no agent fails"));
}

#[test]
fn adopted_tables_and_one_snapshot() {
    let cluster = server();
    for (name, kind) in [("whole", ""), ("in_parts", "PARTITION BY HASH (worker_id)")] {
        let database = cluster.empty_database(name);
        let mut client = database.connect();
        let table = "CREATE TABLE worker_heartbeats (worker_id varchar(64) PRIMARY KEY, last_heartbeat_at timestamp NOT NULL)";
        run(&mut client, &format!("{table} {kind}"));
        if !kind.is_empty() {
            let part =
                "CREATE TABLE part PARTITION OF worker_heartbeats FOR VALUES WITH (MODULUS 1, REMAINDER 0)";
            run(&mut client, part);
        }
        run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
        executions_table(&mut client);
        run(&mut client, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM executions");
        claim_jobs(&mut database.connect(), "w3", 2);
        let told = register_all(&mut client, FIFTY, Some("host"));
        run(&mut client, "COMMIT");
        assert!(told.iter().all(|(id, number)| *number == if id == "w3" { 2 } else { 1 }));
        assert_eq!(failed_jobs(&mut client, "w3"), 2, "although they are newer than the snapshot");
    }
}

#[test]
fn a_row_that_cannot_be_made_is_an_error_of_the_call() {
    let cluster = server();
    let database = cluster.empty_database("swallowed_some");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE TABLE worker_heartbeats (worker_id text PRIMARY KEY, last_heartbeat_at timestamptz NOT NULL);
         CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER swallow BEFORE INSERT ON worker_heartbeats FOR EACH ROW
             WHEN (NEW.worker_id = 'w8') EXECUTE FUNCTION swallow();
         CREATE EXTENSION rgrid_heartbeat",
    );
    assert_eq!(sqlstate(&mut client, &format!("SELECT rgrid_register(ARRAY(SELECT {FIFTY}))")), "09000");
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM worker_heartbeats", &[]), 0);
}

#[test]
fn a_table_of_jobs_that_cannot_be_read_keeps_nobody_away() {
    let cluster = server();
    let database = cluster.database("locked_jobs");
    let (mut client, mut holder) = (database.connect(), database.connect());
    claim_jobs(&mut client, "w3", 2);
    run(&mut holder, "BEGIN; LOCK TABLE executions");
    run(&mut client, "SET rgrid_heartbeat.call_timeout = '1s'");
    assert_eq!(register_all(&mut client, FIFTY, None).len(), 50);
    let noted = "SELECT count(*) FROM rgrid_unsettled_jobs";
    assert_eq!(ask::<i64>(&mut client, noted, &[]), 50, "it is not known who runs jobs");
    run(&mut holder, "COMMIT");
    run(&mut client, "SELECT rgrid_sweep()");
    assert_eq!((jobs(&mut client, "w3", "running"), failed_jobs(&mut client, "w3")), (0, 2));
    assert_eq!(ask::<i64>(&mut client, noted, &[]), 0);
}

#[test]
fn work_for_very_many_is_not_taken_for_waiting() {
    let cluster = server();
    let database = cluster.database("patient");
    let mut client = database.connect();
    let workers = "'w' || n FROM generate_series(1, 1000) AS n";
    register_all(&mut client, workers, None);
    let began = Instant::now();
    register_all(&mut client, workers, None);
    let limit = (began.elapsed() / 2).as_millis().max(100);
    run(&mut client, &format!("SET rgrid_heartbeat.call_timeout = '{limit}ms'"));
    assert!(register_all(&mut client, workers, None).iter().all(|(_, number)| *number == 3));
    let noted = "SELECT count(*) FROM rgrid_unsettled_jobs";
    assert_eq!(ask::<i64>(&mut client, noted, &[]), 0, "no table of jobs was in the way");
}
