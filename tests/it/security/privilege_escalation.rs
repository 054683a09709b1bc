//! Code of a table's owner that a settlement sets off, trying to become more than its owner: by the sweeper, by a
//! sweep by hand, and in the session of a worker that registers again or comes back.

use crate::cluster::*;
use postgres::Client;

/// Sweepers are at work all the time.
fn swept() -> Shared {
    Shared::of(|| Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1s"))
}

/// Only sessions sweep.
fn by_hand() -> Shared {
    Shared::of(|| Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h"))
}

/// A role, its schema, and functions that try every way up, hide that they failed, and note as whom they ran.
/// The one with an argument claims to be immutable, as generated columns and indexes want it.
const ARMS: &str = "
    CREATE ROLE @me LOGIN;
    CREATE SCHEMA @me AUTHORIZATION @me;
    GRANT CREATE ON SCHEMA public TO @me;
    CREATE TABLE @me.runs (run_as name, session name, codes text[]);
    ALTER TABLE @me.runs OWNER TO @me;
    CREATE FUNCTION @me.climb() RETURNS boolean LANGUAGE plpgsql AS $f$
    DECLARE
        attempt text;
        codes text[] := '{}';
    BEGIN
        FOREACH attempt IN ARRAY ARRAY[
            'ALTER ROLE @me SUPERUSER', 'SET ROLE postgres', 'RESET ROLE', 'SET SESSION AUTHORIZATION postgres',
            'RESET SESSION AUTHORIZATION', 'GRANT pg_execute_server_program TO @me', 'CREATE TEMP TABLE left_behind ()',
            'PREPARE left_behind AS SELECT 1', 'DECLARE left_behind CURSOR WITH HOLD FOR SELECT 1',
            'ALTER ROLE @me SUPERUSER'] LOOP
            BEGIN
                EXECUTE attempt;
                codes := codes || '00000'::text;
            EXCEPTION WHEN OTHERS THEN
                codes := codes || SQLSTATE::text;
            END;
        END LOOP;
        IF session_user <> '@me' THEN
            PERFORM set_config('search_path', '@me', false), set_config('application_name', '@me', false);
        END IF;
        INSERT INTO @me.runs VALUES (current_user, session_user, codes);
        RETURN true;
    END$f$;
    CREATE FUNCTION @me.climb(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
        $f$BEGIN RETURN (SELECT @me.climb()); END$f$;
    CREATE FUNCTION @me.climbing() RETURNS trigger LANGUAGE plpgsql AS
        $f$BEGIN PERFORM @me.climb(); RETURN NEW; END$f$;";

/// Lets jobs of a table that was armed by its owner be settled in each way, on each server, and looks at what became
/// of it. Whether the owner's code has run at all is for the caller to say.
fn gains_nothing(me: &str, arm: &str, runs: bool) {
    for (server, sweepers) in [(swept(), true), (by_hand(), false)] {
        let database = server.database(me);
        let mut client = database.connect();
        run(&mut client, &format!("{ARMS} ALTER TABLE executions OWNER TO @me").replace("@me", me));
        let mut owner = database.connect_as(me);
        run(&mut owner, &arm.replace("@me", me));
        claim_jobs(&mut owner, "silent", 1);
        silent_worker(&mut client, "silent");
        if sweepers {
            await_death(&mut client, "silent");
        } else {
            sweep_away(&mut client, "silent");
        }
        assert_eq!(failed_jobs(&mut client, "silent"), 1, "the sweep");
        run(&mut client, "SELECT rgrid_register('restarted')");
        claim_jobs(&mut owner, "restarted", 1);
        run(&mut client, "SELECT rgrid_register('restarted')");
        assert_eq!(failed_jobs(&mut client, "restarted"), 1, "the registration");
        claim_jobs(&mut owner, "silent", 1);
        beat(&mut client, "silent");
        assert_eq!(failed_jobs(&mut client, "silent"), 2, "the return");
        assert_ran_as_owner(&mut client, me, runs);
        assert_eq!(
            session(&mut client),
            session(&mut database.connect()),
            "the caller's session is as it was"
        );
    }
}

/// What a session could have been left with.
fn session(client: &mut Client) -> String {
    let sql = "SELECT concat_ws('|', current_user, session_user, current_setting('search_path'),
                   current_setting('application_name'), current_setting('row_security'),
                   (SELECT count(*) FROM pg_prepared_statements WHERE from_sql),
                   (SELECT count(*) FROM pg_class WHERE relname = 'left_behind'))";
    ask(client, sql, &[])
}

/// The code ran as its owner and was refused at each of its attempts. What it did in its owner's own session, when jobs
/// were claimed, does not count.
fn assert_ran_as_owner(client: &mut Client, me: &str, runs: bool) {
    let others = format!("FROM {me}.runs WHERE session <> '{me}'");
    assert_eq!(ask::<bool>(client, &format!("SELECT count(*) > 0 {others}"), &[]), runs, "its code ran");
    let sql = format!(
        "SELECT coalesce(string_agg(DISTINCT concat_ws(' ', run_as, session, codes), '; '), '') {others}
         AND (run_as <> '{me}' OR NOT codes <@ '{{42501}}')"
    );
    assert_eq!(ask::<String>(client, &sql, &[]), "", "everything was refused");
    let sql = "SELECT rolsuper OR EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid)
               FROM pg_roles r WHERE rolname = $1";
    assert!(!ask::<bool>(client, sql, &[&me]), "{me} is what it was");
}

#[test]
fn a_trigger_runs_as_the_owner() {
    let arm =
        "CREATE TRIGGER climbing AFTER UPDATE ON executions FOR EACH ROW EXECUTE FUNCTION @me.climbing();
               CREATE TRIGGER all_climbing BEFORE UPDATE ON executions FOR EACH STATEMENT
                   EXECUTE FUNCTION @me.climbing()";
    gains_nothing("triggering", arm, true);
}

/// A trigger that lets its refusal show: then the jobs stay as they are, until it is gone.
#[test]
fn a_refused_trigger_delays_no_other_database() {
    let server = swept();
    let (hostile, peaceful) = (server.database("hostile"), server.database("peaceful"));
    let (mut client, mut elsewhere) = (hostile.connect(), peaceful.connect());
    run(
        &mut client,
        "CREATE ROLE mallory LOGIN; CREATE SCHEMA mallory AUTHORIZATION mallory;
         ALTER TABLE executions OWNER TO mallory; SET ROLE mallory;
         CREATE FUNCTION mallory.rise() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN ALTER ROLE mallory SUPERUSER; RETURN new; END$$;
         CREATE TRIGGER rise BEFORE UPDATE ON executions FOR EACH ROW WHEN (new.status = 'failed')
             EXECUTE FUNCTION mallory.rise();
         RESET ROLE",
    );
    claim_jobs(&mut client, "victim", 2);
    silent_worker(&mut client, "victim");
    wait_until("a message about the refusal", || {
        let lines = server.log_lines_with(&["could not settle jobs in table public.executions"]);
        // PostgreSQL 15 says the one, later versions the other.
        lines.iter().any(|line| line.contains("superuser") || line.contains("denied to alter role"))
    });
    let _ = client.batch_execute("SELECT rgrid_sweep()");
    claim_jobs(&mut elsewhere, "other-victim", 1);
    await_sweep(&mut elsewhere, "other-victim");
    assert_eq!(failed_jobs(&mut elsewhere, "other-victim"), 1);

    assert!(!is_superuser(&mut client, "mallory"));
    assert_eq!(jobs(&mut client, "victim", "running"), 2);
    await_death(&mut client, "victim");
    run(&mut client, "ALTER TABLE executions DISABLE TRIGGER rise");
    wait_until("the jobs to be settled", || failed_jobs(&mut client, "victim") == 2);
    assert_eq!(deaths(&mut client, "victim"), 1);
}

#[test]
fn a_rule_runs_as_the_owner() {
    let arm = "CREATE TABLE @me.notes (note boolean);
               CREATE RULE climbing AS ON UPDATE TO executions DO ALSO INSERT INTO @me.notes SELECT @me.climb()";
    gains_nothing("ruling", arm, true);
}

#[test]
fn a_generated_column_runs_as_the_owner() {
    let arm =
        "ALTER TABLE executions ADD climbed boolean GENERATED ALWAYS AS (@me.climb(status::text)) STORED";
    gains_nothing("generating", arm, true);
}

#[test]
fn the_check_of_a_domain_runs_as_the_owner() {
    let arm = "CREATE DOMAIN @me.word AS text CHECK (@me.climb(VALUE)); ALTER TABLE executions ALTER status TYPE @me.word";
    gains_nothing("checking", arm, true);
}

#[test]
fn a_check_constraint_runs_as_the_owner() {
    gains_nothing("constraining", "ALTER TABLE executions ADD CHECK (@me.climb(status))", true);
}

#[test]
fn an_index_on_an_expression_runs_as_the_owner() {
    gains_nothing("indexing", "CREATE INDEX ON executions ((@me.climb(status)))", true);
}

#[test]
fn a_policy_does_not_run() {
    let arm = "ALTER TABLE executions ENABLE ROW LEVEL SECURITY;
               CREATE POLICY climbing ON executions USING (@me.climb())";
    gains_nothing("governing", arm, false);
}

#[test]
fn a_policy_that_its_owner_is_under_hides_no_job_silently_and_does_not_run() {
    let server = swept();
    let database = server.database("forcing");
    let mut client = database.connect();
    run(&mut client, &format!("{ARMS} ALTER TABLE executions OWNER TO @me").replace("@me", "forcing"));
    claim_jobs(&mut client, "silent", 1);
    run(
        &mut database.connect_as("forcing"),
        "ALTER TABLE executions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE POLICY climbing ON executions USING (forcing.climb())",
    );
    silent_worker(&mut client, "silent");
    wait_until("a message about row security", || {
        !server.log_lines_with(&["rgrid_heartbeat sweeper", "row-level security"]).is_empty()
    });
    await_death(&mut client, "silent");
    run(&mut client, "SELECT rgrid_sweep()");
    assert_eq!(jobs(&mut client, "silent", "running"), 1, "the table refuses");
    run(&mut client, "ALTER TABLE executions NO FORCE ROW LEVEL SECURITY");
    wait_until("the job to be settled", || failed_jobs(&mut client, "silent") == 1);
    assert_ran_as_owner(&mut client, "forcing", false);
}

#[test]
fn watching_a_table_runs_the_domains_of_its_owner_as_the_owner() {
    let server = by_hand();
    let database = server.database("watching");
    let mut client = database.connect();
    run(&mut client, &ARMS.replace("@me", "watching"));
    run(
        &mut database.connect_as("watching"),
        "CREATE DOMAIN watching.word AS text CHECK (watching.climb(VALUE));
         CREATE TABLE watching.jobs (status watching.word, worker_id text)",
    );
    let call = "SELECT rgrid_watch_jobs('watching.jobs', error_column => NULL, finished_column => NULL)";
    run(&mut client, call);
    assert_ran_as_owner(&mut client, "watching", true);
    assert_eq!(session(&mut client), session(&mut database.connect()));
}

/// A table of jobs whose partition or child belongs to the superuser, as it does when the superuser has made it. The
/// parent's trigger is on the partition, too.
fn superusers_partition(me: &str, another: &str) {
    let server = by_hand();
    let database = server.database(me);
    let mut client = database.connect();
    run(&mut client, &ARMS.replace("@me", me));
    let mut owner = database.connect_as(me);
    let columns = "status text, worker_id text, execution_error text, completed_at timestamp, place int";
    run(&mut owner, &format!("CREATE TABLE {me}.jobs ({columns}) PARTITION BY LIST (place)"));
    run(
        &mut owner,
        &format!(
            "CREATE TRIGGER climbing BEFORE UPDATE ON {me}.jobs FOR EACH ROW EXECUTE FUNCTION {me}.climbing()"
        ),
    );
    run(
        &mut client,
        &format!(
            "CREATE TABLE {me}.jobs_1 PARTITION OF {me}.jobs FOR VALUES IN (1); {another};
             GRANT SELECT, UPDATE ON {me}.jobs_1 TO {me};
             INSERT INTO {me}.jobs VALUES ('running', 'silent', NULL, NULL, 1);
             SELECT rgrid_watch_jobs('{me}.jobs')"
        ),
    );
    silent_worker(&mut client, "silent");
    sweep_away(&mut client, "silent");
    assert_eq!(ask::<String>(&mut client, &format!("SELECT status FROM {me}.jobs_1"), &[]), "failed");
    assert_ran_as_owner(&mut client, me, true);
}

#[test]
fn a_trigger_of_the_parents_owner_does_not_run_as_the_owner_of_a_partition() {
    superusers_partition("parenting", "SELECT");
}

#[test]
fn a_trigger_of_the_parents_owner_runs_as_itself_in_partitions_settled_alone() {
    // One part that is on another server, here one that cannot be reached at all, has each settled by itself.
    superusers_partition(
        "parting",
        "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
         CREATE FOREIGN TABLE parting.jobs_2 PARTITION OF parting.jobs FOR VALUES IN (2) SERVER nowhere",
    );
}

#[test]
fn a_trigger_on_a_child_does_not_run_as_the_parents_owner() {
    let server = by_hand();
    let database = server.database("inheriting");
    let mut client = database.connect();
    run(&mut client, &ARMS.replace("@me", "inheriting"));
    let columns = "status text, worker_id text, execution_error text, completed_at timestamp";
    run(
        &mut client,
        &format!(
            "CREATE TABLE jobs ({columns}); SELECT rgrid_watch_jobs('jobs');
             CREATE TABLE inheriting.child () INHERITS (jobs);
             ALTER TABLE inheriting.child OWNER TO inheriting;
             INSERT INTO inheriting.child VALUES ('running', 'silent')"
        ),
    );
    run(
        &mut database.connect_as("inheriting"),
        "CREATE TRIGGER climbing BEFORE UPDATE ON inheriting.child FOR EACH ROW
             EXECUTE FUNCTION inheriting.climbing()",
    );
    silent_worker(&mut client, "silent");
    sweep_away(&mut client, "silent");
    assert_ran_as_owner(&mut client, "inheriting", false);
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_watch_jobs('jobs')"), "42501");
    run(
        &mut client,
        "ALTER TABLE inheriting.child OWNER TO postgres; DROP TRIGGER climbing ON inheriting.child",
    );
    run(&mut client, "SELECT rgrid_sweep()");
    assert_eq!(
        ask::<String>(&mut client, "SELECT status FROM jobs", &[]),
        "failed",
        "it is settled once that is fixed"
    );
}

#[test]
fn event_triggers_are_for_superusers_and_a_sweep_sets_none_off() {
    let server = by_hand();
    let database = server.database("eventful");
    let mut client = database.connect();
    run(&mut client, &format!("{ARMS} ALTER TABLE executions OWNER TO @me").replace("@me", "eventful"));
    run(
        &mut client,
        "CREATE TABLE events (tag text);
         CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO public.events VALUES (tg_tag); END$$",
    );
    let create = "CREATE EVENT TRIGGER noting ON ddl_command_start EXECUTE FUNCTION note()";
    let mut owner = database.connect_as("eventful");
    assert_eq!(sqlstate(&mut owner, create), "42501");
    run(&mut client, create);
    claim_jobs(&mut owner, "silent", 1);
    silent_worker(&mut client, "silent");
    sweep_away(&mut client, "silent");
    beat(&mut client, "silent");
    assert_eq!(failed_jobs(&mut client, "silent"), 1);
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM events", &[]), 0);
}
