//! Names that mean something else by the time that a statement is run, because the owner of a schema can rename it.

use crate::cluster::*;
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Only sessions sweep.
fn server() -> Shared {
    Shared::of(|| Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h"))
}

/// Runs `rename`, which locks the table of jobs in a transaction, and commits it while a sweep waits for that lock.
/// Sweeps by hand wait for a second: when that was over before the commit, `put_back` restores the names, and once
/// more.
fn sweep_while_names_change(
    database: &Database<'_>,
    cluster: &Cluster,
    renaming: &mut Client,
    [rename, put_back]: [&str; 2],
) {
    for _ in 0..10 {
        run(renaming, rename);
        if sweep_waits_for_commit(database, cluster, renaming) {
            return;
        }
        run(renaming, put_back);
    }
    panic!("no sweep was still waiting at the commit");
}

/// Sweeps in a session of its own until the transaction of `renaming` is committed; whether the sweep waited until
/// then.
fn sweep_waits_for_commit(database: &Database<'_>, cluster: &Cluster, renaming: &mut Client) -> bool {
    let mut client = database.connect();
    let sweeper = pid(&mut client);
    let process = format!("[{sweeper}]");
    let timeouts = || cluster.log_lines_with(&[&process, "lock timeout"]).len();
    let committed = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            run(&mut client, "SET rgrid_heartbeat.stale_threshold = '200ms'");
            wait_until("the commit", || {
                run(&mut client, "SELECT rgrid_sweep()");
                committed.load(Ordering::Relaxed)
            });
        });
        await_waiting(cluster, sweeper, "Lock");
        run(renaming, "COMMIT");
        committed.store(true, Ordering::Relaxed);
    });
    timeouts() == 0
}

const JOB_COLUMNS: &str = "worker_id text, execution_error text, completed_at timestamp";

#[test]
fn a_type_that_is_swapped_while_a_sweep_waits_is_refused() {
    let cluster = server();
    let database = cluster.database("swapped_type");
    let mut client = database.connect();
    create_attacker(&mut client, "swapper");
    run(
        &mut client,
        &format!(
            "CREATE SCHEMA words AUTHORIZATION swapper;
             GRANT CREATE ON DATABASE swapped_type TO swapper;
             CREATE DOMAIN words.state AS text;
             CREATE TABLE theirs (status words.state, {JOB_COLUMNS});
             GRANT SELECT, UPDATE ON theirs TO swapper;
             INSERT INTO theirs VALUES ('running', 'victim');
             SELECT rgrid_watch_jobs('theirs')"
        ),
    );
    silent_worker(&mut client, "victim");
    let mut swapper = database.connect_as("swapper");
    let swap = [
        "BEGIN; LOCK TABLE theirs;
         ALTER SCHEMA words RENAME TO hidden; CREATE SCHEMA words;
         CREATE DOMAIN words.state AS text CHECK (swapper.climb(VALUE))",
        "DROP SCHEMA words CASCADE; ALTER SCHEMA hidden RENAME TO words; UPDATE theirs SET status = 'running'",
    ];
    sweep_while_names_change(&database, &cluster, &mut swapper, swap);
    assert!(!is_superuser(&mut client, "swapper"));
    run(&mut client, "SELECT rgrid_sweep()");
    let status: String = ask(&mut client, "SELECT status::text FROM theirs", &[]);
    assert_eq!(status, "failed", "with the names as they are now, by the same sweep or the next one");
}

#[test]
fn an_operator_that_is_swapped_while_a_sweep_waits_is_refused() {
    let cluster = server();
    let database = cluster.database("swapped_operator");
    let mut client = database.connect();
    create_attacker(&mut client, "dealer");
    // Some builds of PostgreSQL lack it.
    if !has_available(&mut client, "citext") {
        return;
    }
    run(
        &mut client,
        "CREATE EXTENSION citext; CREATE SCHEMA signs AUTHORIZATION dealer;
         GRANT CREATE ON DATABASE swapped_operator TO dealer;
         ALTER OPERATOR = (citext, citext) SET SCHEMA signs;
         CREATE TABLE theirs (status text, worker_id citext, execution_error text, completed_at timestamp);
         GRANT SELECT, UPDATE ON theirs TO dealer;
         INSERT INTO theirs VALUES ('running', 'VICTIM');
         SELECT rgrid_watch_jobs('theirs')",
    );
    silent_worker(&mut client, "victim");
    let mut dealer = database.connect_as("dealer");
    let swap = [
        "BEGIN; LOCK TABLE theirs;
         ALTER SCHEMA signs RENAME TO hidden; CREATE SCHEMA signs;
         CREATE FUNCTION signs.same(citext, citext) RETURNS boolean LANGUAGE sql AS $$SELECT dealer.climb('same')$$;
         CREATE OPERATOR signs.= (LEFTARG = citext, RIGHTARG = citext, FUNCTION = signs.same)",
        "DROP SCHEMA signs CASCADE; ALTER SCHEMA hidden RENAME TO signs; UPDATE theirs SET status = 'running'",
    ];
    sweep_while_names_change(&database, &cluster, &mut dealer, swap);
    assert!(!is_superuser(&mut client, "dealer"));
    run(&mut client, "SELECT rgrid_sweep()");
    assert_eq!(ask::<String>(&mut client, "SELECT status FROM theirs", &[]), "failed");
}

#[test]
fn a_table_that_is_swapped_while_a_sweep_waits_is_refused() {
    let cluster = server();
    let database = cluster.database("swapped_table");
    let mut client = database.connect();
    create_attacker(&mut client, "juggler");
    run(
        &mut client,
        &format!(
            "CREATE SCHEMA work AUTHORIZATION juggler; CREATE SCHEMA spare AUTHORIZATION juggler;
             GRANT CREATE ON DATABASE swapped_table TO juggler;
             CREATE TABLE work.jobs (status text, {JOB_COLUMNS});
             CREATE TABLE spare.jobs (LIKE work.jobs);
             ALTER TABLE spare.jobs OWNER TO juggler;
             GRANT SELECT, UPDATE ON work.jobs TO juggler;
             INSERT INTO work.jobs VALUES ('running', 'victim'); INSERT INTO spare.jobs VALUES ('running', 'victim');
             CREATE TRIGGER climbing BEFORE UPDATE ON spare.jobs FOR EACH ROW EXECUTE FUNCTION juggler.climbing();
             SELECT rgrid_watch_jobs('work.jobs')"
        ),
    );
    silent_worker(&mut client, "victim");
    let mut juggler = database.connect_as("juggler");
    let names = "ALTER SCHEMA work RENAME TO other; ALTER SCHEMA spare RENAME TO work; ALTER SCHEMA other RENAME TO spare";
    let swap = [
        format!("BEGIN; LOCK TABLE work.jobs; {names}"),
        format!("{names}; UPDATE work.jobs SET status = 'running'"),
    ];
    sweep_while_names_change(&database, &cluster, &mut juggler, swap.each_ref().map(String::as_str));
    assert!(!is_superuser(&mut client, "juggler"));
    assert_eq!(
        ask::<String>(&mut client, "SELECT status FROM work.jobs", &[]),
        "running",
        "it was never watched"
    );
    run(&mut client, "SELECT rgrid_sweep()");
    let spare = "SELECT status FROM spare.jobs";
    assert_eq!(
        ask::<String>(&mut client, spare, &[]),
        "failed",
        "under its new name, at the next sweep at the latest"
    );
}

#[test]
fn a_table_is_watched_and_not_its_name() {
    let cluster = server();
    let database = cluster.database("watched_name");
    let mut client = database.connect();
    create_attacker(&mut client, "namer");
    run(
        &mut client,
        "GRANT EXECUTE ON FUNCTION rgrid_watch_jobs TO namer; GRANT CREATE ON DATABASE watched_name TO namer",
    );
    run(
        &mut client,
        &format!(
            "CREATE SCHEMA theirs AUTHORIZATION namer;
             CREATE TABLE theirs.jobs (status text, {JOB_COLUMNS});
             INSERT INTO theirs.jobs VALUES ('running', 'victim')"
        ),
    );
    let mut namer = database.connect_as("namer");
    run(
        &mut namer,
        &format!(
            "CREATE TABLE namer.jobs (status text, {JOB_COLUMNS});
             INSERT INTO namer.jobs VALUES ('running', 'victim')"
        ),
    );
    // The name is the caller's when it is checked, and the superuser's when it is used.
    run(
        &mut namer,
        "BEGIN; SELECT rgrid_watch_jobs('namer.jobs');
         ALTER SCHEMA namer RENAME TO mine; ALTER SCHEMA theirs RENAME TO namer; COMMIT",
    );
    silent_worker(&mut client, "victim");
    sweep_away(&mut client, "victim");
    assert_eq!(ask::<String>(&mut client, "SELECT status FROM namer.jobs", &[]), "running");
    assert_eq!(ask::<String>(&mut client, "SELECT status FROM mine.jobs", &[]), "failed");
}

/// The usurper's table in the place of another one.
fn usurping(name: &str) -> String {
    format!(
        "CREATE TABLE shared.{name} (status text, {JOB_COLUMNS});
         CREATE TRIGGER climbing BEFORE UPDATE ON shared.{name} FOR EACH ROW EXECUTE FUNCTION usurper.climbing();
         INSERT INTO shared.{name} VALUES ('running', 'victim')"
    )
}

#[test]
fn a_table_of_another_owner_does_not_take_the_place_of_a_watched_one() {
    let cluster = server();
    let database = cluster.database("usurped");
    let mut client = database.connect();
    create_attacker(&mut client, "usurper");
    // The usurper owns the schema, so it can drop what others have there, and has the name when the owner renames it.
    // In one transaction, because a sweep in between would follow the table that was renamed.
    run(
        &mut client,
        &format!(
            "CREATE SCHEMA shared AUTHORIZATION usurper; CREATE ROLE victim_owner;
             GRANT CREATE, USAGE ON SCHEMA shared TO victim_owner; GRANT EXECUTE ON FUNCTION rgrid_watch_jobs TO usurper;
             CREATE TABLE shared.renamed (status text, {JOB_COLUMNS}); CREATE TABLE shared.dropped (LIKE shared.renamed);
             ALTER TABLE shared.renamed OWNER TO victim_owner; ALTER TABLE shared.dropped OWNER TO victim_owner;
             SELECT rgrid_watch_jobs('shared.renamed', dead_status => 'lost'), rgrid_watch_jobs('shared.dropped');
             ALTER TABLE shared.renamed RENAME TO moved; INSERT INTO shared.moved VALUES ('running', 'victim');
             SET ROLE usurper; DROP TABLE shared.dropped;
             {}; {}; RESET ROLE",
            usurping("renamed"),
            usurping("dropped")
        ),
    );
    let mut usurper = database.connect_as("usurper");
    silent_worker(&mut client, "victim");
    sweep_away(&mut client, "victim");
    assert!(!is_superuser(&mut client, "usurper"));
    let status =
        |client: &mut Client, table: &str| ask::<String>(client, &format!("SELECT status FROM {table}"), &[]);
    assert_eq!(status(&mut client, "shared.moved"), "lost", "the table that was watched still is");
    for name in ["shared.renamed", "shared.dropped"] {
        assert_eq!(status(&mut client, name), "running", "nobody has watched it");
        let complaint = format!("could not settle jobs in table {name}: it belongs to role \"usurper\"");
        assert!(!cluster.log_lines_with(&[&complaint]).is_empty(), "{name}");
    }
    let health = "SELECT status FROM rgrid_health() WHERE check_name = 'job tables'";
    assert_eq!(ask::<String>(&mut client, health, &[]), "error");

    // Its owner watches it: then each entry has the name of its own table.
    run(&mut usurper, "DROP TRIGGER climbing ON shared.renamed; SELECT rgrid_watch_jobs('shared.renamed')");
    let entries =
        "SELECT string_agg(job_table || ' ' || dead_status, ', ' ORDER BY job_table) FROM rgrid_job_tables";
    assert_eq!(
        ask::<String>(&mut client, entries, &[]),
        "shared.dropped failed, shared.moved lost, shared.renamed failed"
    );
    run(&mut client, "SELECT rgrid_sweep()");
    assert_eq!(status(&mut client, "shared.renamed"), "failed");
}

#[test]
fn the_owner_of_the_schema_cannot_replace_the_ledger() {
    let cluster = server();
    let database = cluster.database("renamed");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE ROLE schema_owner LOGIN; ALTER DATABASE renamed OWNER TO schema_owner;
         ALTER TABLE executions OWNER TO schema_owner",
    );
    claim_jobs(&mut client, "victim", 1);
    let mut owner = database.connect_as("schema_owner");
    run(
        &mut owner,
        "CREATE FUNCTION climb() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN EXECUTE 'ALTER ROLE schema_owner SUPERUSER'; RETURN NEW; END$$;
         CREATE FUNCTION swap() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             EXECUTE 'ALTER SCHEMA public RENAME TO hidden';
             EXECUTE 'CREATE SCHEMA public';
             EXECUTE 'CREATE TABLE public.rgrid_worker_deaths (worker_id text, incarnation bigint, hostname text,
                 last_heartbeat_at timestamptz, declared_dead_at timestamptz, reason text, jobs_failed bigint,
                 jobs_requeued bigint, returned_at timestamptz)';
             EXECUTE 'CREATE TABLE public.rgrid_incarnations (worker_id text, incarnation bigint)';
             EXECUTE 'CREATE TRIGGER climb BEFORE INSERT ON public.rgrid_worker_deaths FOR EACH ROW
                 EXECUTE FUNCTION hidden.climb()';
             RETURN NULL; END$$;
         CREATE TRIGGER swap AFTER UPDATE ON executions FOR EACH STATEMENT EXECUTE FUNCTION swap()",
    );
    let ledger = "SELECT 'public.rgrid_worker_deaths'::regclass::oid::text";
    let ours: String = ask(&mut client, ledger, &[]);
    // The name of the table of jobs means another one then, so its settlement is undone, and the swap with it.
    run(&mut client, "SELECT * FROM rgrid_register('victim')");
    assert_eq!(ask::<String>(&mut client, ledger, &[]), ours);
    assert_eq!(jobs(&mut client, "victim", "running"), 1);
    let climbed: bool = ask(&mut client, "SELECT rolsuper FROM pg_roles WHERE rolname = 'schema_owner'", &[]);
    assert!(!climbed);
    drop(owner);
    run(&mut client, "ALTER DATABASE renamed OWNER TO postgres; DROP OWNED BY schema_owner CASCADE");
    run(&mut client, "DROP ROLE schema_owner");
}
