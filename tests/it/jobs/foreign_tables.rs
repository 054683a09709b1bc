//! Jobs on other servers, in foreign tables and in foreign partitions: settled in one sweep, and with no more rights
//! than the owner's there. Needs postgres_fdw.

use crate::cluster::*;
use postgres::Client;
use std::fs;

const COLUMNS: &str = "id int, shard int, status text, worker_id text, execution_error text,
                       completed_at timestamptz, retry_count int DEFAULT 0, max_retries int DEFAULT 1";

/// A server with one shard of the jobs, and nothing of the extension.
fn shard() -> Cluster {
    let shard = Cluster::builder().preload(false).start();
    run(&mut shard.connect("postgres"), &format!("CREATE TABLE jobs ({COLUMNS})"));
    shard
}

/// Partitions 1 and 2 of `jobs` on other servers, partition 0 here. Owned by an ordinary role.
fn sharded_jobs(client: &mut Client, shards: [&Cluster; 2]) {
    run(
        client,
        "CREATE EXTENSION postgres_fdw; CREATE ROLE owner LOGIN; GRANT CREATE ON SCHEMA public TO owner",
    );
    run(client, &format!("CREATE TABLE jobs ({COLUMNS}) PARTITION BY LIST (shard)"));
    run(client, "CREATE TABLE jobs_0 PARTITION OF jobs FOR VALUES IN (0)");
    for (number, shard) in (1..).zip(shards) {
        let server = shard.socket_directory().display();
        run(
            client,
            &format!(
                "CREATE SERVER shard_{number} FOREIGN DATA WRAPPER postgres_fdw
                     OPTIONS (host '{server}', port '5432', dbname 'postgres');
                 CREATE USER MAPPING FOR owner SERVER shard_{number}
                     OPTIONS (user 'postgres', password_required 'false');
                 CREATE USER MAPPING FOR postgres SERVER shard_{number} OPTIONS (user 'postgres');
                 CREATE FOREIGN TABLE jobs_{number} PARTITION OF jobs FOR VALUES IN ({number})
                     SERVER shard_{number} OPTIONS (table_name 'jobs')"
            ),
        );
    }
    run(
        client,
        "ALTER TABLE jobs OWNER TO owner; ALTER TABLE jobs_0 OWNER TO owner;
         ALTER TABLE jobs_1 OWNER TO owner; ALTER TABLE jobs_2 OWNER TO owner",
    );
}

/// A job in each of the three shards.
fn start_jobs(client: &mut Client, worker: &str) {
    let sql = "INSERT INTO jobs (id, shard, status, worker_id) SELECT i, i, 'running', $1 FROM generate_series(0, 2) i";
    assert_eq!(client.execute(sql, &[&worker]).unwrap(), 3);
}

/// The statuses of a worker's jobs in the order of their shards, as far as they still are under its name.
fn statuses(client: &mut Client, worker: &str) -> Vec<String> {
    let rows = client.query("SELECT status FROM jobs WHERE worker_id = $1 ORDER BY shard", &[&worker]);
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn jobs_on_three_servers_are_settled_in_one_sweep_and_one_that_is_away_later() {
    let coordinator = Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1s").start();
    let (near, far) = (shard(), shard());
    let database = coordinator.database("sharded");
    let mut client = database.connect();
    sharded_jobs(&mut client, [&near, &far]);
    run(&mut client, "SELECT rgrid_watch_jobs('jobs')");

    start_jobs(&mut client, "first");
    start_jobs(&mut client, "alive");
    let rehearsed = "SELECT string_agg(status || ' ' || detail, '; ') FROM rgrid_rehearse('jobs')";
    let attempts: String = ask(&mut client, rehearsed, &[]);
    let parts: Vec<&str> = attempts.split("; ").collect();
    assert!(parts[0].starts_with("ok Settled job "), "of the part that is here: {attempts}");
    let left_alone = |part: &&str| part.starts_with("ok Tried the statement in public.jobs_");
    assert!(parts.len() == 3 && parts[1..].iter().all(left_alone), "{attempts}");
    silent_worker(&mut client, "first");
    await_death(&mut client, "first");
    assert_eq!(statuses(&mut client, "first"), ["failed", "failed", "failed"]);
    assert_eq!(statuses(&mut client, "alive"), ["running", "running", "running"]);
    let sql =
        "SELECT count(*) FROM jobs WHERE worker_id = $1 AND execution_error = 'Worker died unexpectedly'
               AND completed_at > clock_timestamp() - interval '1 minute'";
    assert_eq!(ask::<i64>(&mut client, sql, &[&"first"]), 3);
    let jobs: i64 = ask(&mut client, "SELECT jobs_failed FROM rgrid_worker_deaths", &[]);
    assert_eq!(jobs, 3);

    start_jobs(&mut client, "second");
    far.stop("immediate");
    silent_worker(&mut client, "second");
    await_death(&mut client, "second");
    let here = "SELECT status FROM ONLY jobs_0 WHERE worker_id = 'second'";
    assert_eq!(ask::<String>(&mut client, here, &[]), "failed");
    let there = "SELECT status FROM jobs WHERE worker_id = 'second'";
    assert_eq!(ask::<String>(&mut near.connect("postgres"), there, &[]), "failed");
    wait_until("a line in the log", || {
        !coordinator
            .log_lines_with(&["could not settle jobs in table public.jobs: public.jobs_2: "])
            .is_empty()
    });
    await_sweep(&mut client, "witness");
    assert_eq!(coordinator.log_lines_with(&["locked by other sessions"]).len(), 0, "that is not the reason");
    far.start();
    wait_until("the jobs of the server that was away", || {
        ask::<String>(&mut far.connect("postgres"), there, &[]) == "failed"
    });
    wait_until("the ledger to count them", || {
        ask::<i64>(&mut client, "SELECT sum(jobs_failed)::bigint FROM rgrid_worker_deaths", &[]) == 6
    });
    assert_eq!(statuses(&mut client, "alive"), ["running", "running", "running"]);
}

#[test]
fn a_locked_job_on_another_server_keeps_back_its_own_worker_alone() {
    let coordinator = Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1s").start();
    let (near, far) = (shard(), shard());
    let database = coordinator.database("sharded");
    let mut client = database.connect();
    sharded_jobs(&mut client, [&near, &far]);
    run(&mut client, "SELECT rgrid_watch_jobs('jobs', on_death => 'requeue')");
    let mut blocker = near.connect("postgres");
    for worker in ["w1", "w2", "w3", "w4"] {
        start_jobs(&mut client, worker);
    }
    run(&mut blocker, "BEGIN; SELECT FROM jobs WHERE worker_id = 'w3' FOR UPDATE");
    for worker in ["w1", "w2", "w3", "w4"] {
        silent_worker(&mut client, worker);
    }
    for worker in ["w1", "w2", "w4"] {
        wait_until(&format!("the jobs of {worker}"), || statuses(&mut client, worker).is_empty());
    }
    wait_until("the other jobs of w3", || statuses(&mut client, "w3") == ["running"]);
    run(&mut blocker, "COMMIT");
    wait_until("the job that was locked", || statuses(&mut client, "w3").is_empty());
    let sql = "SELECT count(*) FROM jobs WHERE status = 'queued' AND worker_id IS NULL AND retry_count = 1";
    assert_eq!(ask::<i64>(&mut client, sql, &[]), 12);
}

#[test]
fn a_job_that_is_refused_on_another_server_keeps_back_its_own_worker_alone() {
    let coordinator = Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1s").start();
    let (near, far) = (shard(), shard());
    let database = coordinator.database("refusing");
    let mut client = database.connect();
    sharded_jobs(&mut client, [&near, &far]);
    run(&mut client, "SELECT rgrid_watch_jobs('jobs')");
    let workers = ["w1", "w2", "w3", "w4"];
    workers.iter().for_each(|worker| start_jobs(&mut client, worker));
    let mut there = near.connect("postgres");
    run(&mut there, "ALTER TABLE jobs ADD CONSTRAINT stays CHECK (worker_id <> 'w3' OR status = 'running')");
    // All at once, as of a machine that is gone.
    run(
        &mut client,
        "INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at)
         SELECT 'w' || n, clock_timestamp() - interval '1 hour' FROM generate_series(1, 4) AS n",
    );
    let settled = |client: &mut Client, worker: &str| statuses(client, worker) == ["failed"; 3];
    for worker in ["w1", "w2", "w4"] {
        wait_until(&format!("the jobs of {worker}"), || settled(&mut client, worker));
    }
    wait_until("the others of w3", || statuses(&mut client, "w3") == ["failed", "running", "failed"]);
    run(&mut there, "ALTER TABLE jobs DROP CONSTRAINT stays");
    wait_until("the job that was refused", || settled(&mut client, "w3"));
}

#[test]
fn a_foreign_table_is_not_reached_with_the_superusers_password() {
    let server = Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h").start();
    let database = server.database("mapping");
    let mut client = database.connect();
    create_attacker(&mut client, "mapping");
    let columns = "status text, worker_id text, execution_error text, completed_at timestamp";
    run(
        &mut client,
        &format!(
            "CREATE TABLE secrets ({columns}); INSERT INTO secrets VALUES ('running', 'silent');
             CREATE EXTENSION postgres_fdw;
             CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw
                 OPTIONS (host '{}', port '5432', dbname 'mapping');
             CREATE USER MAPPING FOR postgres SERVER here OPTIONS (user 'postgres');
             GRANT USAGE ON FOREIGN SERVER here TO mapping;
             GRANT EXECUTE ON FUNCTION rgrid_watch_jobs TO mapping",
            server.socket_directory().display()
        ),
    );
    let mut owner = database.connect_as("mapping");
    run(
        &mut owner,
        &format!(
            "CREATE FOREIGN TABLE mapping.jobs ({columns}) SERVER here
                 OPTIONS (schema_name 'public', table_name 'secrets');
             SELECT rgrid_watch_jobs('mapping.jobs')"
        ),
    );
    silent_worker(&mut client, "silent");
    sweep_away(&mut client, "silent");
    // A mapping of its own onto the superuser, for whom this server asks no password.
    run(&mut owner, "CREATE USER MAPPING FOR mapping SERVER here OPTIONS (user 'postgres')");
    run(&mut client, "SELECT rgrid_sweep(); SELECT rgrid_register('silent')");
    assert_eq!(ask::<String>(&mut client, "SELECT status FROM secrets", &[]), "running");
    for reason in [["user mapping", "not found"], ["password", "required"]] {
        let words = ["in table mapping.jobs", reason[0], reason[1]];
        assert!(!server.log_lines_with(&words).is_empty(), "{reason:?}");
    }
}

#[test]
fn a_trigger_of_a_foreign_table_that_has_ended_sweepers_ends_no_session() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.statement_timeout", "500ms").start();
    let database = cluster.database("ends_from_afar");
    let mut client = database.connect();
    let socket = cluster.socket_directory().display();
    let columns = "worker_id text, status text, execution_error text, completed_at timestamptz";
    let sql = format!(
        "CREATE ROLE keeper LOGIN; CREATE SCHEMA far AUTHORIZATION keeper; CREATE TABLE real_jobs ({columns});
         CREATE EXTENSION postgres_fdw;
         CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw
             OPTIONS (host '{socket}', port '5432', dbname 'ends_from_afar');
         CREATE USER MAPPING FOR keeper SERVER here OPTIONS (user 'postgres', password_required 'false');
         CREATE FOREIGN TABLE far.jobs ({columns}) SERVER here
             OPTIONS (schema_name 'public', table_name 'real_jobs');
         ALTER TABLE far.jobs OWNER TO keeper;
         CREATE FUNCTION far.act() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN PERFORM set_config('exit_on_error', 'on', false); RAISE EXCEPTION 'bye'; END$$;
         CREATE TRIGGER act BEFORE UPDATE ON far.jobs FOR EACH ROW EXECUTE FUNCTION far.act();
         SELECT rgrid_watch_jobs('far.jobs');
         INSERT INTO real_jobs VALUES ('victim', 'running')"
    );
    run(&mut client, &sql);
    silent_worker(&mut client, "victim");
    await_death(&mut client, "victim");
    assert_eq!(beat(&mut client, "victim"), 2);
    assert_eq!(ask::<String>(&mut client, "SELECT status FROM real_jobs", &[]), "running");
}

/// The one block of docs/install.md that is run on a server of this name.
fn documented(server: &str) -> &'static str {
    let document = include_str!("../../../docs/install.md");
    let (_, block) = document.split_once(&format!("```sql {server}\n")).expect("it has such a block");
    block.split("```").next().unwrap()
}

/// A server that has nothing of the extension, and asks the documented role for its password.
fn managed_server() -> Cluster {
    let managed = Cluster::builder().preload(false).start();
    let rules = managed.socket_directory().join("rules");
    fs::write(&rules, "local all rgrid_sidecar scram-sha-256\nlocal all all trust\n").unwrap();
    managed.append_line(&format!("hba_file = '{}'", rules.display()));
    managed.restart("fast");
    managed
}

#[test]
fn a_server_beside_a_managed_one_settles_its_jobs_as_the_document_says() {
    let managed = managed_server();
    run(&mut managed.connect("postgres"), "CREATE DATABASE app");
    let mut managed_jobs = managed.connect("app");
    executions_table(&mut managed_jobs);
    run(&mut managed_jobs, documented("managed"));

    let sidecar = Cluster::quick().start();
    let database = sidecar.empty_database("rgrid");
    let mut client = database.connect();
    let here = managed.socket_directory().display().to_string();
    run(&mut client, &documented("sidecar").replace("db.example.com", &here));
    for worker in ["first", "second", "alive"] {
        claim_jobs(&mut managed_jobs, worker, 2);
    }
    let _beats = Beating::calling(database.connect(), "alive");
    assert_eq!(beat(&mut client, "first"), 1);
    await_death(&mut client, "first");
    assert_eq!(failed_jobs(&mut managed_jobs, "first"), 2);

    assert_eq!(beat(&mut client, "second"), 1);
    drop(managed_jobs);
    managed.stop("immediate");
    await_death(&mut client, "second");
    assert_eq!(beat(&mut client, "second"), 2, "workers beat as usual");
    managed.start();
    let mut managed_jobs = managed.connect("app");
    wait_until("the jobs of the server that was away", || failed_jobs(&mut managed_jobs, "second") == 2);

    claim_jobs(&mut managed_jobs, "second", 1);
    run(&mut client, "SELECT rgrid_register('second')");
    assert_eq!(failed_jobs(&mut managed_jobs, "second"), 3, "whoever registers is a new process");
    assert_eq!((jobs(&mut managed_jobs, "alive", "running"), deaths(&mut client, "alive")), (2, 0));
}
