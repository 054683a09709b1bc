//! Which databases are swept: those that have the extension, whenever they got it, and none is held up by it.

use crate::cluster::*;
use postgres::Client;

/// Sweeps so often that whatever can collide with a sweep does.
fn server() -> Shared {
    Shared::of(|| {
        let builder = Cluster::quick().setting("rgrid_heartbeat.check_interval", "100ms");
        builder.setting("rgrid_heartbeat.stale_threshold", "1s")
    })
}

#[test]
fn every_database_with_the_extension_is_swept_and_no_other() {
    let cluster = server();
    let (one, two, without) =
        (cluster.database("one"), cluster.database("two"), cluster.empty_database("without"));
    let (mut one, mut two, mut without) = (one.connect(), two.connect(), without.connect());
    rgrid_tables(&mut without);
    upsert_like_python(&mut without, "ours", HOUR);
    for client in [&mut one, &mut two, &mut without] {
        claim_jobs(client, "ours", 2);
    }
    for client in [&mut one, &mut two] {
        silent_worker(client, "ours");
    }

    for client in [&mut one, &mut two] {
        await_death(client, "ours");
        assert_eq!(failed_jobs(client, "ours"), 2);
        await_sweep(client, "a-later-victim");
    }
    assert_eq!(jobs(&mut without, "ours", "running"), 2);
}

#[test]
fn an_extension_dropped_and_created_again_is_noticed() {
    let cluster = server();
    let database = cluster.empty_database("again");
    let mut client = database.connect();
    for round in 1..=5 {
        run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
        let worker = format!("victim-{round}");
        await_sweep(&mut client, &worker);
        run(&mut client, "DROP EXTENSION rgrid_heartbeat");
    }
    assert_eq!(cluster.worker_errors(), Vec::<String>::new(), "dropping the extension is no error");
}

#[test]
fn an_extension_that_was_rolled_back_leaves_no_trace() {
    let cluster = server();
    let database = cluster.empty_database("undecided");
    let mut client = database.connect();
    run(&mut client, "BEGIN; CREATE EXTENSION rgrid_heartbeat");
    sweep_elsewhere(&cluster, "meanwhile");
    run(&mut client, "ROLLBACK");
    sweep_elsewhere(&cluster, "afterwards");
    assert_eq!(cluster.worker_errors(), Vec::<String>::new());

    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
    await_sweep(&mut client, "found-in-the-end");
}

/// What is wrong in one database, or undecided, must not delay the others.
fn sweep_elsewhere(cluster: &Cluster, name: &str) {
    let database = cluster.database(name);
    await_sweep(&mut database.connect(), "a-victim");
}

#[test]
fn sweeping_holds_up_no_drop_rename_or_copy_of_a_database() {
    let cluster = server();
    let mut admin = cluster.connect("postgres");
    for round in 1..=4 {
        run(&mut admin, "CREATE DATABASE origin");
        let mut client = cluster.connect("origin");
        run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
        await_sweep(&mut client, "found-in-the-origin");
        drop(client);

        run(&mut admin, "CREATE DATABASE copy TEMPLATE origin");
        await_sweep(&mut cluster.connect("copy"), "found-in-the-copy");
        run(&mut admin, "ALTER DATABASE copy RENAME TO renamed");
        await_sweep(&mut cluster.connect("renamed"), "found-under-the-new-name");
        let lost: i64 = ask(&mut cluster.connect("renamed"), "SELECT count(*) FROM rgrid_worker_deaths", &[]);
        assert_eq!(lost, 3, "round {round}: a copy keeps its ledger");
        run(&mut admin, "DROP DATABASE renamed");
        run(&mut admin, "DROP DATABASE origin");
    }
}

#[test]
fn a_table_that_cannot_be_settled_delays_no_other_database() {
    let cluster = Cluster::quick().start();
    let broken = cluster.empty_database("broken");
    let mut broken_client = broken.connect();
    run(&mut broken_client, "CREATE EXTENSION rgrid_heartbeat");
    executions_table(&mut broken_client);
    run(&mut broken_client, "ALTER TABLE executions RENAME COLUMN completed_at TO ended_at");
    silent_worker(&mut broken_client, "unlucky");
    claim_jobs(&mut broken_client, "unlucky", 2);

    let sound = cluster.database("sound");
    let mut sound_client = sound.connect();
    for worker in ["first", "second", "third"] {
        claim_jobs(&mut sound_client, worker, 1);
        await_sweep(&mut sound_client, worker);
        assert_eq!(failed_jobs(&mut sound_client, worker), 1);
    }
    wait_until("a message that names the column", || !cluster.log_lines_with(&["completed_at"]).is_empty());
    assert_eq!(jobs(&mut broken_client, "unlucky", "running"), 2);
    fixed_it_is_settled(&mut broken_client);
}

fn fixed_it_is_settled(client: &mut Client) {
    run(client, "ALTER TABLE executions RENAME COLUMN ended_at TO completed_at");
    wait_until("the jobs to be settled", || failed_jobs(client, "unlucky") == 2);
    assert_eq!(deaths(client, "unlucky"), 1);
}

#[test]
fn a_database_in_another_encoding_is_refused_and_harms_no_other() {
    let cluster = server();
    let mut admin = cluster.connect("postgres");
    run(&mut admin, "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    let mut client = cluster.connect("latin");
    assert_eq!(sqlstate(&mut client, "CREATE EXTENSION rgrid_heartbeat"), "0A000");
    drop(client);
    sweep_elsewhere(&cluster, "utf8");
    run(&mut admin, "DROP DATABASE latin");
}

#[test]
fn databases_that_wait_for_locks_starve_no_other() {
    let cluster = Cluster::quick().start();
    let stuck = ["stuck1", "stuck2", "stuck3", "stuck4", "stuck5"].map(|name| cluster.database(name));
    let blockers = stuck.each_ref().map(|database| {
        let mut client = database.connect();
        claim_jobs(&mut client, "victim", 1);
        silent_worker(&mut client, "victim");
        run(&mut client, "BEGIN; LOCK TABLE executions");
        client
    });
    wait_until("a sweeper that waits for a table", || cluster.waiting_sweeper().is_some());
    for name in ["free1", "free2"] {
        sweep_elsewhere(&cluster, name);
    }
    drop(blockers);
    for database in &stuck {
        let mut client = database.connect();
        wait_until("the jobs to be settled", || failed_jobs(&mut client, "victim") == 1);
        assert_eq!(deaths(&mut client, "victim"), 1);
    }
}

#[test]
fn what_a_database_sets_for_its_sessions_does_not_stop_the_sweeper() {
    let cluster = server();
    let database = cluster.database("peculiar");
    let mut admin = cluster.connect("postgres");
    for setting in [
        "default_transaction_read_only = on",
        "default_transaction_isolation = serializable",
        "search_path = ''",
        "statement_timeout = 1",
        "lock_timeout = 1",
        "idle_in_transaction_session_timeout = 1",
        "timezone = 'Asia/Kolkata'",
        "datestyle = 'German'",
        "role = pg_monitor",
        "client_min_messages = debug5",
    ] {
        run(&mut admin, &format!("ALTER DATABASE peculiar SET {setting}"));
    }
    let mut client = database.connect();
    let reset = "SET role = none; SET default_transaction_read_only = off; SET search_path = public;
                 SET statement_timeout = 0; SET client_min_messages = notice";
    run(&mut client, reset);
    claim_jobs(&mut client, "victim", 2);
    await_sweep(&mut client, "victim");
    assert_eq!(failed_jobs(&mut client, "victim"), 2);
}

#[test]
fn an_extension_in_the_template_is_in_every_new_database() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.check_interval", "20ms").start();
    run(&mut cluster.connect("template1"), "CREATE EXTENSION rgrid_heartbeat");
    for name in ["born1", "born2", "born3"] {
        let database = cluster.empty_database(name);
        await_sweep(&mut database.connect(), "victim");
    }
    let mut admin = cluster.connect("postgres");
    run(&mut admin, "CREATE DATABASE closed ALLOW_CONNECTIONS false");
    let database = cluster.empty_database("born4");
    await_sweep(&mut database.connect(), "victim");
    assert_eq!(cluster.worker_errors(), Vec::<String>::new(), "no sweeper tries databases that are closed");
}

/// Entries of the catalog alone, in the place of a thousand databases: the launcher lists them, and sweepers of them
/// fail at once.
#[test]
fn more_databases_than_fit_are_said_once_and_take_no_place_from_the_others() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("grid");
    let mut client = database.connect();
    await_sweep(&mut client, "first");
    let observed = observed_since(&mut client);
    assert!(observed.is_some(), "the database has a place");
    run(
        &mut client,
        "CREATE TEMP TABLE made_up AS SELECT * FROM pg_database WHERE datname = 'grid';
         DO $$
         BEGIN
             FOR n IN 1..1100 LOOP
                 UPDATE made_up SET oid = 100000 + n, datname = 'made_up_' || n;
                 INSERT INTO pg_database SELECT * FROM made_up;
             END LOOP;
         END
         $$",
    );
    let said = || cluster.log_lines_with(&["WARNING:", "too many databases to look after"]).len();
    wait_until("a word about the databases that do not fit", || said() > 0);
    assert_eq!(observed_since(&mut client), observed, "it has kept its place");
    // A sweeper is tried in each of them, which takes a busy machine longer than a test waits.
    run(&mut client, "DELETE FROM pg_database WHERE datname LIKE 'made_up_%'");
    await_sweep(&mut client, "second");
    assert_eq!((said(), observed_since(&mut client)), (1, observed));
}

/// Since when the launcher has had a place for this database; `None` without one.
fn observed_since(client: &mut Client) -> Option<String> {
    let sql =
        "SELECT max(observing_since)::text FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    ask(client, sql, &[])
}
