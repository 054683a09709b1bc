//! `ALTER EXTENSION ... UPDATE` from every released version: what an update leaves is what a new installation has,
//! and what was in the tables stays. The released scripts are installed beside the current one.

use crate::cluster::*;
use postgres::Client;
use std::fs;

const CURRENT: &str = env!("CARGO_PKG_VERSION");

/// The versions whose scripts are kept in sql/archive.
fn released() -> Vec<String> {
    let files =
        fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/archive")).expect("there is an archive");
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let version = |name: &str| Some(name.strip_prefix("rgrid_heartbeat--")?.strip_suffix(".sql")?.to_owned());
    let versions: Vec<String> = names.filter_map(|name| version(&name)).collect();
    assert!(!versions.is_empty(), "nothing was released");
    versions
}

/// A database with the objects of a released version, and RGrid's table of jobs.
pub(super) fn database_of<'a>(cluster: &'a Cluster, name: &str, version: &str) -> Database<'a> {
    let database = cluster.empty_database(name);
    let mut client = database.connect();
    run(&mut client, &format!("CREATE EXTENSION rgrid_heartbeat VERSION '{version}'"));
    executions_table(&mut client);
    database
}

pub(super) fn update(client: &mut Client) {
    run(client, "ALTER EXTENSION rgrid_heartbeat UPDATE");
    let version: String =
        ask(client, "SELECT extversion FROM pg_extension WHERE extname = 'rgrid_heartbeat'", &[]);
    assert_eq!(version, CURRENT);
}

/// A call of SQL objects of an earlier version says that they must be updated.
pub(super) fn refuses_old_objects(client: &mut Client, call: &str) {
    let refusal = client.batch_execute(call).unwrap_err();
    let refusal = refusal.as_db_error().expect("an error of the server");
    assert_eq!(refusal.code().code(), "55000", "{call}: {refusal}");
    assert!(refusal.hint().unwrap().contains("ALTER EXTENSION rgrid_heartbeat UPDATE"), "{call}");
}

/// What an installation consists of, one text a catalog entry. Statements answer one column.
const CATALOG: [&str; 9] = [
    "SELECT 'member: ' || pg_describe_object(d.classid, d.objid, d.objsubid)
     FROM pg_depend d JOIN pg_extension x ON d.refobjid = x.oid
     WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND x.extname = 'rgrid_heartbeat'",
    "SELECT concat_ws(' ', 'relation:', c.relname, c.relkind, c.relpersistence, c.reloptions, c.relacl,
                      obj_description(c.oid, 'pg_class'))
     FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace",
    "SELECT concat_ws(' ', 'column:', c.relname, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), a.attname,
                      format_type(a.atttypid, a.atttypmod), a.attcollation::regcollation, a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attacl,
                      col_description(c.oid, a.attnum))
     FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
     LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped",
    "SELECT concat_ws(' ', 'constraint:', n.conname, n.conrelid::regclass, pg_get_constraintdef(n.oid))
     FROM pg_constraint n WHERE n.connamespace = 'public'::regnamespace",
    "SELECT concat_ws(' ', 'index or view:', c.relname, pg_get_indexdef(i.indexrelid), pg_get_viewdef(c.oid))
     FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('i', 'v')",
    "SELECT concat_ws(' ', 'function:', pg_get_functiondef(p.oid), p.proacl, obj_description(p.oid, 'pg_proc'))
     FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace",
    "SELECT concat_ws(' ', 'trigger:', pg_get_triggerdef(t.oid), t.tgenabled)
     FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = 'public'::regnamespace",
    "SELECT concat_ws(' ', 'first rights:', pg_describe_object(i.classoid, i.objoid, i.objsubid), i.initprivs)
     FROM pg_init_privs i WHERE i.privtype = 'e'",
    "SELECT concat_ws(' ', 'dumped:', x.extname, t.config::regclass, t.condition)
     FROM pg_extension x, unnest(x.extconfig, x.extcondition) AS t (config, condition)",
];

fn catalog(client: &mut Client) -> Vec<String> {
    let mut entries: Vec<String> =
        CATALOG.iter().flat_map(|sql| client.query(*sql, &[]).unwrap()).map(|row| row.get(0)).collect();
    entries.sort();
    entries
}

#[test]
fn an_update_from_every_released_version_leaves_what_a_new_installation_has() {
    let cluster = Cluster::quick().start();
    let new = catalog(&mut database_of(&cluster, "new", CURRENT).connect());
    assert!(new.len() > 200, "an installation has more than {} entries", new.len());
    for (number, version) in released().iter().enumerate() {
        let mut client = database_of(&cluster, &format!("updated_{number}"), version).connect();
        assert_ne!(catalog(&mut client), new, "nothing is compared");
        update(&mut client);
        let updated = catalog(&mut client);
        let missing: Vec<_> = new.iter().filter(|entry| !updated.contains(entry)).collect();
        let left_over: Vec<_> = updated.iter().filter(|entry| !new.contains(entry)).collect();
        assert!(missing.is_empty() && left_over.is_empty(), "{version}: {missing:#?} but {left_over:#?}");
    }
}

#[test]
fn an_update_leaves_ids_to_the_next_role_that_uses_them() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1h").start();
    for (number, version) in released().iter().enumerate() {
        let database = database_of(&cluster, &format!("unowned_{number}"), version);
        let mut client = database.connect();
        run(&mut client, "INSERT INTO worker_heartbeats VALUES ('w', 'host', now()), ('v', 'host', now())");
        update(&mut client);
        assert_eq!(owner(&mut client, "w"), "nobody", "{version}");
        let mut next = tenant(&database, &format!("next_{number}"));
        let mut other = tenant(&database, &format!("other_{number}"));
        assert_eq!((beat(&mut next, "w"), beat(&mut other, "v")), (1, 1), "{version}");
        assert_eq!(sqlstate(&mut other, "SELECT rgrid_heartbeat('w')"), "42501", "{version}");
        assert_eq!(owner(&mut client, "w"), format!("next_{number}"));
    }
}

/// Functions of 0.1.0 with arguments that they would take.
const FUNCTIONS_OF_0_1_0: [&str; 7] = [
    "rgrid_heartbeat('alive')",
    "rgrid_heartbeat(ARRAY['alive'])",
    "rgrid_register('alive')",
    "rgrid_deregister('alive')",
    "rgrid_sweep()",
    "rgrid_sweep(true)",
    "rgrid_stale_workers()",
];

#[test]
fn an_update_from_0_1_0_keeps_every_row_and_right_and_kills_no_worker() {
    let cluster = Cluster::quick().start();
    let database = database_of(&cluster, "grid", "0.1.0");
    let mut client = database.connect();
    fill(&mut client);
    let ledger = rows(&mut client, "rgrid_worker_deaths");
    assert_eq!(ledger.len(), 2);
    for call in FUNCTIONS_OF_0_1_0 {
        refuses_old_objects(&mut client, &format!("SELECT {call}"));
    }
    update(&mut client);

    run(&mut client, "SELECT rgrid_sweep()");
    // There is a column more.
    let ledger: Vec<String> = ledger.iter().map(|row| row.replace(')', ",t)")).collect();
    assert_eq!(rows(&mut client, "rgrid_worker_deaths"), ledger, "silence counts from the update on");
    let watches = "SELECT string_agg(concat_ws(' ', job_table, dead_status, on_death, watched, notify_keys), ', ' ORDER BY job_table::text)
                   FROM rgrid_job_tables";
    assert_eq!(
        ask::<String>(&mut client, watches, &[]),
        "public.executions failed fail t f, public.tasks lost fail t f"
    );
    assert_eq!(jobs(&mut client, "alive", "running"), 2, "the update swept no worker");
    let stored = "SELECT count(search_path) FROM rgrid_job_tables";
    assert_eq!(ask::<i64>(&mut client, stored, &[]), 0);
    let tried =
        "SELECT detail ~ 'never tried' FROM rgrid_health() WHERE check_name = 'job table public.tasks'";
    assert!(ask::<bool>(&mut client, tried, &[]));
    let _beats = ["alive", "phoenix"].map(|worker| Beating::calling(database.connect(), worker));
    await_death(&mut client, "silent");
    assert_eq!(jobs(&mut client, "silent", "failed"), 2);
    let tasks: String = ask(&mut client, "SELECT string_agg(state, ' ') FROM tasks", &[]);
    assert_eq!(tasks, "lost", "a table that was watched before is settled as before");
    let notes: String = ask(&mut client, "SELECT string_agg(worker, ' ') FROM notes", &[]);
    assert_eq!(notes, "silent", "without a search_path in its entry, its trigger finds its own schema");
    assert!(!ask::<bool>(&mut client, tried, &[]));
    assert_eq!((jobs(&mut client, "alive", "running"), deaths(&mut client, "alive")), (2, 0));
    assert_eq!(beat(&mut client, "phoenix"), 2, "incarnations go on");
    assert!(beat(&mut client, "gone") > 1, "it was told 1");

    let restored = cluster.empty_database("restored");
    cluster.restore(&cluster.dump("grid"), "restored");
    for database in [&database, &restored] {
        run(&mut database.connect_as("night_shift"), "SELECT rgrid_sweep(true), rgrid_sweep(true, true)");
        assert_eq!(sqlstate(&mut database.connect_as("somebody"), "SELECT rgrid_sweep(true)"), "42501");
    }
}

#[test]
fn an_update_from_0_1_0_knows_watched_tables_by_their_names_and_what_they_meant() {
    let cluster = Cluster::builder().start();
    let database = database_of(&cluster, "named", "0.1.0");
    let mut client = database.connect();
    create_attacker(&mut client, "checker");
    run(
        &mut client,
        r#"CREATE SCHEMA "Odd schema"; CREATE TABLE "Odd schema"."Odd.""table" (LIKE executions);
           CREATE TABLE gone (); CREATE TABLE tasks (LIKE executions);
           INSERT INTO rgrid_job_tables (job_table) VALUES ('"Odd schema"."Odd.""table"'), ('gone'), ('tasks');
           DROP TABLE gone;
           ALTER TABLE rgrid_job_tables ADD CHECK (checker.climb(job_table::text)); ALTER ROLE checker NOSUPERUSER"#,
    );
    update(&mut client);
    assert!(
        !is_superuser(&mut client, "checker"),
        "a constraint of others is dropped before it is tested again"
    );
    let names = "SELECT string_agg(j.job_table, ' ' ORDER BY j.job_table) FROM rgrid_job_tables j
                 JOIN rgrid_job_table_oids o ON o.relation = to_regclass(j.job_table) AND o.job_table = j.job_table
                 WHERE j.job_table !~ '^[0-9]+$'";
    assert_eq!(ask::<String>(&mut client, names, &[]), r#""Odd schema"."Odd.""table" public.tasks"#);
    // Renamed before the first sweep after the update.
    run(&mut client, "ALTER TABLE tasks RENAME TO duties; SELECT rgrid_sweep()");
    let health = "SELECT status || ': ' || detail FROM rgrid_health() WHERE check_name = 'job tables'";
    let detail: String = ask(&mut client, health, &[]);
    assert!(detail.starts_with("warning: 1 watched tables were dropped"), "{detail}");
    run(
        &mut client,
        "UPDATE rgrid_job_table_oids SET missing_since = '2000-01-01' WHERE missing_since IS NOT NULL",
    );
    run(&mut client, "SELECT rgrid_sweep()");
    let names = "SELECT string_agg(job_table, ' ' ORDER BY job_table) FROM rgrid_job_tables";
    assert_eq!(ask::<String>(&mut client, names, &[]), r#""Odd schema"."Odd.""table" public.duties"#);
}

#[test]
fn a_dump_of_every_released_version_brings_its_watched_tables() {
    let cluster = Cluster::quick().start();
    for (number, version) in released().iter().enumerate() {
        let (old, new) = (format!("old_{number}"), format!("new_{number}"));
        let (database, restored) = (database_of(&cluster, &old, version), cluster.empty_database(&new));
        run(
            &mut database.connect(),
            "CREATE TABLE tasks (LIKE executions); INSERT INTO rgrid_job_tables (job_table) VALUES ('tasks')",
        );
        cluster.restore(&cluster.dump(&old), &new);
        let names = "SELECT string_agg(job_table, ' ') FROM rgrid_job_tables";
        assert_eq!(ask::<String>(&mut restored.connect(), names, &[]), "public.tasks", "{version}");
    }
}

/// What 0.1.0 would have left: two who died, one of whom came back, one who lives, one who fell silent, none of whom
/// was heard for an hour; a table beside RGrid's, and a role that may sweep.
fn fill(client: &mut Client) {
    run(
        client,
        "CREATE TABLE tasks (worker_id text, state text, note text);
         CREATE TABLE notes (worker text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO notes VALUES (NEW.worker_id); RETURN NULL; END';
         CREATE TRIGGER note AFTER UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION note();
         INSERT INTO rgrid_job_tables (job_table, status_column, dead_status, error_column, finished_column)
         VALUES ('tasks', 'state', 'lost', 'note', NULL), ('executions', 'status', 'failed', 'execution_error', 'completed_at');
         INSERT INTO rgrid_worker_deaths (worker_id, incarnation, last_heartbeat_at, declared_dead_at, reason,
                                          jobs_failed, jobs_requeued, returned_at)
         VALUES ('gone', 1, now() - interval '1 hour', now() - interval '55 minutes', 'stale', 3, 0, NULL),
                ('phoenix', 1, now() - interval '1 hour', now() - interval '55 minutes', 'stale', 0, 0, now());
         INSERT INTO worker_heartbeats
         SELECT w, 'host', now() - interval '1 hour' FROM unnest('{phoenix,alive,silent}'::text[]) AS w;
         INSERT INTO tasks VALUES ('silent', 'running');
         CREATE ROLE night_shift LOGIN;
         CREATE ROLE somebody LOGIN;
         GRANT EXECUTE ON FUNCTION rgrid_sweep TO night_shift WITH GRANT OPTION",
    );
    for worker in ["alive", "silent"] {
        claim_jobs(client, worker, 2);
    }
}
