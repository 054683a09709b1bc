//! Other libraries that many servers preload, before this one in the list and after it: all of them put hooks in place,
//! ask for shared memory, or start processes.

use crate::cluster::*;
use postgres::Client;

const OURS: &str = "rgrid_heartbeat";

/// Those that Debian has. The exit code of a test that lacks one of them is not zero.
const NEIGHBOURS: [&str; 3] = ["pg_cron", "pg_stat_statements", "auto_explain"];

/// One that is looked at where somebody has installed it.
const IF_INSTALLED: &str = "timescaledb";

/// A server on which every neighbour does all that it can.
fn server(libraries: &[&str]) -> Cluster {
    let builder = Cluster::quick()
        .setting("shared_preload_libraries", &libraries.join(","))
        .setting("rgrid_heartbeat.stale_threshold", "4s")
        .setting("cron.database_name", "postgres")
        .setting("pg_stat_statements.track", "all")
        .setting("auto_explain.log_min_duration", "0")
        .setting("auto_explain.log_analyze", "on")
        .setting("auto_explain.log_nested_statements", "on");
    builder.setting("timescaledb.telemetry_level", "off").start()
}

fn all_do_their_work_in_this_order(order: impl FnOnce(&mut Vec<&'static str>)) {
    let mut libraries = vec![OURS];
    libraries.extend(NEIGHBOURS);
    libraries.extend(has_library(IF_INSTALLED).then_some(IF_INSTALLED));
    order(&mut libraries);
    let cluster = server(&libraries);
    run(&mut cluster.connect("postgres"), "CREATE EXTENSION pg_cron");
    let database = cluster.database("trial");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE EXTENSION pg_stat_statements;
         CREATE TABLE notes (worker text REFERENCES worker_heartbeats ON DELETE CASCADE);
         CREATE TABLE audit (note text);
         CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO audit VALUES (new.worker); RETURN NULL; END$$;
         CREATE TRIGGER audit AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION audit()",
    );
    if libraries.contains(&IF_INSTALLED) {
        run(&mut client, &format!("CREATE EXTENSION {IF_INSTALLED}"));
    }
    let living = Beating::through_crashes(&database, "living");
    all_is_done(&cluster, &database, "before");

    cluster.crash_backend(pid(&mut client));
    all_is_done(&cluster, &database, "after");
    assert_eq!(deaths(&mut database.connect(), "living"), 0);
    assert_eq!(cluster.worker_errors(), [""; 0]);
    drop(living);
}

/// A heartbeat in memory, a death with a job, and a worker that leaves and takes along what refers to it.
fn all_is_done(cluster: &Cluster, database: &Database, when: &str) {
    let mut client = database.connect();
    let [victim, leaver] = ["victim", "leaver"].map(|name| format!("{name}-{when}"));
    known_worker(&mut client, &victim);
    claim_jobs(&mut client, &victim, 2);
    await_death(&mut client, &victim);
    assert_eq!(failed_jobs(&mut client, &victim), 2, "{when}");
    assert_eq!(beat(&mut client, &victim), 2, "{when}");

    beat(&mut client, &leaver);
    run(&mut client, &format!("INSERT INTO notes VALUES ('{leaver}'); SELECT rgrid_deregister('{leaver}')"));
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM notes", &[]), 0, "{when}");
    the_neighbours_do_theirs(cluster, &mut client, when);
    let wrong = "SELECT coalesce(string_agg(check_name || ': ' || detail, '; '), '') FROM rgrid_health()
                 WHERE status = 'error'";
    assert_eq!(ask::<String>(&mut client, wrong, &[]), "", "{when}");
}

fn the_neighbours_do_theirs(cluster: &Cluster, client: &mut Client, when: &str) {
    let scheduler = "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'pg_cron scheduler'";
    wait_until("pg_cron's scheduler", || ask(client, scheduler, &[]));
    // Of a worker, where its hook after the analysis has put $1 in the place of the constant; of a sweeper; and of a
    // trigger, which is nested in another statement: its hook at the end of that says so.
    for (statement, is_nested) in [
        ("SELECT rgrid_deregister($1)%", false),
        ("%UPDATE%executions%", false),
        ("INSERT INTO audit %", true),
    ] {
        let sql = "SELECT count(*) > 0 FROM pg_stat_statements WHERE query LIKE $1 AND toplevel <> $2";
        wait_until(&format!("{statement} to be counted {when}"), || {
            ask(client, sql, &[&statement, &is_nested])
        });
    }
    assert!(!cluster.log_lines_with(&["client backend", "duration:", "plan:"]).is_empty(), "{when}");
    assert!(!cluster.log_lines_with(&["rgrid_heartbeat sweeper", "duration:", "plan:"]).is_empty(), "{when}");
}

#[test]
fn preloaded_before_its_neighbours_all_do_their_work() {
    all_do_their_work_in_this_order(|_| {});
}

#[test]
fn preloaded_after_its_neighbours_all_do_their_work() {
    all_do_their_work_in_this_order(|libraries| libraries.reverse());
}
