//! Heartbeats of many workers in one call, of whom memory knows nothing: each is told what it would be told alone.

use crate::cluster::*;
use postgres::Client;
use std::thread;

/// Every heartbeat goes to its row.
fn server() -> Shared {
    Shared::of(|| {
        Cluster::builder()
            .setting("rgrid_heartbeat.check_interval", "1h")
            .setting("rgrid_heartbeat.max_workers", "0")
    })
}

/// The incarnations that `w1`, `w2` and so on are told in one call, in the order of the array.
fn beat_all(client: &mut Client, ids: &str, host: Option<&str>) -> Vec<i64> {
    let sql = format!(
        "SELECT coalesce(array_agg(told ORDER BY n), '{{}}')
                       FROM rgrid_heartbeat(ARRAY(SELECT {ids}), $1) WITH ORDINALITY AS t (told, n)"
    );
    ask(client, &sql, &[&host])
}

const FIFTY: &str = "'w' || n FROM generate_series(1, 50) AS n";

#[test]
fn new_known_and_dead_workers_in_one_call_are_told_their_numbers() {
    let cluster = server();
    let database = cluster.database("mixed");
    let mut client = database.connect();
    for worker in ["w7", "w20"] {
        beat(&mut client, worker);
        claim_jobs(&mut client, worker, 2);
        sweep_away(&mut client, worker);
    }
    beat(&mut client, "w7");
    assert_eq!(beat(&mut client, "w9"), 1);
    let mut expected = vec![1; 50];
    (expected[6], expected[19]) = (2, 2);
    for _ in 0..2 {
        assert_eq!(beat_all(&mut client, FIFTY, Some("host")), expected);
    }
    assert_eq!(ledger(&mut client, "w20"), ["1 stale 2 returned"].map(str::to_owned).to_vec());
    assert_eq!((jobs(&mut client, "w20", "running"), failed_jobs(&mut client, "w20")), (0, 2));
    let rows = "SELECT count(*) FROM worker_heartbeats WHERE hostname = 'host'";
    assert_eq!(ask::<i64>(&mut client, rows, &[]), 50);
    let owners = "SELECT count(*) FROM rgrid_worker_owners WHERE owner = 'postgres'";
    assert_eq!(ask::<i64>(&mut client, owners, &[]), 50);
}

#[test]
fn a_worker_that_is_named_twice_is_answered_twice() {
    let cluster = server();
    let database = cluster.database("twice");
    let mut client = database.connect();
    let told = beat_all(&mut client, "'w' || n % 20 FROM generate_series(1, 60) AS n", None);
    assert_eq!(told, vec![1; 60]);
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM worker_heartbeats", &[]), 20);
    assert!(beat_all(&mut client, "'' WHERE false", None).is_empty());
}

#[test]
fn a_host_that_is_not_named_stays() {
    let cluster = server();
    let database = cluster.database("hosts");
    let mut client = database.connect();
    beat_all(&mut client, FIFTY, Some("here"));
    beat_all(&mut client, FIFTY, None);
    let rows = "SELECT count(*) FROM worker_heartbeats WHERE hostname = 'here'";
    assert_eq!(ask::<i64>(&mut client, rows, &[]), 50);
}

#[test]
fn the_id_of_another_role_refuses_the_call_and_its_new_workers_belong_to_the_caller() {
    let cluster = server();
    let database = cluster.database("roles");
    let (mut mine, mut theirs) = (tenant(&database, "agent"), tenant(&database, "stranger"));
    assert_eq!(beat_all(&mut mine, FIFTY, None), vec![1; 50]);
    assert_eq!(owner(&mut database.connect(), "w50"), "agent");
    let others = "SELECT count(*) FROM rgrid_heartbeat(ARRAY(SELECT 'x' || n FROM generate_series(1, 40) AS n) || 'w5'::text)";
    assert_eq!(sqlstate(&mut theirs, others), "42501");
    let rows = "SELECT count(*) FROM worker_heartbeats";
    assert_eq!(ask::<i64>(&mut database.connect(), rows, &[]), 50);
}

#[test]
fn a_limit_of_workers_holds_for_many_at_once() {
    let cluster = server();
    let database = cluster.database("limited");
    let mut agent = tenant(&database, "limited agent");
    run(
        &mut database.connect(),
        "ALTER ROLE \"limited agent\" SET rgrid_heartbeat.max_workers_per_role = 30",
    );
    agent = {
        drop(agent);
        database.connect_as("limited agent")
    };
    let call = |count: i32| {
        format!(
            "SELECT count(*) FROM rgrid_heartbeat(ARRAY(SELECT 'w' || n FROM generate_series(1, {count}) AS n))"
        )
    };
    assert_eq!(ask::<i64>(&mut agent, &call(30), &[]), 30);
    assert_eq!(sqlstate(&mut agent, &call(31)), "53400");
    assert_eq!(ask::<i64>(&mut agent, &call(30), &[]), 30);
}

#[test]
fn agents_whose_workers_are_partly_the_same_do_not_deadlock() {
    let cluster = server();
    let database = cluster.database("agents");
    let agents: Vec<_> = [("n", 0), ("-n", 700), ("n * 3 % 1000", 0), ("n + 300", 0)]
        .into_iter()
        .map(|(order, more)| {
            let mut client = database.connect();
            thread::spawn(move || {
                let ids =
                    format!("'w' || abs({more} + n) FROM generate_series(1, 1000) AS n ORDER BY {order}");
                (0..10).for_each(|_| assert_eq!(beat_all(&mut client, &ids, None), vec![1; 1_000]));
            })
        })
        .collect();
    agents.into_iter().for_each(|agent| agent.join().expect("no agent fails"));
}

#[test]
fn many_at_once_in_adopted_tables_and_in_one_snapshot() {
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
        run(&mut client, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
        assert_eq!(beat(&mut database.connect(), "w3"), 1);
        assert_eq!(beat_all(&mut client, FIFTY, Some("host")), vec![1; 50]);
        run(&mut client, "COMMIT");
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
    assert_eq!(sqlstate(&mut client, &format!("SELECT rgrid_heartbeat(ARRAY(SELECT {FIFTY}))")), "09000");
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM worker_heartbeats", &[]), 0);
}
