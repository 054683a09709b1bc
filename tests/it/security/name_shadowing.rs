//! Objects that lie in wait under the names of others, and texts that would be statements if they were pasted into
//! one.

use crate::cluster::*;
use postgres::Client;

/// Only sessions sweep.
fn server() -> Shared {
    Shared::of(|| Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h"))
}

#[test]
fn an_object_that_was_there_first_is_never_taken_for_the_extensions_own() {
    let cluster = server();
    let database = cluster.empty_database("precreated");
    let mut client = database.connect();
    create_attacker(&mut client, "early");
    let mut early = database.connect_as("early");
    for (object, kind, code) in [
        ("rgrid_worker_deaths (worker_id text)", "TABLE", "42P07"),
        ("rgrid_worker_deaths AS SELECT 1 AS worker_id", "VIEW", "42P07"),
        ("rgrid_job_tables AS SELECT 1 AS job_table", "MATERIALIZED VIEW", "42P07"),
        ("rgrid_job_tables", "SEQUENCE", "42P07"),
        ("rgrid_job_tables AS (job_table regclass)", "TYPE", "42P07"),
        ("rgrid_worker_deaths AS text", "DOMAIN", "42710"),
        ("worker_heartbeats AS text", "DOMAIN", "42710"),
        ("worker_heartbeats AS SELECT 'w' AS worker_id, now() AS last_heartbeat_at", "VIEW", "42809"),
        ("worker_heartbeats", "SEQUENCE", "42809"),
        (
            "rgrid_heartbeat(text, text) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
            "FUNCTION",
            "42723",
        ),
        (
            "rgrid_sweep(boolean, boolean) RETURNS SETOF record LANGUAGE sql AS 'SELECT 1, 2'",
            "FUNCTION",
            "42723",
        ),
        ("rgrid_unwatch_jobs(regclass) RETURNS boolean LANGUAGE sql AS 'SELECT true'", "FUNCTION", "42723"),
        ("rgrid_installed() RETURNS void LANGUAGE sql AS 'SELECT'", "FUNCTION", "42723"),
    ] {
        run(&mut early, &format!("CREATE {kind} public.{object}"));
        assert_eq!(sqlstate(&mut client, "CREATE EXTENSION rgrid_heartbeat"), code, "{kind} {object}");
        let name = object.split(" AS ").next().unwrap().split(" RETURNS ").next().unwrap();
        let name = if kind == "FUNCTION" { name } else { name.split(' ').next().unwrap() };
        run(&mut early, &format!("DROP {kind} public.{name}"));
    }
    assert!(!is_superuser(&mut client, "early"));
    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
}

#[test]
fn a_table_of_heartbeats_that_was_there_first_stays_its_owners() {
    let cluster = server();
    let database = cluster.empty_database("adopted");
    let mut client = database.connect();
    create_attacker(&mut client, "host");
    run(
        &mut database.connect_as("host"),
        "CREATE TABLE public.worker_heartbeats (worker_id text PRIMARY KEY CHECK (host.climb(worker_id)),
             hostname text DEFAULT host.climb('default')::text, last_heartbeat_at timestamptz NOT NULL);
         CREATE TRIGGER climbing BEFORE INSERT OR UPDATE ON public.worker_heartbeats FOR EACH ROW
             EXECUTE FUNCTION host.climbing();
         CREATE FUNCTION host.shadow(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT host.climb($1)';
         CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = host.shadow);
         CREATE OPERATOR public.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = host.shadow)",
    );
    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
    for call in ["rgrid_heartbeat('w')", "rgrid_register('w')", "rgrid_deregister('w')", "rgrid_sweep()"] {
        run(&mut client, &format!("SELECT {call}"));
        assert!(!is_superuser(&mut client, "host"), "{call}");
    }
    let sql = "SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_extension'::regclass
               AND objid IN ('public.worker_heartbeats'::regclass, 'host.climb'::regproc)";
    assert_eq!(ask::<i64>(&mut client, sql, &[]), 0, "nothing of it became the extension's");
}

/// Functions and operators of the names and the types that statements could mean.
const SHADOWS: &str = "
    CREATE TABLE shadow.called (what text, run_as name DEFAULT current_user);
    ALTER TABLE shadow.called OWNER TO shadow;
    CREATE FUNCTION shadow.trap(what text) RETURNS void LANGUAGE sql AS 'INSERT INTO shadow.called VALUES ($1)';
    CREATE FUNCTION shadow.is(text, text) RETURNS boolean LANGUAGE sql AS $$SELECT shadow.trap('is') IS NULL$$;
    CREATE OPERATOR shadow.= (LEFTARG = text, RIGHTARG = text, FUNCTION = shadow.is);
    CREATE OPERATOR shadow.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = shadow.is);
    CREATE FUNCTION shadow.is(varchar, text) RETURNS boolean LANGUAGE sql AS $$SELECT shadow.trap('is') IS NULL$$;
    CREATE OPERATOR shadow.= (LEFTARG = varchar, RIGHTARG = text, FUNCTION = shadow.is);
    CREATE FUNCTION shadow.is(varchar, varchar) RETURNS boolean LANGUAGE sql AS $$SELECT shadow.trap('is') IS NULL$$;
    CREATE OPERATOR shadow.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = shadow.is);
    CREATE FUNCTION shadow.before(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS
        $$SELECT shadow.trap('before') IS NULL$$;
    CREATE OPERATOR shadow.< (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = shadow.before);
    CREATE FUNCTION shadow.plus(bigint, integer) RETURNS bigint LANGUAGE sql AS
        $$SELECT 1::bigint FROM shadow.trap('plus')$$;
    CREATE OPERATOR shadow.+ (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = shadow.plus);
    CREATE FUNCTION shadow.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS $$SELECT 'w' FROM shadow.trap('unnest')$$;
    CREATE FUNCTION shadow.format(text, text) RETURNS text LANGUAGE sql AS $$SELECT '' FROM shadow.trap('format')$$;
    CREATE FUNCTION shadow.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
        $$SELECT now() FROM shadow.trap('clock_timestamp')$$;
    CREATE FUNCTION shadow.timezone(text, timestamptz) RETURNS timestamp LANGUAGE sql AS
        $$SELECT timestamp '2000-01-01' FROM shadow.trap('timezone')$$;
    CREATE FUNCTION shadow.rgrid_heartbeat(text, text) RETURNS bigint LANGUAGE sql AS
        $$SELECT 7::bigint FROM shadow.trap('rgrid_heartbeat')$$;
    CREATE FUNCTION shadow.rgrid_sweep(boolean) RETURNS bigint LANGUAGE sql AS
        $$SELECT 7::bigint FROM shadow.trap('rgrid_sweep')$$;
    CREATE TABLE shadow.executions (LIKE public.executions);
    CREATE TABLE shadow.worker_heartbeats (LIKE public.worker_heartbeats);
    CREATE TABLE shadow.rgrid_worker_deaths (LIKE public.rgrid_worker_deaths);
    CREATE TABLE shadow.rgrid_job_tables (LIKE public.rgrid_job_tables);
    CREATE DOMAIN shadow.text AS pg_catalog.text CHECK (shadow.is(VALUE, VALUE));
    CREATE DOMAIN shadow.timestamptz AS pg_catalog.timestamptz CHECK (shadow.is('a', 'b'));";

#[test]
fn what_lies_earlier_in_the_search_path_catches_nothing() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1s").start();
    let database = cluster.database("shadows");
    let mut client = database.connect();
    run(&mut client, "CREATE ROLE shadow LOGIN; CREATE SCHEMA shadow AUTHORIZATION shadow");
    run(&mut client, SHADOWS);
    // What the owner of a database can do to every session and process in it.
    run(&mut client, "ALTER DATABASE shadows SET search_path = shadow, pg_catalog, public");
    run(&mut client, "SET search_path = public");
    claim_jobs(&mut client, "silent", 1);
    silent_worker(&mut client, "silent");
    await_death(&mut client, "silent");
    assert_eq!(failed_jobs(&mut client, "silent"), 1);
    claim_jobs(&mut client, "silent", 1);
    let mut caller = database.connect();
    run(&mut caller, "SELECT public.rgrid_heartbeat('silent')");
    run(&mut caller, "SELECT public.rgrid_register('silent'), public.rgrid_sweep()");
    run(&mut caller, "SELECT public.rgrid_watch_jobs('public.executions')");
    run(&mut caller, "SELECT * FROM public.rgrid_stale_workers('1 second')");
    run(
        &mut caller,
        "SELECT public.rgrid_unwatch_jobs('public.executions'), public.rgrid_deregister('silent')",
    );
    shadows_of_a_worker_role_catch_nothing(&database, &mut client);
    let sql = "SELECT coalesce(string_agg(DISTINCT what || ' as ' || run_as, ', '), '') FROM shadow.called";
    assert_eq!(ask::<String>(&mut client, sql, &[]), "");
    assert_eq!(failed_jobs(&mut client, "silent"), 2);
    let sql = "SELECT count(*) FROM shadow.worker_heartbeats";
    assert_eq!(ask::<i64>(&mut client, sql, &[]), 0);
}

/// The role that made the shadows calls the functions itself, and has temporary tables, too.
fn shadows_of_a_worker_role_catch_nothing(database: &Database<'_>, client: &mut Client) {
    run(
        client,
        "GRANT EXECUTE ON FUNCTION rgrid_heartbeat(text, text), rgrid_register(text, text),
             rgrid_deregister(text) TO shadow",
    );
    let mut worker = database.connect_as("shadow");
    run(
        &mut worker,
        "CREATE TEMP TABLE worker_heartbeats (worker_id text, hostname text, last_heartbeat_at timestamptz);
         CREATE TEMP TABLE rgrid_worker_deaths (worker_id text, incarnation bigint)",
    );
    assert_eq!(ask::<i64>(&mut worker, "SELECT public.rgrid_heartbeat('seen')", &[]), 1);
    run(&mut worker, "SELECT public.rgrid_register('seen-too'), public.rgrid_deregister('seen-too')");
    let sql = "SELECT count(*) FROM public.worker_heartbeats WHERE worker_id = 'seen'";
    assert_eq!(ask::<i64>(client, sql, &[]), 1);
}

#[test]
fn a_callers_temporary_table_of_jobs_is_not_settled() {
    let cluster = server();
    let database = cluster.database("temporary");
    let mut client = database.connect();
    create_attacker(&mut client, "fleeting");
    run(&mut client, "GRANT EXECUTE ON FUNCTION rgrid_register(text, text), rgrid_sweep TO fleeting");
    let mut fleeting = database.connect_as("fleeting");
    run(&mut fleeting, "SELECT rgrid_register('w')");
    claim_jobs(&mut client, "w", 1);
    run(
        &mut fleeting,
        "CREATE TEMP TABLE executions (status text, worker_id text, execution_error text, completed_at timestamp);
         INSERT INTO executions VALUES ('running', 'w');
         CREATE TRIGGER climbing BEFORE UPDATE ON executions FOR EACH ROW EXECUTE FUNCTION fleeting.climbing();
         SET search_path = pg_temp, public; SELECT rgrid_register('w'); SELECT rgrid_sweep()",
    );
    assert_eq!(failed_jobs(&mut client, "w"), 1);
    let status: String = ask(&mut fleeting, "SELECT status FROM pg_temp.executions", &[]);
    assert_eq!(status, "running");
    assert!(!is_superuser(&mut client, "fleeting"));
    let watch = "SELECT rgrid_watch_jobs('pg_temp.executions')";
    assert_eq!(sqlstate(&mut fleeting, watch), "42501", "without EXECUTE");
}

/// Texts that end a string, a name or a statement when they are pasted into one.
const HOSTILE: &[&str] = &[
    "'; DROP TABLE executions; --",
    "' OR true OR '",
    r#""; DROP TABLE executions; --"#,
    r"\'; DROP TABLE executions; --",
    r"\",
    "$$; DROP TABLE executions; $$",
    "$1",
    "%s %n %%",
    "NULL",
    "{a,b}",
    r#"{"a": "b"}"#,
    "漢字 ' \u{202e} \u{1f4a9}",
    "@extschema@.@table@",
];

/// A job that a worker of any name runs.
fn start_job(client: &mut Client, worker: &str) {
    queue_jobs(client, worker, 1);
    let claim = "UPDATE executions SET status = 'running', worker_id = $1
                 WHERE status = 'queued' AND starts_with(execution_id, $1 || '/')";
    assert_eq!(client.execute(claim, &[&worker]).unwrap(), 1, "{worker}");
}

#[test]
fn a_worker_may_be_called_like_a_statement() {
    let cluster = server();
    let database = cluster.database("named");
    let mut client = database.connect();
    for name in HOSTILE {
        let register = "SELECT id FROM rgrid_register($1, $1)";
        assert_eq!(ask::<String>(&mut client, register, &[name]), *name);
        start_job(&mut client, name);
        age_row(&mut client, name);
        run(&mut client, "SELECT rgrid_register('somebody else')");
    }
    for name in HOSTILE {
        assert_eq!(ask::<i64>(&mut client, "SELECT incarnation FROM rgrid_register($1, $1)", &[name]), 2);
        assert_eq!(failed_jobs(&mut client, name), 1, "{name}");
        start_job(&mut client, name);
    }
    run(&mut client, "LISTEN rgrid_worker_deaths");
    for name in HOSTILE {
        if deaths(&mut client, name) == 1 {
            sweep_away(&mut client, name);
        }
    }
    for name in HOSTILE {
        assert_eq!(ledger(&mut client, name), ["1 restarted 1 returned", "2 stale 1 gone"], "{name}");
        assert_eq!(failed_jobs(&mut client, name), 2, "{name}");
        let sql = "SELECT hostname FROM worker_heartbeats WHERE worker_id = $1";
        assert_eq!(ask::<String>(&mut client, sql, &[name]), *name);
        assert_eq!(beat(&mut client, name), 3, "{name}");
        assert!(ask::<bool>(&mut client, "SELECT rgrid_deregister($1)", &[name]));
    }
}

#[test]
fn columns_and_words_of_a_table_may_be_statements() {
    let cluster = server();
    let database = cluster.database("worded");
    let mut client = database.connect();
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    for (number, word) in HOSTILE.iter().enumerate() {
        let [worker, status, error, finished] =
            ["w", "s", "e", "f"].map(|kind| format!("{kind} {word}").replace("@extschema@.", ""));
        let table = format!("{number} {word}");
        let columns = [(&worker, "text"), (&status, "text"), (&error, "text"), (&finished, "timestamptz")];
        let columns: Vec<String> =
            columns.iter().map(|(name, kind)| format!("{} {kind}", quoted(name))).collect();
        run(&mut client, &format!("CREATE TABLE {} ({})", quoted(&table), columns.join(", ")));
        let insert = format!("INSERT INTO {} VALUES ($1, $2)", quoted(&table));
        client.execute(&insert, &[&"w", &format!("run {word}")]).unwrap();
        let watch = "SELECT FROM rgrid_watch_jobs(quote_ident($1)::regclass, worker_column => $2::text::name,
                         status_column => $3::text::name, running_status => 'run ' || $4::text,
                         dead_status => 'dead ' || $4, error_column => $5::text::name, error_message => $4,
                         finished_column => $6::text::name)";
        client.execute(watch, &[&table, &worker, &status, word, &error, &finished]).unwrap();
    }
    run(&mut client, "SELECT rgrid_register('w'); SELECT rgrid_register('w')");
    for (number, word) in HOSTILE.iter().enumerate() {
        let row = client.query_one(&format!("TABLE {}", quoted(&format!("{number} {word}"))), &[]).unwrap();
        assert_eq!(row.get::<_, String>(1), format!("dead {word}"));
        assert_eq!(row.get::<_, String>(2), *word);
    }
}

#[test]
fn a_partition_of_adopted_heartbeats_with_another_owner_is_refused() {
    let cluster = server();
    let database = cluster.empty_database("lodgers");
    let mut client = database.connect();
    create_attacker(&mut client, "lodger");
    run(
        &mut client,
        "CREATE TABLE public.worker_heartbeats (worker_id text PRIMARY KEY, last_heartbeat_at timestamptz NOT NULL)
             PARTITION BY HASH (worker_id);
         CREATE TABLE public.room PARTITION OF public.worker_heartbeats FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         ALTER TABLE public.room OWNER TO lodger;
         CREATE EXTENSION rgrid_heartbeat",
    );
    run(
        &mut database.connect_as("lodger"),
        "CREATE TRIGGER climbing BEFORE INSERT OR UPDATE ON public.room FOR EACH ROW
             EXECUTE FUNCTION lodger.climbing()",
    );
    for call in ["rgrid_heartbeat('w')", "rgrid_register('w')", "rgrid_sweep()"] {
        assert_eq!(sqlstate(&mut client, &format!("SELECT {call}")), "42501", "{call}");
    }
    assert!(!is_superuser(&mut client, "lodger"));
    run(&mut client, "DROP TRIGGER climbing ON public.room; ALTER TABLE public.room OWNER TO postgres");
    assert_eq!(ask::<i64>(&mut client, "SELECT rgrid_heartbeat('w')", &[]), 1);
}
