//! Who may do what, and that no role gets the rights of the extension by way of its tables.

use super::REFUSED;
use crate::cluster::*;
use postgres::Client;

fn server() -> Shared {
    Shared::of(|| Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1s"))
}

#[test]
fn a_worker_role_needs_execute_alone_and_may_do_no_more() {
    let cluster = server();
    let database = cluster.database("grants");
    let mut client = database.connect();
    let mut worker = tenant(&database, "plain_worker");
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
fn nothing_of_the_extension_is_granted_to_public() {
    let cluster = server();
    let database = cluster.database("public_rights");
    let mut client = database.connect();
    run(&mut client, "CREATE ROLE anybody LOGIN");
    let sql = "SELECT coalesce(string_agg(d.objid::regprocedure::text, ', '), '') FROM pg_depend d
               JOIN pg_extension x ON x.oid = d.refobjid AND x.extname = 'rgrid_heartbeat'
               WHERE d.deptype = 'e' AND d.classid = 'pg_proc'::regclass
                 AND has_function_privilege('anybody', d.objid, 'EXECUTE')";
    // A trigger function, which a table's owner must be allowed to name; called by hand it only raises an error.
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
        ("SELECT rgrid_rehearse('theirs')", "42501"),
        ("INSERT INTO rgrid_tried_tables VALUES ('theirs'::regclass, now())", "42501"),
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
    let mut worker = tenant(&database, "trusting_worker");
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
fn default_privileges_give_no_right_on_the_extensions_objects() {
    let cluster = Cluster::quick().start();
    let database = cluster.empty_database("granted_by_default");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE ROLE granted LOGIN;
         CREATE SCHEMA granted AUTHORIZATION granted;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO granted, PUBLIC;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO granted, pg_monitor;
         CREATE EXTENSION rgrid_heartbeat",
    );
    executions_table(&mut client);
    let given = "SELECT coalesce(string_agg(c.oid::regclass::text, ' '), '')
                 FROM pg_class c JOIN pg_depend d ON d.objid = c.oid AND d.deptype = 'e'
                 WHERE has_table_privilege('granted', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRIGGER, TRUNCATE')";
    assert_eq!(ask::<String>(&mut client, given, &[]), "");
    assert_eq!(callable(&mut client, "granted"), "rgrid_fence_violated");
    assert_eq!(callable(&mut client, "pg_monitor"), MONITORING);
    assert!(ask::<bool>(
        &mut client,
        "SELECT has_table_privilege('pg_monitor', 'rgrid_worker_deaths', 'SELECT')",
        &[]
    ));
}

/// What a member of pg_monitor may call, with what everybody may.
const MONITORING: &str = "rgrid_fence_violated rgrid_health rgrid_stale_workers rgrid_stat_attached \
                          rgrid_stat_databases rgrid_stat_problems rgrid_worker_states";

/// The functions of the extension that a role may call.
fn callable(client: &mut Client, role: &str) -> String {
    let sql = "SELECT coalesce(string_agg(p.proname, ' ' ORDER BY p.proname COLLATE \"C\"), '')
               FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e'
                    JOIN pg_extension x ON x.oid = d.refobjid AND x.extname = 'rgrid_heartbeat'
               WHERE has_function_privilege($1, p.oid, 'EXECUTE')";
    ask(client, sql, &[&role])
}

#[test]
fn an_update_gives_no_right_but_its_own_and_takes_back_those_on_tables() {
    // Without sweepers, which would take them back, too.
    let cluster = Cluster::quick().preload(false).start();
    let mut client = cluster.empty_database("granted_by_update").connect();
    run(
        &mut client,
        "CREATE ROLE granted; CREATE EXTENSION rgrid_heartbeat VERSION '0.1.0';
         GRANT ALL ON ALL TABLES IN SCHEMA public TO granted; GRANT UPDATE (reason) ON rgrid_worker_deaths TO PUBLIC;
         GRANT EXECUTE ON FUNCTION rgrid_register(text, text), rgrid_sweep(boolean) TO granted;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO granted;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO granted, pg_monitor;
         ALTER EXTENSION rgrid_heartbeat UPDATE",
    );
    let writable = "SELECT string_agg(DISTINCT c.relname || ' ' || p.name, ', ' ORDER BY c.relname || ' ' || p.name)
        FROM pg_class c JOIN pg_depend d ON d.objid = c.oid AND d.deptype = 'e' AND d.classid = 'pg_class'::regclass,
             unnest('{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS p (name)
        WHERE has_table_privilege('granted', c.oid, p.name)
           OR p.name IN ('INSERT', 'UPDATE', 'REFERENCES') AND has_any_column_privilege('granted', c.oid, p.name)";
    let harmless = "worker_heartbeats DELETE, worker_heartbeats INSERT, worker_heartbeats UPDATE";
    assert_eq!(ask::<String>(&mut client, writable, &[]), harmless);
    // What an operator has granted on purpose stays.
    assert_eq!(callable(&mut client, "granted"), "rgrid_fence_violated rgrid_register rgrid_sweep");
    // Of rights on rgrid_sweep(), 0.2.0 has not kept which were given by default.
    let with_sweep = MONITORING.replace("rgrid_worker_states", "rgrid_sweep rgrid_worker_states");
    assert_eq!(callable(&mut client, "pg_monitor"), with_sweep);
}
