//! Functions that settle jobs for their owner: called for each death, by sweepers alone, until it succeeds.

use crate::cluster::*;
use postgres::Client;
use std::time::Duration;

fn server() -> Shared {
    Shared::of(Cluster::quick)
}

/// A role of its own with a table of jobs that has no status, as queues have it: a job runs while it is locked. Returns
/// the owner's session.
fn queue(database: &Database<'_>, role: &str) -> Client {
    let mut client = database.connect();
    run(
        &mut client,
        &format!(
            "CREATE ROLE {role} LOGIN;
             CREATE SCHEMA {role} AUTHORIZATION {role};
             GRANT EXECUTE ON FUNCTION rgrid_watch_function(regprocedure, regprocedure, text),
                 rgrid_unwatch_function(regprocedure) TO {role}"
        ),
    );
    let mut owner = database.connect_as(role);
    run(
        &mut owner,
        "CREATE TABLE jobs (id bigint PRIMARY KEY, locked_by text, attempts int NOT NULL DEFAULT 0);
         CREATE TABLE calls (workers text[], message text, at timestamptz, role name, n serial);
         CREATE FUNCTION settle(worker_ids text[], message text, declared_dead_at timestamptz)
             RETURNS TABLE (worker_id text, job_key text, requeued boolean) LANGUAGE plpgsql
             SET search_path FROM CURRENT AS $$BEGIN
                 INSERT INTO calls VALUES (worker_ids, message, declared_dead_at, current_user);
                 RETURN QUERY
                     WITH gone AS (SELECT j.id, j.locked_by FROM jobs j WHERE j.locked_by = ANY (worker_ids) FOR UPDATE)
                     UPDATE jobs j SET locked_by = NULL, attempts = attempts + 1 FROM gone
                     WHERE j.id = gone.id RETURNING gone.locked_by, j.id::text, j.attempts < 3;
             END$$;
         CREATE FUNCTION running(worker_ids text[]) RETURNS TABLE (worker_id text, job_key text)
             LANGUAGE sql SET search_path FROM CURRENT AS
             $$SELECT locked_by, id::text FROM jobs WHERE locked_by = ANY (worker_ids)$$",
    );
    owner
}

const SETTLE: &str = "settle(text[], text, timestamptz)";

/// A worker of the queue is silent, with a job.
fn lost(client: &mut Client, owner: &mut Client, worker: &str, job: i64) {
    run(owner, &format!("INSERT INTO jobs VALUES ({job}, '{worker}')"));
    silent_worker(client, &format!("q:{worker}"));
}

fn is_free(owner: &mut Client, job: i64) -> bool {
    ask(owner, "SELECT locked_by IS NULL FROM jobs WHERE id = $1", &[&job])
}

fn unsettled(client: &mut Client) -> i64 {
    ask(client, "SELECT count(*) FROM rgrid_unsettled_calls", &[])
}

#[test]
fn a_death_is_told_to_the_function_with_the_rights_of_its_owner() {
    let cluster = server();
    let database = cluster.database("told");
    let mut client = database.connect();
    let mut owner = queue(&database, "told");
    run(&mut owner, &format!("SELECT public.rgrid_watch_function('{SETTLE}', 'running(text[])', 'q:')"));
    run(&mut client, "LISTEN rgrid_worker_dead");
    lost(&mut client, &mut owner, "7", 1);
    silent_worker(&mut client, "other:7");
    await_death(&mut client, "q:7");
    await_death(&mut client, "other:7");
    assert!(is_free(&mut owner, 1));
    let call: String = ask(
        &mut owner,
        "SELECT concat_ws(' ', workers, message, now() - at < interval '1 minute', role) FROM calls",
        &[],
    );
    assert_eq!(call, "{7} Worker died unexpectedly t told");
    assert_eq!(ledger(&mut client, "q:7"), ["1 stale 0 gone"]);
    let requeued: i64 = ask(
        &mut client,
        "SELECT jobs_requeued::bigint FROM rgrid_worker_deaths WHERE worker_id = 'q:7'",
        &[],
    );
    assert_eq!(requeued, 1);
    assert!(
        !cluster.log_lines_with(&["\"q:7\"", "declared dead", "requeued: 1"]).is_empty(),
        "the log says so"
    );
}

#[test]
fn what_a_dead_worker_claims_later_is_settled_too() {
    let cluster = server();
    let database = cluster.database("zombie");
    let mut client = database.connect();
    let mut owner = queue(&database, "zombie");
    run(&mut owner, &format!("SELECT public.rgrid_watch_function('{SETTLE}', 'running(text[])', 'q:')"));
    silent_worker(&mut client, "q:7");
    await_death(&mut client, "q:7");
    run(&mut owner, "INSERT INTO jobs VALUES (1, '7')");
    let found: i64 =
        ask(&mut client, "SELECT count(*) FROM rgrid_sweep(dry_run => true) WHERE worker_id = 'q:7'", &[]);
    assert!(found == 1 || is_free(&mut owner, 1), "a dry run shows it until a sweep has settled it");
    wait_until("the job to be free", || is_free(&mut owner, 1));
}

#[test]
fn a_function_that_returns_nothing_and_tells_nothing_will_do() {
    let cluster = server();
    let database = cluster.database("silent");
    let mut client = database.connect();
    let mut owner = queue(&database, "silent");
    run(
        &mut owner,
        "CREATE FUNCTION free(ids text[], message text, at timestamptz) RETURNS void LANGUAGE sql
             SET search_path FROM CURRENT AS 'UPDATE jobs SET locked_by = NULL WHERE locked_by = ANY (ids)';
         SELECT public.rgrid_watch_function('free(text[], text, timestamptz)', worker_prefix => 'q:')",
    );
    lost(&mut client, &mut owner, "7", 1);
    await_death(&mut client, "q:7");
    assert!(is_free(&mut owner, 1));
}

#[test]
fn a_call_that_fails_stops_no_death_and_no_other_worker_and_is_made_until_it_succeeds() {
    let cluster = server();
    let database = cluster.database("failing");
    let mut client = database.connect();
    let mut owner = queue(&database, "failing");
    run(&mut owner, &format!("SELECT public.rgrid_watch_function('{SETTLE}', 'running(text[])', 'q:')"));
    run(
        &mut owner,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN IF OLD.locked_by = 'bad' THEN RAISE 'not this one'; END IF; RETURN NEW; END$$;
         CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    for (job, worker) in ["bad", "good", "better"].into_iter().enumerate() {
        lost(&mut client, &mut owner, worker, job as i64);
    }
    for worker in ["q:bad", "q:good", "q:better"] {
        await_death(&mut client, worker);
    }
    wait_until("the others to be settled", || is_free(&mut owner, 1) && is_free(&mut owner, 2));
    assert!(!is_free(&mut owner, 0));
    let left: String = ask(
        &mut client,
        "SELECT string_agg(worker_id || ': ' || reason, ';') FROM rgrid_unsettled_calls",
        &[],
    );
    assert_eq!(left, "q:bad: not this one");
    let problem = "SELECT count(*) FROM pg_stat_rgrid_problems
                   WHERE problem = 'job queue' AND message LIKE '%not this one%'";
    wait_until("the problem to be shown", || ask::<i64>(&mut client, problem, &[]) > 0);
    let health =
        "SELECT detail FROM rgrid_health() WHERE check_name LIKE 'job queue function failing.settle%'";
    let detail: String = ask(&mut client, health, &[]);
    assert!(detail.contains("1 worker") && detail.contains("not this one"), "{detail}");
    run(&mut owner, "DROP TRIGGER refuse ON jobs");
    wait_until("it to be settled", || is_free(&mut owner, 0) && unsettled(&mut client) == 0);
    let requeued: i64 = ask(
        &mut client,
        "SELECT jobs_requeued::bigint FROM rgrid_worker_deaths WHERE worker_id = 'q:bad'",
        &[],
    );
    assert_eq!(requeued, 1, "it is added to the death");
}

#[test]
fn a_returning_worker_waits_until_its_earlier_jobs_are_settled_and_keeps_its_new_ones() {
    let cluster = server();
    let database = cluster.database("returns");
    let mut client = database.connect();
    let mut owner = queue(&database, "returns");
    run(&mut owner, &format!("SELECT public.rgrid_watch_function('{SETTLE}', worker_prefix => 'q:')"));
    run(&mut client, "SELECT rgrid_register('q:7')");
    run(&mut owner, "INSERT INTO jobs VALUES (1, '7')");
    run(&mut client, "SELECT rgrid_register('q:7')");
    assert!(is_free(&mut owner, 1), "that of the life before is settled when the call returns");
    let restarted: i64 = ask(
        &mut client,
        "SELECT jobs_requeued::bigint FROM rgrid_worker_deaths WHERE worker_id = 'q:7' AND reason = 'restarted'",
        &[],
    );
    assert_eq!(restarted, 1);
    let keeper = Beating::calling(database.connect(), "q:7");
    run(&mut owner, "INSERT INTO jobs VALUES (2, '7')");
    stays(Duration::from_secs(4), "its new job is its own", || !is_free(&mut owner, 2));
    drop(keeper);
}

#[test]
fn a_worker_whose_queue_cannot_be_settled_is_not_told_a_new_number() {
    let cluster = server();
    let database = cluster.database("kept_out");
    let mut client = database.connect();
    let mut owner = queue(&database, "kept_out");
    run(
        &mut owner,
        "CREATE FUNCTION fail(ids text[], message text, at timestamptz) RETURNS void LANGUAGE plpgsql AS
             $$BEGIN IF cardinality(ids) > 0 THEN RAISE 'never'; END IF; END$$;
         SELECT public.rgrid_watch_function('fail(text[], text, timestamptz)', worker_prefix => 'q:')",
    );
    silent_worker(&mut client, "q:7");
    await_death(&mut client, "q:7");
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_heartbeat('q:7')"), "55P03");
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_register('q:7')"), "55P03");
    assert_eq!(beat(&mut client, "somebody"), 1, "others are not kept out");
    let was_watched: bool =
        ask(&mut owner, "SELECT public.rgrid_unwatch_function('fail(text[], text, timestamptz)')", &[]);
    assert!(was_watched);
    assert_eq!(unsettled(&mut client), 0);
    assert_eq!(beat(&mut client, "q:7"), 2);
}

#[test]
fn a_worker_that_leaves_has_its_jobs_settled_by_the_next_sweep() {
    let cluster = server();
    let database = cluster.database("leaves");
    let mut client = database.connect();
    let mut owner = queue(&database, "leaves");
    run(&mut owner, &format!("SELECT public.rgrid_watch_function('{SETTLE}', worker_prefix => 'q:')"));
    run(&mut client, "SELECT rgrid_register('q:7')");
    run(&mut owner, "INSERT INTO jobs VALUES (1, '7')");
    run(&mut client, "SELECT rgrid_deregister('q:7')");
    wait_until("its job to be free", || is_free(&mut owner, 1) && unsettled(&mut client) == 0);
}

#[test]
fn a_worker_with_the_id_of_one_that_left_keeps_its_jobs() {
    let cluster = Shared::of(|| Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h"));
    let database = cluster.database("successor");
    let mut client = database.connect();
    let mut owner = queue(&database, "successor");
    run(&mut owner, &format!("SELECT public.rgrid_watch_function('{SETTLE}', worker_prefix => 'q:')"));
    let beats = [
        "rgrid_heartbeat('q:7')",
        "rgrid_heartbeat(ARRAY['q:7'])",
        "rgrid_heartbeat(ARRAY(SELECT 'q:' || n FROM generate_series(1, 100) n))",
        "rgrid_attach('q:7')",
        "rgrid_register('q:7')",
        "rgrid_register(ARRAY['q:7'])",
        "rgrid_register(ARRAY(SELECT 'q:' || n FROM generate_series(7, 50) n))",
    ];
    for beat in beats {
        run(&mut client, "SELECT rgrid_register('q:7')");
        run(&mut owner, "INSERT INTO jobs VALUES (1, '7')");
        run(&mut client, "SELECT rgrid_deregister('q:7')");
        assert_eq!((is_free(&mut owner, 1), unsettled(&mut client)), (false, 1));
        run(&mut client, &format!("SELECT {beat}"));
        assert_eq!((is_free(&mut owner, 1), unsettled(&mut client)), (true, 0), "{beat}");
        run(&mut client, "SELECT rgrid_deregister('q:7')");
        run(&mut owner, "DELETE FROM jobs");
    }
}

#[test]
fn a_function_hurts_nobody_but_its_own_queue() {
    let cluster = Shared::of(|| Cluster::quick().setting("rgrid_heartbeat.statement_timeout", "1s"));
    let database = cluster.database("hostile");
    let mut client = database.connect();
    let mut owner = queue(&database, "hostile");
    let bodies = [
        ("role", "SET LOCAL ROLE postgres"),
        ("leave", "CREATE TEMP TABLE left_behind ()"),
        ("listen", "LISTEN secrets"),
        ("write", "DELETE FROM public.rgrid_worker_deaths"),
        ("hang", "PERFORM pg_sleep(1000)"),
    ];
    for (name, body) in bodies {
        run(
            &mut owner,
            &format!(
                "CREATE FUNCTION {name}(ids text[], message text, at timestamptz) RETURNS void LANGUAGE plpgsql AS
                     $$BEGIN IF cardinality(ids) > 0 THEN {body}; END IF; END$$;
                 SELECT public.rgrid_watch_function('{name}(text[], text, timestamptz)')"
            ),
        );
    }
    silent_worker(&mut client, "7");
    claim_jobs(&mut client, "7", 1);
    await_death(&mut client, "7");
    assert_eq!(failed_jobs(&mut client, "7"), 1, "the tables are settled all the same");
    assert_eq!(unsettled(&mut client), bodies.len() as i64);
}

#[test]
fn only_the_owner_watches_a_function_and_only_one_that_fits() {
    let cluster = server();
    let database = cluster.database("refused");
    let mut client = database.connect();
    let mut owner = queue(&database, "refused");
    let mut other = queue(&database, "refused_other");
    run(&mut client, "GRANT USAGE ON SCHEMA refused TO refused_other");
    run(
        &mut other,
        "CREATE FUNCTION lost(ids text[], message text, at timestamptz) RETURNS void LANGUAGE plpgsql AS
             $$BEGIN UPDATE jobs SET locked_by = NULL WHERE locked_by = ANY (ids); END$$",
    );
    let watch = |what: &str| format!("SELECT public.rgrid_watch_function({what})");
    let refusals = [
        (format!("'refused.{SETTLE}'"), "42501"),
        (format!("'{SETTLE}', 'refused.running(text[])'"), "42501"),
        ("'running(text[])'".to_owned(), "42P13"),
        (format!("'{SETTLE}', '{SETTLE}'"), "42P13"),
        ("'pg_catalog.now()'".to_owned(), "42501"),
        ("NULL".to_owned(), "22004"),
        (format!("'{SETTLE}', worker_prefix => NULL"), "22004"),
        ("'lost(text[], text, timestamptz)'".to_owned(), "42P01"),
    ];
    for (arguments, code) in refusals {
        assert_eq!(sqlstate(&mut other, &watch(&arguments)), code, "{arguments}");
    }
    assert_eq!(
        sqlstate(&mut other, &format!("SELECT public.rgrid_unwatch_function('refused.{SETTLE}')")),
        "42501"
    );
    run(&mut owner, &watch(&format!("'{SETTLE}', 'running(text[])', 'q:'")));
    // A superuser's session calls no function of others, and a sweeper will.
    run(
        &mut client,
        "SET search_path = refused_other, public; SELECT rgrid_watch_function('lost(text[], text, timestamptz)', worker_prefix => 'none:'); SELECT rgrid_unwatch_function('lost(text[], text, timestamptz)'); RESET search_path",
    );
    // A function of another owner does not take the place of the one that was watched.
    run(&mut owner, &format!("DROP FUNCTION {SETTLE}"));
    run(&mut client, "GRANT CREATE ON SCHEMA refused TO refused_other");
    run(
        &mut other,
        "CREATE FUNCTION refused.settle(ids text[], message text, at timestamptz) RETURNS void LANGUAGE sql AS ''",
    );
    lost(&mut client, &mut owner, "7", 1);
    await_death(&mut client, "q:7");
    let reason: String = ask(&mut client, "SELECT reason FROM rgrid_unsettled_calls", &[]);
    assert!(reason.contains("belongs to") || reason.contains("role"), "{reason}");
}

#[test]
fn a_sweep_by_hand_calls_nothing_and_leaves_it_to_a_sweeper() {
    let cluster = Shared::of(|| Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h"));
    let database = cluster.database("by_hand");
    let mut client = database.connect();
    let mut owner = queue(&database, "by_hand");
    run(&mut owner, &format!("SELECT public.rgrid_watch_function('{SETTLE}', 'running(text[])', 'q:')"));
    lost(&mut client, &mut owner, "7", 1);
    sweep_away(&mut client, "q:7");
    assert!(!is_free(&mut owner, 1));
    assert_eq!(ask::<i64>(&mut owner, "SELECT count(*) FROM calls", &[]), 0);
    assert_eq!(unsettled(&mut client), 1);
    assert_eq!(beat(&mut client, "q:7"), 2, "a sweeper does it when the worker is back");
    assert!(is_free(&mut owner, 1));
    assert_eq!(unsettled(&mut client), 0);
}

#[test]
fn a_restored_database_settles_what_was_left() {
    let cluster = Cluster::quick().start();
    let (database, restored) = (cluster.database("dumped"), cluster.empty_database("restored"));
    let mut client = database.connect();
    let mut owner = queue(&database, "dumped");
    run(&mut owner, &format!("SELECT public.rgrid_watch_function('{SETTLE}', worker_prefix => 'q:')"));
    run(&mut owner, "ALTER TABLE calls ADD CONSTRAINT closed CHECK (message IS NULL)");
    lost(&mut client, &mut owner, "7", 1);
    await_death(&mut client, "q:7");
    assert_eq!(unsettled(&mut client), 1);
    cluster.run_script("pg_dump -Fc -f dumped dumped && pg_restore --exit-on-error -d restored dumped");
    let mut there = restored.connect_as("dumped");
    assert!(!is_free(&mut there, 1));
    run(&mut there, "ALTER TABLE calls DROP CONSTRAINT closed");
    wait_until("it to be settled there", || {
        is_free(&mut there, 1) && unsettled(&mut restored.connect()) == 0
    });
    assert!(!is_free(&mut owner, 1));
}
