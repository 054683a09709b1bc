//! Who may do what, and that nobody gets the rights of the extension by way of its tables.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;

use cluster::*;
use postgres::Client;
use std::sync::OnceLock;

const REFUSED: &str = "42501";

fn server() -> Shared {
    static SERVER: OnceLock<Cluster> = OnceLock::new();
    Shared::of(&SERVER, || Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1s"))
}

fn create_worker_role(client: &mut Client, role: &str) {
    run(
        client,
        &format!(
            "CREATE ROLE {role} LOGIN;
             GRANT EXECUTE ON FUNCTION rgrid_heartbeat(text, text), rgrid_register(text, text),
                 rgrid_deregister(text) TO {role}"
        ),
    );
}

#[test]
fn a_worker_role_needs_execute_alone_and_may_do_no_more() {
    let cluster = server();
    let database = cluster.database("grants");
    let mut client = database.connect();
    create_worker_role(&mut client, "plain_worker");
    let mut worker = database.connect_as("plain_worker");
    let incarnation: i64 = ask(&mut worker, "SELECT incarnation FROM rgrid_register('granted')", &[]);
    assert_eq!(incarnation, 1);
    assert_eq!(ask::<i64>(&mut worker, "SELECT rgrid_heartbeat('granted')", &[]), 1);
    claim_jobs(&mut client, "granted", 2);
    assert!(ask::<bool>(&mut worker, "SELECT rgrid_deregister('granted')", &[]));
    assert_eq!(failed_jobs(&mut client, "granted"), 2, "its jobs are settled with their owner's rights");

    for refused in [
        "SELECT * FROM worker_heartbeats",
        "DELETE FROM worker_heartbeats",
        "SELECT * FROM rgrid_worker_deaths",
        "DELETE FROM rgrid_worker_deaths",
        "INSERT INTO rgrid_job_tables SELECT",
        "SELECT * FROM executions",
        "SELECT rgrid_sweep()",
        "SELECT rgrid_sweep(dry_run => true)",
        "SELECT rgrid_stale_workers()",
        "SET rgrid_heartbeat.stale_threshold = '1h'",
    ] {
        assert_eq!(sqlstate(&mut worker, refused), REFUSED, "{refused}");
    }
    drop(worker);
    run(&mut client, "DROP OWNED BY plain_worker; DROP ROLE plain_worker");
}

#[test]
fn a_role_without_grants_may_call_nothing() {
    let cluster = server();
    let database = cluster.database("nogrants");
    run(&mut database.connect(), "CREATE ROLE stranger LOGIN");
    let mut stranger = database.connect_as("stranger");
    for call in ["rgrid_heartbeat('x')", "rgrid_register()", "rgrid_deregister('x')", "rgrid_sweep()"] {
        assert_eq!(sqlstate(&mut stranger, &format!("SELECT {call}")), REFUSED, "{call}");
    }
}

#[test]
fn nothing_of_the_extension_is_everybodys() {
    let cluster = server();
    let database = cluster.database("public_rights");
    let mut client = database.connect();
    run(&mut client, "CREATE ROLE anybody LOGIN");
    let sql = "SELECT coalesce(string_agg(d.objid::regprocedure::text, ', '), '') FROM pg_depend d
               JOIN pg_extension x ON x.oid = d.refobjid AND x.extname = 'rgrid_heartbeat'
               WHERE d.deptype = 'e' AND d.classid = 'pg_proc'::regclass
                 AND has_function_privilege('anybody', d.objid, 'EXECUTE')";
    // A trigger function, which nobody can call, and which a table's owner must be allowed to name.
    assert_eq!(ask::<String>(&mut client, sql, &[]), "rgrid_fence_violated()");
    let sql = "SELECT coalesce(string_agg(d.objid::regclass::text, ', '), '') FROM pg_depend d
               JOIN pg_class c ON c.oid = d.objid
               WHERE d.deptype = 'e' AND d.classid = 'pg_class'::regclass AND c.relkind IN ('r', 'v')
                 AND has_table_privilege('anybody', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES')";
    assert_eq!(ask::<String>(&mut client, sql, &[]), "");
    run(&mut client, "DROP ROLE anybody");
}

#[test]
fn a_role_with_every_function_has_no_table() {
    let cluster = server();
    let database = cluster.database("functions");
    let mut client = database.connect();
    create_attacker(&mut client, "caller");
    run(&mut client, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO caller");
    run(&mut client, "CREATE TABLE theirs (LIKE executions); SELECT rgrid_watch_jobs('theirs')");
    let mut caller = database.connect_as("caller");
    run(
        &mut caller,
        "CREATE TABLE caller.parent (status text, worker_id text, execution_error text, completed_at timestamp)",
    );
    for (refused, code) in [
        ("SELECT rgrid_watch_jobs('executions')", "42501"),
        ("SELECT rgrid_watch_jobs('theirs', dead_status => 'completed')", "42501"),
        ("SELECT rgrid_unwatch_jobs('theirs')", "42501"),
        ("SELECT rgrid_unwatch_jobs('executions')", "42501"),
        ("SELECT rgrid_watch_jobs('pg_authid', 'rolname', 'rolname')", "42501"),
        ("SELECT rgrid_watch_jobs('rgrid_worker_deaths', 'worker_id', 'reason')", "42501"),
        ("SELECT rgrid_watch_jobs('worker_heartbeats', 'worker_id', 'hostname')", "42501"),
        ("ALTER TABLE theirs INHERIT caller.parent", "42501"),
        ("CREATE TABLE caller.heir () INHERITS (theirs)", "42501"),
        (
            "CREATE TRIGGER climbing BEFORE UPDATE ON theirs FOR EACH ROW EXECUTE FUNCTION caller.climbing()",
            "42501",
        ),
        ("CREATE RULE climbing AS ON UPDATE TO rgrid_worker_deaths DO ALSO SELECT caller.climb('')", "42501"),
        ("UPDATE rgrid_job_tables SET job_table = 'pg_authid'", "42501"),
        ("UPDATE worker_heartbeats SET last_heartbeat_at = now()", "42501"),
        ("SELECT status FROM theirs", "42501"),
        ("SELECT rgrid_installed()", "42883"),
    ] {
        assert_eq!(sqlstate(&mut caller, refused), code, "{refused}");
    }
}

#[test]
fn objects_of_the_caller_catch_nothing() {
    let cluster = server();
    let database = cluster.database("shadows");
    let mut client = database.connect();
    create_worker_role(&mut client, "shadow_worker");
    run(&mut client, "CREATE SCHEMA shadow_worker AUTHORIZATION shadow_worker");
    let mut worker = database.connect_as("shadow_worker");
    run(
        &mut worker,
        "CREATE TABLE shadow_worker.worker_heartbeats (worker_id text, hostname text,
             last_heartbeat_at timestamptz);
         CREATE TEMP TABLE worker_heartbeats (worker_id text, hostname text, last_heartbeat_at timestamptz);
         CREATE TEMP TABLE rgrid_worker_deaths (worker_id text, incarnation bigint);
         CREATE FUNCTION shadow_worker.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
             $$BEGIN RAISE 'called as %', current_user; END$$;
         CREATE FUNCTION shadow_worker.always(text, text) RETURNS boolean LANGUAGE plpgsql AS
             $$BEGIN RAISE 'called as %', current_user; END$$;
         CREATE OPERATOR shadow_worker.= (LEFTARG = text, RIGHTARG = text, FUNCTION = shadow_worker.always);
         SET search_path = shadow_worker, pg_catalog, public",
    );
    assert_eq!(ask::<i64>(&mut worker, "SELECT public.rgrid_heartbeat('seen')", &[]), 1);
    run(&mut worker, "SELECT public.rgrid_register('seen-too'), public.rgrid_deregister('seen-too')");
    let sql = "SELECT count(*) FROM public.worker_heartbeats WHERE worker_id = 'seen'";
    assert_eq!(ask::<i64>(&mut client, sql, &[]), 1);
}

/// A database whose `executions` belongs to an ordinary role, with a trigger of hers on every update.
fn executions_with_a_trigger(client: &mut Client, owner: &str, body: &str) {
    run(client, &format!("CREATE ROLE {owner} LOGIN; CREATE SCHEMA {owner} AUTHORIZATION {owner}"));
    run(client, &format!("ALTER TABLE executions OWNER TO {owner}; SET ROLE {owner}"));
    let function = format!(
        "CREATE FUNCTION {owner}.rise() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} RETURN new; END$$;
         CREATE TRIGGER rise BEFORE UPDATE ON executions FOR EACH ROW WHEN (new.status = 'failed')
             EXECUTE FUNCTION {owner}.rise()"
    );
    run(client, &function);
    run(client, "RESET ROLE");
}

#[test]
fn a_trigger_that_wants_to_be_superuser_is_refused_and_delays_nobody_else() {
    let cluster = server();
    let (hostile, peaceful) = (cluster.database("hostile"), cluster.database("peaceful"));
    let (mut client, mut elsewhere) = (hostile.connect(), peaceful.connect());
    executions_with_a_trigger(&mut client, "mallory", "ALTER ROLE mallory SUPERUSER;");
    claim_jobs(&mut client, "victim", 2);
    silent_worker(&mut client, "victim");
    wait_until("a message about the refusal", || {
        let lines = cluster.log_lines_with(&["rgrid_heartbeat sweeper"]);
        lines.iter().any(|line| line.contains("superuser") || line.contains("executions"))
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

/// Tries every way up without letting its failure show, and notes as whom it ran.
const SLY_ATTEMPTS: &str = "
    DECLARE attempt text;
    BEGIN
        FOREACH attempt IN ARRAY ARRAY['ALTER ROLE sly SUPERUSER', 'SET ROLE postgres', 'RESET ROLE',
                                       'RESET SESSION AUTHORIZATION', 'ALTER ROLE sly SUPERUSER'] LOOP
            BEGIN EXECUTE attempt; EXCEPTION WHEN OTHERS THEN NULL; END;
            new.stderr := concat_ws(' ', new.stderr, current_user);
        END LOOP;
    END;";

#[test]
fn a_trigger_that_hides_its_refusal_gains_nothing() {
    let cluster = server();
    let database = cluster.database("sly");
    let mut client = database.connect();
    executions_with_a_trigger(&mut client, "sly", SLY_ATTEMPTS);
    claim_jobs(&mut client, "victim", 1);
    await_sweep(&mut client, "victim");
    wait_until("the job to be settled", || failed_jobs(&mut client, "victim") == 1);
    assert!(!is_superuser(&mut client, "sly"));
    assert_eq!(ask::<String>(&mut client, "SELECT stderr FROM executions", &[]), "sly sly sly sly sly");
}

#[test]
fn a_trigger_on_an_adopted_heartbeat_table_gains_nothing() {
    let cluster = server();
    let database = cluster.rgrid_database("adopted");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE ROLE trudy LOGIN;
         CREATE SCHEMA trudy AUTHORIZATION trudy;
         ALTER TABLE workers OWNER TO trudy;
         ALTER TABLE worker_heartbeats OWNER TO trudy;
         INSERT INTO workers (worker_id, status, max_concurrent, created_at) VALUES ('w', 'active', 2, now());
         SET ROLE trudy;
         CREATE FUNCTION trudy.rise() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             BEGIN ALTER ROLE trudy SUPERUSER; EXCEPTION WHEN OTHERS THEN NULL; END;
             RETURN coalesce(new, old);
         END$$;
         CREATE TRIGGER rise BEFORE INSERT OR UPDATE OR DELETE ON worker_heartbeats
             FOR EACH ROW EXECUTE FUNCTION trudy.rise();
         RESET ROLE",
    );
    create_worker_role(&mut client, "trusting_worker");
    let mut worker = database.connect_as("trusting_worker");
    for call in
        ["rgrid_heartbeat('w')", "rgrid_register('w')", "rgrid_heartbeat('w')", "rgrid_deregister('w')"]
    {
        worker.batch_execute(&format!("SELECT {call}")).unwrap_or_else(|error| panic!("{call}: {error:?}"));
        assert!(!is_superuser(&mut client, "trudy"), "{call}");
    }
    run(&mut worker, "SELECT rgrid_heartbeat('w')");
    wait_until("the death of w", || {
        ask(&mut client, "SELECT count(*) > 0 FROM rgrid_worker_deaths WHERE reason = 'stale'", &[])
    });
    assert!(!is_superuser(&mut client, "trudy"), "the sweep");
}

#[test]
fn forced_row_security_hides_no_job_silently() {
    let cluster = server();
    let database = cluster.database("policies");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE ROLE secretive LOGIN;
         ALTER TABLE executions OWNER TO secretive;
         ALTER TABLE executions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    );
    claim_jobs(&mut client, "victim", 1);
    silent_worker(&mut client, "victim");
    wait_until("a message about row security", || {
        !cluster.log_lines_with(&["rgrid_heartbeat sweeper", "row-level security"]).is_empty()
    });
    run(&mut client, "ALTER TABLE executions NO FORCE ROW LEVEL SECURITY");
    wait_until("the job to be settled", || failed_jobs(&mut client, "victim") == 1);
}
