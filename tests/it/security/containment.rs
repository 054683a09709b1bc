//! The owner of one watched table stops nothing but that table, whatever its triggers set, catch, lock or leave behind.

use crate::cluster::*;
use postgres::Client;

/// Sweeps every 200 ms, whose statements end after half a second.
fn quick() -> Cluster {
    Cluster::quick().setting("rgrid_heartbeat.statement_timeout", "500ms").start()
}

/// A watched table `hostile.jobs` of the role `hostile`, with a trigger of this body and a running job of `victim`;
/// `victim` also has a job in `executions`.
fn hostile_table(client: &mut Client, role: &str, body: &str) {
    let sql = format!(
        "CREATE ROLE {role} LOGIN;
         CREATE SCHEMA hostile AUTHORIZATION {role};
         CREATE TABLE hostile.jobs (LIKE executions INCLUDING DEFAULTS);
         INSERT INTO hostile.jobs SELECT * FROM executions WHERE worker_id = 'victim';
         ALTER TABLE hostile.jobs OWNER TO {role};
         CREATE FUNCTION hostile.act() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} RETURN NEW; END$$;
         CREATE TRIGGER act BEFORE UPDATE ON hostile.jobs FOR EACH ROW EXECUTE FUNCTION hostile.act();
         SELECT rgrid_watch_jobs('hostile.jobs')"
    );
    claim_jobs(client, "victim", 1);
    run(client, &sql);
}

fn is_complained_of(client: &mut Client) -> bool {
    let sql = "SELECT status = 'error' AND detail LIKE 'Since 20%' FROM rgrid_health()
               WHERE check_name = 'job table hostile.jobs'";
    ask(client, sql, &[])
}

fn running(client: &mut Client) -> i64 {
    ask(client, "SELECT count(*) FROM hostile.jobs WHERE status = 'running'", &[])
}

/// Both workers die although the table does what it does, the job in the other table is settled, and a check says so.
fn await_deaths_beside<'a>(cluster: &'a Cluster, body: &str, role: &str) -> Database<'a> {
    let database = cluster.database(role);
    let mut client = database.connect();
    hostile_table(&mut client, role, body);
    silent_worker(&mut client, "victim");
    silent_worker(&mut client, "bystander");
    await_death(&mut client, "victim");
    await_death(&mut client, "bystander");
    assert_eq!(failed_jobs(&mut client, "victim"), 1);
    wait_until("the check to name the table", || is_complained_of(&mut client));
    let listed = "SELECT count(*) FROM pg_stat_rgrid_problems WHERE datname = current_database()
                      AND relid = 'hostile.jobs'::regclass AND since BETWEEN now() - interval '1 hour' AND now()";
    assert_eq!(ask::<i64>(&mut client, listed, &[]), 1);
    silent_worker(&mut client, "later");
    await_death(&mut client, "later");
    assert_eq!(running(&mut client), 1);
    database
}

#[test]
fn a_trigger_that_ends_the_sweeper_stops_only_its_table() {
    let body = "PERFORM set_config('exit_on_error', 'on', false); RAISE EXCEPTION 'bye';";
    let cluster = quick();
    let database = await_deaths_beside(&cluster, body, "ends_sweepers");
    // Nor does it end the session of a worker that returns: a table that has ended a sweeper is left to sweepers.
    let mut worker = database.connect();
    assert_eq!(beat(&mut worker, "victim"), 2);
    assert_eq!(beat(&mut worker, "victim"), 2);
    assert_eq!(cluster.log_lines_with(&["could not settle jobs in table hostile.jobs", "left out"]).len(), 2);
}

#[test]
fn a_trigger_that_outlives_every_timeout_stops_only_its_table() {
    let body = "LOOP BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;";
    await_deaths_beside(&quick(), body, "outlives_timeouts");
}

#[test]
fn deaths_do_not_wait_for_a_trigger_that_has_hung_before() {
    let cluster = quick();
    let database = cluster.database("hangs");
    let mut client = database.connect();
    run(&mut client, "CREATE SEQUENCE attempts");
    hostile_table(&mut client, "hangs", "PERFORM nextval('public.attempts'), pg_sleep(3600);");
    run(&mut client, "GRANT USAGE ON SEQUENCE attempts TO hangs");
    silent_worker(&mut client, "victim");
    await_death(&mut client, "victim");
    let deaths = 15;
    for n in 0..deaths {
        let worker = format!("worker-{n}");
        claim_jobs(&mut client, &worker, 1);
        let job = "INSERT INTO hostile.jobs SELECT * FROM executions WHERE worker_id = $1";
        client.execute(job, &[&worker]).expect("it can have jobs");
        silent_worker(&mut client, &worker);
        await_death(&mut client, &worker);
    }
    let attempts: i64 = ask(&mut client, "SELECT last_value FROM attempts", &[]);
    assert!((2..deaths).contains(&attempts), "{attempts}");
    wait_until("the check to name the table", || is_complained_of(&mut client));
    run(&mut client, "ALTER TABLE hostile.jobs DISABLE TRIGGER act; SELECT rgrid_sweep()");
    assert_eq!(running(&mut client), 0);
}

#[test]
fn the_temporary_files_of_a_trigger_have_a_limit_in_a_sweeper() {
    let cluster = quick();
    let mut client = cluster.database("spills").connect();
    hostile_table(
        &mut client,
        "spills",
        "INSERT INTO hostile.seen SELECT current_setting('temp_file_limit');",
    );
    run(&mut client, "CREATE TABLE hostile.seen (value text); ALTER TABLE hostile.seen OWNER TO spills");
    silent_worker(&mut client, "victim");
    await_death(&mut client, "victim");
    assert_eq!(ask::<String>(&mut client, "SELECT value FROM hostile.seen", &[]), "1GB");
}

#[test]
fn a_table_that_is_locked_for_an_index_keeps_no_worker_waiting() {
    let cluster = quick();
    let database = cluster.database("locked_for_index");
    let (mut client, mut owner) = (database.connect(), database.connect());
    hostile_table(&mut client, "locks_its_table", "");
    silent_worker(&mut client, "victim");
    silent_worker(&mut client, "idle");
    await_death(&mut client, "victim");
    await_death(&mut client, "idle");
    run(&mut owner, "BEGIN; LOCK TABLE hostile.jobs IN SHARE MODE");
    assert_eq!(beat(&mut client, "idle"), 2);
    run(&mut client, "SELECT rgrid_register('new')");
    assert!(ask::<bool>(&mut client, "SELECT rgrid_deregister('new')", &[]));
}

#[test]
fn a_trigger_leaves_no_advisory_lock_in_a_workers_session() {
    let cluster = quick();
    let mut client = cluster.database("advisory_locks").connect();
    run(&mut client, "SELECT rgrid_heartbeat('victim')");
    hostile_table(
        &mut client,
        "takes_locks",
        "PERFORM pg_advisory_lock(42), pg_advisory_lock(42), pg_advisory_lock_shared(7), pg_advisory_lock(-1, 3);",
    );
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
    run(&mut client, "SELECT rgrid_register('victim')");
    assert_eq!(running(&mut client), 0);
    assert_eq!(ask::<i64>(&mut client, held, &[]), 0);
    run(&mut client, "UPDATE executions SET status = 'queued'; SELECT pg_advisory_lock(1)");
    run(&mut client, "ALTER TABLE hostile.jobs DISABLE TRIGGER act");
    run(&mut client, "UPDATE hostile.jobs SET status = 'running'");
    run(&mut client, "ALTER TABLE hostile.jobs ENABLE TRIGGER act");
    run(&mut client, "SELECT rgrid_register('victim')");
    assert_eq!(running(&mut client), 0);
    assert_eq!(ask::<i64>(&mut client, held, &[]), 1, "the session's own stays");
}

#[test]
fn a_trigger_on_an_adopted_table_of_heartbeats_stops_only_its_flushes() {
    let cluster = quick();
    let database = cluster.empty_database("adopted_heartbeats");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE TABLE worker_heartbeats (worker_id text PRIMARY KEY, last_heartbeat_at timestamptz NOT NULL);
         CREATE EXTENSION rgrid_heartbeat",
    );
    executions_table(&mut client);
    known_worker(&mut client, "beating");
    run(
        &mut client,
        "CREATE FUNCTION bye() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN PERFORM set_config('exit_on_error', 'on', false); RAISE 'bye'; END$$;
         CREATE TRIGGER bye BEFORE UPDATE ON worker_heartbeats FOR EACH ROW EXECUTE FUNCTION bye();
         INSERT INTO worker_heartbeats VALUES ('victim', now() - interval '1 hour')",
    );
    let _beats = Beating::calling(database.connect(), "beating");
    await_death(&mut client, "victim");
    assert_eq!(deaths(&mut client, "beating"), 0);
}

/// A trigger that ends the process in which it runs.
const ENDS: &str = "PERFORM set_config('exit_on_error', 'on', false); RAISE EXCEPTION 'bye';";

/// A loop that outlives every timeout.
const OUTLIVES: &str =
    "LOOP BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;";

#[test]
fn a_trigger_that_calls_a_function_of_ours_first_is_named_all_the_same() {
    for (role, body) in [("nests_and_ends", ENDS), ("nests_and_outlives", OUTLIVES)] {
        let cluster = quick();
        let call = "PERFORM public.rgrid_rehearse('hostile.other'), public.rgrid_register('nested');";
        let database = cluster.database(role);
        let mut client = database.connect();
        hostile_table(&mut client, role, &format!("{call} {body}"));
        run(
            &mut client,
            &format!(
                "CREATE TABLE hostile.other (LIKE executions INCLUDING DEFAULTS);
                 ALTER TABLE hostile.other OWNER TO {role};
                 GRANT EXECUTE ON FUNCTION rgrid_rehearse, rgrid_register(text, text) TO {role};
                 SELECT rgrid_watch_jobs('hostile.other')"
            ),
        );
        silent_worker(&mut client, "victim");
        silent_worker(&mut client, "bystander");
        await_death(&mut client, "victim");
        await_death(&mut client, "bystander");
        wait_until("the check to name the table", || is_complained_of(&mut client));
    }
}

#[test]
fn tables_that_take_turns_in_ending_sweepers_are_left_out_too() {
    let cluster = quick();
    let role = "takes_turns";
    let database = cluster.database(role);
    let mut client = database.connect();
    hostile_table(&mut client, role, "NULL;");
    // The first table ends the process, then lets its job pass, so that the second one ends it; and so on.
    let turns = format!("IF nextval('hostile.turn') % 3 = 2 THEN RETURN NEW; END IF; {ENDS}");
    let sql = format!(
        "CREATE SEQUENCE hostile.turn; ALTER SEQUENCE hostile.turn OWNER TO {role};
         CREATE TABLE hostile.more (LIKE hostile.jobs INCLUDING ALL);
         INSERT INTO hostile.more SELECT * FROM hostile.jobs;
         ALTER TABLE hostile.more OWNER TO {role};
         CREATE OR REPLACE FUNCTION hostile.act() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {turns} RETURN NEW; END$$;
         CREATE TRIGGER act BEFORE UPDATE ON hostile.more FOR EACH ROW EXECUTE FUNCTION hostile.act();
         SELECT rgrid_watch_jobs('hostile.more')"
    );
    run(&mut client, &sql);
    silent_worker(&mut client, "victim");
    silent_worker(&mut client, "bystander");
    await_death(&mut client, "bystander");
    await_death(&mut client, "victim");
}

#[test]
fn a_database_in_which_every_error_ends_the_process_is_swept() {
    let cluster = quick();
    let role = "errors_end";
    let database = cluster.database(role);
    let mut client = database.connect();
    run(&mut client, &format!("ALTER DATABASE {role} SET exit_on_error = on"));
    hostile_table(&mut client, role, "RAISE EXCEPTION 'no';");
    let mut locker = cluster.connect(role);
    run(&mut locker, "BEGIN; LOCK TABLE executions");
    silent_worker(&mut client, "bystander");
    await_death(&mut client, "bystander");
    silent_worker(&mut client, "victim");
    await_death(&mut client, "victim");
    let left_out = "SELECT count(*) FROM pg_stat_rgrid_problems WHERE message LIKE '%left out%'";
    assert_eq!(ask::<i64>(&mut client, left_out, &[]), 0, "nobody is to blame");
    run(&mut locker, "COMMIT");
    let mut worker = database.connect();
    assert_eq!(beat(&mut worker, "victim"), 2);
}

#[test]
fn a_cast_of_the_workers_column_is_no_way_around() {
    for (role, body) in [("casts_and_ends", ENDS), ("casts_and_outlives", OUTLIVES)] {
        let cluster = quick();
        let database = cluster.database(role);
        let mut client = database.connect();
        let sql = format!(
            "CREATE ROLE {role} LOGIN; CREATE SCHEMA hostile AUTHORIZATION {role};
             CREATE TYPE hostile.w AS ENUM ('victim', 'bystander');
             CREATE FUNCTION hostile.act(hostile.w) RETURNS text LANGUAGE plpgsql AS $$BEGIN {body} RETURN 'x'; END$$;
             CREATE CAST (hostile.w AS text) WITH FUNCTION hostile.act(hostile.w) AS IMPLICIT;
             CREATE TABLE hostile.jobs (worker_id hostile.w, status text, execution_error text, completed_at timestamp);
             INSERT INTO hostile.jobs VALUES ('victim', 'running');
             ALTER TABLE hostile.jobs OWNER TO {role}; ALTER TYPE hostile.w OWNER TO {role};
             ALTER FUNCTION hostile.act OWNER TO {role}"
        );
        run(&mut client, &sql);
        run(&mut client, "SELECT rgrid_watch_jobs('hostile.jobs')");
        claim_jobs(&mut client, "victim", 1);
        // The first to meet it may end, whoever it is: a worker, a check, a dry run.
        for call in ["rgrid_register('worker')", "rgrid_health()", "rgrid_sweep(dry_run => true)"] {
            let _ = database.connect().execute(&format!("SELECT {call}"), &[]);
        }
        for call in ["rgrid_register('worker')", "rgrid_health()", "rgrid_sweep(dry_run => true)"] {
            let mut session = database.connect();
            session
                .execute(&format!("SELECT {call}"), &[])
                .unwrap_or_else(|error| panic!("{role}: {call}: {error:?}"));
        }
        silent_worker(&mut client, "victim");
        silent_worker(&mut client, "bystander");
        await_death(&mut client, "victim");
        await_death(&mut client, "bystander");
        assert_eq!(failed_jobs(&mut client, "victim"), 1);
    }
}
