//! `ALTER EXTENSION ... UPDATE` from 0.2.0, of a database as that version's library left it: what was there stays and
//! goes on, and the new library refuses the objects until then.

use super::extension_update::{database_of, refuses_old_objects, update};
use crate::cluster::*;
use postgres::Client;

/// What SQL objects of 0.2.0 call of the library, but for the function of fences and the one that resets counters.
const CALLS: [&str; 15] = [
    "SELECT rgrid_heartbeat('steady')",
    "SELECT rgrid_heartbeat(ARRAY['steady'])",
    "SELECT rgrid_register('steady')",
    "SELECT rgrid_deregister('steady')",
    "SELECT rgrid_sweep()",
    "SELECT rgrid_sweep(true, true)",
    "SELECT rgrid_stale_workers()",
    "SELECT rgrid_watch_jobs('mails')",
    "SELECT rgrid_unwatch_jobs('mails')",
    "SELECT rgrid_fence('mails')",
    "SELECT rgrid_unfence('mails')",
    "TABLE rgrid_workers",
    "TABLE pg_stat_rgrid_heartbeat",
    "TABLE gaps",
    "TABLE states",
];

fn left_by_0_2_0<'a>(cluster: &'a Cluster, name: &str) -> Database<'a> {
    let database = database_of(cluster, name, "0.2.0");
    run(&mut database.connect(), include_str!("left_by_0_2_0.sql"));
    database
}

/// What became of the jobs of a table, in the order of their ids.
fn statuses(client: &mut Client, table: &str) -> String {
    ask(client, &format!("SELECT string_agg(status, ' ' ORDER BY id) FROM {table}"), &[])
}

#[test]
fn a_new_library_refuses_the_objects_of_0_2_0_and_says_so() {
    let cluster = Cluster::quick().start();
    let database = left_by_0_2_0(&cluster, "outdated");
    let mut client = database.connect();
    for call in CALLS {
        refuses_old_objects(&mut client, call);
    }
    let health = "SELECT string_agg(check_name || ' ' || status, ', ') FROM rgrid_health()
                  WHERE check_name = 'version' OR detail LIKE '%could not be checked%'";
    assert_eq!(ask::<String>(&mut client, health, &[]), "version error");
    let late = "UPDATE letters SET status = 'completed' WHERE id = 1";
    assert_eq!(sqlstate(&mut client, late), "55000", "the fence is there all the time");
    await_sweep(&mut cluster.database("beside").connect(), "witness");
    assert_eq!(statuses(&mut client, "letters"), "failed running", "nothing is swept before the update");
}

#[test]
fn an_update_from_0_2_0_keeps_rows_rights_and_views() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1h").start();
    let database = left_by_0_2_0(&cluster, "kept");
    let mut client = database.connect();
    let tables = ["worker_heartbeats", "mails", "letters"];
    let before = tables.map(|table| rows(&mut client, table));
    let ledger = rows(&mut client, "rgrid_worker_deaths");
    update(&mut client);

    assert_eq!(tables.map(|table| rows(&mut client, table)), before);
    // There is a column more.
    let ledger: Vec<String> = ledger.iter().map(|row| row.replace(')', ",t)")).collect();
    assert_eq!(rows(&mut client, "rgrid_worker_deaths"), ledger);
    let watches = "SELECT string_agg(concat_ws(' ', j.job_table, on_death, max_attempts_means, watched_by, fenced), ', '
                                     ORDER BY j.job_table)
                   FROM rgrid_job_tables j JOIN rgrid_job_table_oids o ON o.relation = j.job_table::regclass";
    let kept = "public.letters fail retries t, public.mails requeue retries t";
    assert_eq!(ask::<String>(&mut client, watches, &[]), kept);

    run(&mut database.connect_as("night_shift"), "SELECT rgrid_sweep(true)");
    run(&mut client, "TABLE gaps; TABLE states");
    run(
        &mut database.connect_as("dashboard"),
        "TABLE rgrid_workers; TABLE rgrid_worker_deaths;
         SELECT datname, deaths, median_interval_seconds FROM pg_stat_rgrid_heartbeat",
    );
    let mut boss = database.connect_as("boss");
    run(&mut boss, "SELECT rgrid_watch_jobs('letters'), rgrid_fence('letters')");
    let stranger = "SELECT has_function_privilege('public', p.oid, 'EXECUTE') FROM pg_proc p
                    WHERE proname = 'rgrid_watch_jobs'";
    assert!(!ask::<bool>(&mut client, stranger, &[]));
    let restored = cluster.empty_database("restored");
    cluster.restore(&cluster.dump("kept"), "restored");
    run(&mut restored.connect_as("night_shift"), "SELECT rgrid_sweep(true)");
    let mut restored = restored.connect();
    assert_eq!(
        ask::<String>(
            &mut restored,
            "SELECT string_agg(job_table, ' ' ORDER BY job_table) FROM rgrid_job_tables",
            &[]
        ),
        "public.letters public.mails"
    );
}

#[test]
fn a_fleet_of_0_2_0_lives_on_after_the_update() {
    let cluster = Cluster::quick().start();
    let database = left_by_0_2_0(&cluster, "fleet");
    let mut client = database.connect();
    claim_jobs(&mut client, "steady", 1);
    update(&mut client);
    let numbers = [("steady", 1), ("phoenix", 2), ("late", 2)];
    let _beats = numbers.map(|(worker, _)| Beating::calling(database.connect(), worker));
    await_death(&mut client, "silent");
    for (worker, number) in numbers {
        assert_eq!(beat(&mut client, worker), number, "{worker} keeps its number");
    }
    assert_eq!(statuses(&mut client, "mails"), "queued failed queued failed", "one retry each, as before");
    assert_eq!(statuses(&mut client, "letters"), "failed failed");
    for table in ["mails", "letters"] {
        let late = format!("UPDATE {table} SET status = 'completed' WHERE id = 2");
        assert_eq!(sqlstate(&mut client, &late), "55000", "the fence of {table} refuses a late result");
    }
    run(&mut client, "UPDATE mails SET status = 'running', worker_id = 'steady', error = NULL WHERE id = 3");
    run(&mut client, "UPDATE mails SET status = 'completed' WHERE id = 3");
    assert!(beat(&mut client, "dead") > NEW_BASE, "a dead worker that returns gets a new number");
    assert!(beat(&mut client, "gone") > NEW_BASE, "and so does one whose death was pruned");
    assert_eq!(ledger(&mut client, "late"), [""; 0]);
    let problem =
        "SELECT count(*) FROM rgrid_health() WHERE check_name ~ '^jobs before failover' AND status <> 'ok'";
    assert_eq!(ask::<i64>(&mut client, problem, &[]), 0, "an update is no failover");
}

#[test]
fn an_update_from_0_2_0_runs_no_code_of_others() {
    let cluster = Cluster::quick().start();
    let database = cluster.empty_database("hostile");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE TABLE worker_heartbeats (worker_id text PRIMARY KEY, last_heartbeat_at timestamptz NOT NULL)",
    );
    create_attacker(&mut client, "app");
    run(
        &mut client,
        "CREATE EXTENSION rgrid_heartbeat VERSION '0.2.0';
         INSERT INTO rgrid_incarnations VALUES ('', 2);
         INSERT INTO rgrid_worker_deaths VALUES ('w', 1, NULL, now(), now(), 'stale');
         CREATE TRIGGER climb BEFORE INSERT ON rgrid_incarnations FOR EACH ROW EXECUTE FUNCTION app.climbing();
         CREATE RULE climb AS ON INSERT TO rgrid_incarnations DO ALSO SELECT app.climb('');
         DROP TABLE worker_heartbeats;
         CREATE VIEW worker_heartbeats AS SELECT 'w' AS worker_id, now() AS last_heartbeat_at WHERE app.climb('')",
    );
    update(&mut client);
    assert!(!is_superuser(&mut client, "app"));
}
