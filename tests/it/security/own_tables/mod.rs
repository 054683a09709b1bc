//! The extension's own tables belong to nobody else: what roles attach to them, once they were given rights on them or
//! the tables themselves, does not run, and stops no death.

mod given_away;
mod references;
mod registry;

use crate::cluster::*;
use postgres::Client;

fn swept() -> Shared {
    Shared::of(|| Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1s"))
}

/// Sweepers come when they are called for.
fn called() -> Shared {
    Shared::of(|| Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h"))
}

/// A role that means harm, with functions as the places want them in which it puts code.
fn create_owner(client: &mut Client, me: &str) {
    create_attacker(client, me);
    let functions = "
        CREATE FUNCTION @me.sly(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
            $f$BEGIN PERFORM set_config('a.b', @me.climb($1)::text, true); RETURN true; END$f$;
        CREATE FUNCTION @me.word(text) RETURNS text LANGUAGE plpgsql AS
            $f$BEGIN PERFORM @me.climb($1); RETURN $1; END$f$;";
    run(client, &functions.replace("@me", me));
}

/// A worker that fell silent, and its job.
fn silent_with_job(client: &mut Client, worker: &str) {
    claim_jobs(client, worker, 1);
    silent_worker(client, worker);
}

/// A worker that is registered anew and leaves, with jobs: every way in which a session uses the tables.
fn lead_a_life(client: &mut Client, worker: &str) {
    run(client, &format!("SELECT rgrid_register('{worker}'), rgrid_heartbeat('{worker}')"));
    claim_jobs(client, worker, 1);
    run(client, &format!("SELECT rgrid_register('{worker}')"));
    assert_eq!(failed_jobs(client, worker), 1, "the job of the earlier {worker}");
    run(client, &format!("SELECT rgrid_deregister('{worker}')"));
}

const TABLES: [&str; 12] = [
    "worker_heartbeats",
    "rgrid_worker_deaths",
    "rgrid_job_tables",
    "rgrid_job_table_oids",
    "rgrid_job_attempts",
    "rgrid_job_queues",
    "rgrid_unsettled_calls",
    "rgrid_incarnations",
    "rgrid_incarnation_bases",
    "rgrid_worker_owners",
    "rgrid_unsettled_jobs",
    "rgrid_tried_tables",
];

#[test]
fn rights_that_were_granted_later_are_taken_back_once_and_others_stay() {
    let cluster = swept();
    let database = cluster.database("granted_later");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE ROLE generous LOGIN; CREATE ROLE reader LOGIN; GRANT SELECT ON rgrid_worker_deaths TO reader;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO generous WITH GRANT OPTION;
         GRANT UPDATE (returned_at) ON rgrid_worker_deaths TO PUBLIC;
         CREATE TABLE theirs (); GRANT ALL ON theirs TO generous",
    );
    let left = "SELECT coalesce(string_agg(format('%s %s', c.relname, a.privilege_type), ', ' ORDER BY c.relname, a.privilege_type), '')
                FROM pg_class c JOIN pg_depend d ON d.objid = c.oid AND d.deptype = 'e' AND c.relkind = 'r',
                     aclexplode(c.relacl) a WHERE a.grantee = 'generous'::regrole AND a.privilege_type <> 'SELECT'";
    let harmless = "worker_heartbeats DELETE, worker_heartbeats INSERT, worker_heartbeats UPDATE";
    wait_until("the rights to be back", || ask::<String>(&mut client, left, &[]) == harmless);
    let others = "SELECT has_table_privilege('reader', 'rgrid_worker_deaths', 'SELECT')
                      AND has_table_privilege('generous', 'theirs', 'TRIGGER')
                      AND NOT has_column_privilege('reader', 'rgrid_worker_deaths', 'returned_at', 'UPDATE')";
    assert!(ask::<bool>(&mut client, others, &[]));
    silent_with_job(&mut client, "victim");
    await_death(&mut client, "victim");
    let lines =
        cluster.log_lines_with(&["what is not its own: ", "TRIGGER", "generous on public.rgrid_job_tables"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    await_end_of_problems(&mut client);
}

#[test]
fn a_trigger_on_any_of_the_tables_never_runs_and_stops_no_death() {
    let cluster = swept();
    for table in TABLES {
        let me = format!("on_{table}");
        let database = cluster.database(&me);
        let mut client = database.connect();
        create_attacker(&mut client, &me);
        silent_with_job(&mut client, "victim");
        run(&mut client, &format!("BEGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {me}; SET ROLE {me};
            CREATE TRIGGER climbing BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {me}.climbing();
            CREATE TRIGGER \"All\" AFTER INSERT OR UPDATE OR DELETE ON {table} EXECUTE FUNCTION {me}.climbing(); COMMIT; RESET ROLE"));
        await_death(&mut client, "victim");
        assert_eq!(failed_jobs(&mut client, "victim"), 1, "{table}");
        let enabled = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgenabled = 'O'";
        wait_until(&format!("the triggers on {table} to be disabled"), || {
            ask::<i64>(&mut client, enabled, &[]) == 0
        });
        lead_a_life(&mut client, "lively");
        assert!(!is_superuser(&mut client, &me), "{table}");
        let named = format!("trigger \"All\", climbing of public.{table}");
        assert_eq!(cluster.log_lines_with(&["what is not its own: ", &named]).len(), 1);
    }
}

#[test]
fn a_session_refuses_to_run_code_of_others_and_calls_a_sweeper() {
    let cluster = called();
    let database = cluster.database("refused");
    let mut client = database.connect();
    create_attacker(&mut client, "sudden");
    await_sweep_of(&mut client);
    lead_a_life(&mut client, "lively");
    run(
        &mut client,
        "BEGIN; GRANT TRIGGER ON rgrid_worker_deaths TO sudden; SET ROLE sudden;
         CREATE TRIGGER climbing BEFORE INSERT ON rgrid_worker_deaths FOR EACH ROW EXECUTE FUNCTION sudden.climbing();
         COMMIT; RESET ROLE",
    );
    // Its plans are from before, and the row is in memory: only a call that uses the ledger notices.
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_register('lively')"), "55000");
    wait_until("a sweeper to have disabled it", || {
        client.batch_execute("SELECT rgrid_register('lively')").is_ok()
    });
    lead_a_life(&mut client, "lively again");
    assert!(!is_superuser(&mut client, "sudden"));
    assert_eq!(own_objects(&mut client).0, "ok");
}

/// Waits for the sweep that follows CREATE EXTENSION, and the end of its sweeper: the next one would be in an hour.
fn await_sweep_of(client: &mut Client) {
    wait_until("the first sweep", || {
        let sql = "SELECT count(*) = 1 FROM pg_stat_rgrid_heartbeat s
                   WHERE datname = current_database() AND last_sweep_finished_at IS NOT NULL AND NOT EXISTS
                       (SELECT FROM pg_stat_activity a
                        WHERE a.datname = s.datname AND backend_type = 'rgrid_heartbeat sweeper')";
        ask(client, sql, &[])
    });
}

/// Waits until the last sweeper has met no problem.
fn await_end_of_problems(client: &mut Client) {
    wait_until("the problems to be over", || {
        let sql = "SELECT count(*) = 0 FROM pg_stat_rgrid_problems WHERE datname = current_database()";
        ask(client, sql, &[])
    });
}

fn own_objects(client: &mut Client) -> (String, String) {
    let sql = "SELECT status, detail FROM rgrid_health() WHERE check_name = 'own objects'";
    let row = client.query_one(sql, &[]).expect("there is such a check");
    (row.get(0), row.get(1))
}

#[test]
fn without_sweepers_a_sweep_by_hand_takes_back_what_is_not_ours() {
    let cluster = Cluster::quick().preload(false).start();
    let database = cluster.database("unloaded");
    let mut client = database.connect();
    create_attacker(&mut client, "patient");
    run(
        &mut client,
        "GRANT TRIGGER ON worker_heartbeats TO patient; SET ROLE patient;
         CREATE TRIGGER climbing BEFORE INSERT ON worker_heartbeats FOR EACH ROW EXECUTE FUNCTION patient.climbing();
         RESET ROLE",
    );
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_heartbeat('worker')"), "55000");
    let (status, detail) = own_objects(&mut client);
    assert_eq!(status, "error");
    assert!(detail.contains("trigger climbing of public.worker_heartbeats"), "{detail}");
    assert!(detail.contains("TRIGGER of patient on public.worker_heartbeats"), "{detail}");
    run(&mut client, "SELECT rgrid_sweep()");
    assert_eq!(own_objects(&mut client).0, "ok");
    assert_eq!(beat(&mut client, "worker"), 1);
    assert_eq!(own_objects(&mut client).0, "ok");
    assert!(!is_superuser(&mut client, "patient"));
}

/// What can be attached to a table, and what the refusal calls it.
const CODE: [(&str, &str); 13] = [
    (
        "trigger \"climbing\"",
        "CREATE TRIGGER climbing BEFORE TRUNCATE ON @table EXECUTE FUNCTION @me.climbing()",
    ),
    ("a rule", "CREATE RULE climbing AS ON DELETE TO @table DO ALSO SELECT @me.climb('')"),
    ("child @me.child", "CREATE TABLE @me.child () INHERITS (@table)"),
    (
        "a parent",
        "CREATE TABLE @me.parent (LIKE @table) PARTITION BY LIST ((@me.sly(worker_id)));
         ALTER TABLE @me.parent ATTACH PARTITION @table FOR VALUES IN (true)",
    ),
    (
        "constraint \"climbing\"",
        "ALTER TABLE @table ADD CONSTRAINT climbing CHECK (query_to_xml('SELECT 1', true, true, '') IS NOT NULL) NOT VALID",
    ),
    ("constraint \"climbing\"", "ALTER TABLE @table ADD CONSTRAINT climbing CHECK (@me.climb('')) NOT VALID"),
    (
        "constraint \"climbing\"",
        "ALTER TABLE @table ADD CONSTRAINT climbing CHECK ((hostname::@me.words) <> '')",
    ),
    (
        "expression",
        "ALTER TABLE @table ADD note text; ALTER TABLE @table ALTER note SET DEFAULT @me.word('')",
    ),
    ("expression", "ALTER TABLE @table ADD note bool GENERATED ALWAYS AS (@me.sly('')) STORED"),
    ("index public.climbing", "CREATE INDEX climbing ON @table ((@me.sly(worker_id)))"),
    ("index public.climbing", "CREATE INDEX climbing ON @table (worker_id) WHERE @me.sly(worker_id)"),
    ("type of column \"hostname\"", "ALTER TABLE @table ALTER hostname TYPE @me.words"),
    ("owner \"@me\"", "ALTER TABLE @table OWNER TO @me"),
];

#[test]
fn a_session_refuses_each_kind_of_code_of_others_and_none_of_postgresqls_own() {
    let cluster = called();
    let database = cluster.database("each_kind");
    let mut client = database.connect();
    create_owner(&mut client, "inventor");
    run(&mut client, "CREATE DOMAIN inventor.words AS text CHECK (inventor.climb(VALUE))");
    // The plans are made before anything is attached.
    run(&mut client, "SELECT rgrid_register('worker'); SELECT rgrid_register('worker')");
    let filled = |text: &str, table: &str| text.replace("@table", table).replace("@me", "inventor");
    for table in ["rgrid_worker_deaths", "worker_heartbeats"] {
        for (what, arm) in CODE {
            let (what, arm) = (filled(what, table), filled(arm, table));
            // The table of heartbeats is used as its owner, whoever that is.
            if table == "worker_heartbeats" && what.starts_with("owner") {
                continue;
            }
            run(&mut client, &format!("BEGIN; {arm}"));
            let refusal = client.batch_execute("SELECT rgrid_register('worker')").expect_err(&arm);
            let refusal = refusal.as_db_error().expect("an error of the server");
            assert_eq!(refusal.code().code(), "55000", "{arm}: {refusal}");
            assert!(refusal.message().starts_with(&what), "{arm}: {refusal}");
            run(&mut client, "ROLLBACK");
        }
        let harmless = "BEGIN; CREATE INDEX ON @table (lower(worker_id)) WHERE length(hostname) > 1;
             ALTER TABLE @table ADD CHECK (length(hostname) < 999), ADD note text DEFAULT upper('x');
             CREATE TABLE inventor.refers (id text REFERENCES worker_heartbeats);
             SELECT rgrid_register('worker'), rgrid_register('other'); ROLLBACK";
        run(&mut client, &filled(harmless, table));
    }
}

/// A key on the heartbeats from a column of another type, whose cast is code.
const DISGUISED: &str = "CREATE TYPE referrer.disguise AS (id text);
     CREATE FUNCTION referrer.unveil(referrer.disguise) RETURNS text LANGUAGE plpgsql AS
         $$BEGIN RETURN referrer.word(($1).id); END$$;
     CREATE CAST (referrer.disguise AS text) WITH FUNCTION referrer.unveil(referrer.disguise) AS IMPLICIT;
     CREATE TABLE referrer.disguised (worker referrer.disguise CONSTRAINT strange REFERENCES worker_heartbeats);";

#[test]
fn foreign_keys_of_job_tables_on_heartbeats_go_on_and_those_on_the_ledger_are_dropped() {
    let cluster = swept();
    let database = cluster.database("referred");
    let mut client = database.connect();
    create_owner(&mut client, "referrer");
    // Since 18 PostgreSQL refuses a key whose two columns are not both text.
    let has_disguise: bool =
        ask(&mut client, "SELECT current_setting('server_version_num')::int < 180000", &[]);
    let disguised = if has_disguise { DISGUISED } else { "" };
    let sql = format!(
        "BEGIN; GRANT SELECT, REFERENCES ON worker_heartbeats, rgrid_worker_deaths, rgrid_job_tables TO referrer;
         SET ROLE referrer;
         CREATE TABLE referrer.jobs (id int PRIMARY KEY, status text, execution_error text, completed_at timestamptz,
             worker_id text CONSTRAINT good REFERENCES worker_heartbeats ON DELETE SET NULL);
         CREATE TABLE referrer.ties (job_table text CONSTRAINT bad REFERENCES rgrid_job_tables);
         {disguised}
         RESET ROLE; REVOKE REFERENCES ON worker_heartbeats, rgrid_worker_deaths, rgrid_job_tables FROM referrer;
         COMMIT; SELECT rgrid_watch_jobs('referrer.jobs')"
    );
    run(&mut client, &sql);
    let keys = "SELECT string_agg(conname, ' ') FROM pg_constraint
                WHERE contype = 'f' AND conrelid::regclass::text LIKE 'referrer.%'";
    wait_until("the other keys to be dropped", || ask::<String>(&mut client, keys, &[]) == "good");
    if has_disguise {
        run(&mut database.connect_as("referrer"), "INSERT INTO referrer.disguised VALUES (ROW('nobody'))");
    }
    assert!(!is_superuser(&mut client, "referrer"));
    run(
        &mut client,
        "SELECT rgrid_register('leaving');
         INSERT INTO referrer.jobs (id, status, worker_id) VALUES (1, 'running', 'leaving')",
    );
    assert_eq!(
        sqlstate(&mut client, "INSERT INTO referrer.jobs (id, worker_id) VALUES (2, 'unknown')"),
        "23503"
    );
    run(&mut client, "SELECT rgrid_deregister('leaving')");
    let job = "SELECT concat_ws(' ', status, worker_id) FROM referrer.jobs";
    assert_eq!(ask::<String>(&mut client, job, &[]), "failed", "its worker is set to NULL");
}

#[test]
fn functions_that_were_given_to_others_are_reported() {
    let cluster = swept();
    let mut client = cluster.database("donated").connect();
    assert_eq!(own_objects(&mut client).0, "ok");
    run(&mut client, "CREATE ROLE donee; ALTER FUNCTION rgrid_fence(regclass) OWNER TO donee");
    let (status, detail) = own_objects(&mut client);
    assert_eq!(status, "error");
    assert!(detail.contains("function public.rgrid_fence(regclass)") && detail.contains("donee"), "{detail}");
    run(&mut client, "ALTER FUNCTION rgrid_fence(regclass) OWNER TO postgres; DROP ROLE donee");
    assert_eq!(own_objects(&mut client).0, "ok");
}

#[test]
fn rights_and_triggers_on_functions_and_views_are_reported() {
    let cluster = called();
    let mut client = cluster.database("opened").connect();
    create_attacker(&mut client, "opener");
    for (arm, what, disarm) in [
        (
            "GRANT EXECUTE ON FUNCTION rgrid_deregister TO PUBLIC",
            "EXECUTE of PUBLIC on public.rgrid_deregister(text)",
            "REVOKE EXECUTE ON FUNCTION rgrid_deregister FROM PUBLIC",
        ),
        (
            "GRANT TRIGGER ON rgrid_workers TO opener",
            "TRIGGER of opener on public.rgrid_workers",
            "REVOKE TRIGGER ON rgrid_workers FROM opener",
        ),
        (
            "CREATE TRIGGER t INSTEAD OF INSERT ON rgrid_workers FOR EACH ROW EXECUTE FUNCTION opener.climbing()",
            "trigger t of public.rgrid_workers",
            "DROP TRIGGER t ON rgrid_workers",
        ),
    ] {
        run(&mut client, arm);
        let (status, detail) = own_objects(&mut client);
        assert_eq!(status, "warning", "{arm}");
        assert!(detail.contains(what), "{detail}");
        run(&mut client, disarm);
        assert_eq!(own_objects(&mut client).0, "ok", "{disarm}");
    }
}
