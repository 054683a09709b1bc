//! A database that goes on from an earlier moment or from a copy: by a failover that lost the last transactions, a
//! restored dump, or a template. No number that a worker was told there is told again, and jobs whose end was lost are
//! found.

use crate::cluster::*;
use postgres::Client;
use std::thread;

const RAISED: &str = "new incarnations begin at";

fn register(client: &mut Client, worker: &str) -> i64 {
    ask(client, "SELECT incarnation FROM rgrid_register($1)", &[&worker])
}

/// A standby that gets nothing more from its primary.
fn cut_off(primary: &Cluster) -> Cluster {
    let standby = primary.standby();
    standby.catch_up_with(primary);
    standby.set("primary_conninfo", "");
    let sql = "SELECT count(*) = 0 FROM pg_stat_replication";
    wait_until("the standby to be cut off", || ask(&mut primary.connect("postgres"), sql, &[]));
    standby
}

#[test]
fn a_failover_that_lost_deaths_gives_no_number_a_second_time() {
    let primary = Cluster::builder().start();
    let database = primary.database("grid");
    let mut client = database.connect();
    for (worker, lives) in [("living", 1), ("phoenix", 2), ("restarted", 1), ("left", 1)] {
        (1..=lives).for_each(|life| assert_eq!(register(&mut client, worker), life, "{worker}"));
    }
    claim_jobs(&mut client, "left", 1);
    run(&mut client, "SELECT rgrid_deregister('left')");
    let standby = cut_off(&primary);
    let mut waiting = standby.connect("grid");
    assert_eq!(sqlstate(&mut waiting, "SELECT rgrid_heartbeat('living')"), "25006");
    let lost = [("restarted", 2), ("restarted", 3), ("unknown", 1)];
    for (worker, number) in lost {
        assert_eq!(register(&mut client, worker), number, "{worker}");
    }
    assert_eq!(beat(&mut client, "left"), 2);
    primary.stop("immediate");
    standby.promote();

    let client = &mut waiting;
    assert_eq!((beat(client, "living"), beat(client, "phoenix")), (1, 2), "they live on");
    let numbers = [beat(client, "left"), beat(client, "unknown"), register(client, "restarted")];
    assert!(numbers.iter().all(|number| *number > NEW_BASE), "they were told 2, 1 and 3: {numbers:?}");
    assert_eq!(register(client, "restarted"), numbers[2] + 1);
    assert!(register(client, "living") > NEW_BASE, "after a death");
    // A sweeper may have been asked for a number at the same moment, and neither waits for the other.
    let raised = standby.log_lines_with(&[RAISED]).len();
    assert!([1, 2].contains(&raised), "{raised}");

    standby.restart("fast");
    let mut client = standby.connect("grid");
    let again = ["left", "unknown", "restarted"].map(|worker| slow_beat(&mut client, worker, "another host"));
    assert_eq!(again, [numbers[0], numbers[1], numbers[2] + 1], "a restart changes no number");
    assert_eq!(slow_beat(&mut client, "phoenix", "another host"), 2);
    assert_eq!(standby.log_lines_with(&[RAISED]).len(), raised, "the timeline is the same");
}

/// Sessions that need a new number at the same time do not wait for each other's transactions.
#[test]
fn no_worker_waits_for_the_transaction_of_another_one_after_a_failover() {
    let primary = Cluster::builder().start();
    let database = primary.database("grid");
    beat(&mut database.connect(), "known");
    let standby = cut_off(&primary);
    primary.stop("immediate");
    standby.promote();
    let (mut open, mut other) = (standby.connect("grid"), standby.connect("grid"));
    run(&mut open, "BEGIN");
    let first = beat(&mut open, "first");
    run(
        &mut other,
        "SET lock_timeout = '10s'; SET rgrid_heartbeat.call_timeout = '10s'; SET statement_timeout = '20s'",
    );
    let second = beat(&mut other, "second");
    run(&mut open, "ROLLBACK");
    assert!(first > NEW_BASE && second > NEW_BASE, "{first}, {second}");
    assert_eq!(beat(&mut other, "known"), 1);
    assert!(beat(&mut open, "first") >= first, "what was rolled back was told, too");
}

#[test]
fn workers_that_are_first_heard_at_the_same_time_begin_at_1() {
    let cluster = Cluster::quick().start();
    for round in 0..20 {
        let database = cluster.database(&format!("round_{round}"));
        let mut clients: Vec<Client> = (0..8).map(|_| database.connect()).collect();
        thread::scope(|scope| {
            for (number, client) in clients.iter_mut().enumerate() {
                scope.spawn(move || assert_eq!(beat(client, &format!("w{number}")), 1));
            }
        });
    }
}

#[test]
fn a_job_whose_end_was_lost_is_found_under_its_living_worker() {
    const CHECK: &str = "jobs before failover public.executions";
    let primary = Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "3s").start();
    let database = primary.database("grid");
    let mut client = database.connect();
    let beats = Beating::calling(database.connect(), "busy");
    claim_jobs(&mut client, "busy", 2);
    assert_eq!(status(&mut client, CHECK), "ok");
    let standby = cut_off(&primary);
    run(&mut client, "UPDATE executions SET status = 'completed' WHERE worker_id = 'busy'");
    drop(beats);
    primary.stop("immediate");
    standby.promote();

    let mut client = standby.connect("grid");
    let _beats = Beating::calling(standby.connect("grid"), "busy");
    claim_jobs(&mut client, "busy", 1);
    wait_until("the check to find them", || status(&mut client, CHECK) == "warning");
    let detail = "SELECT detail FROM rgrid_health() WHERE check_name = $1";
    let detail: String = ask(&mut client, detail, &[&CHECK]);
    assert!(detail.contains(" 2 running jobs of 1 living workers were claimed before "), "{detail}");
    assert!(detail.contains("'busy'"), "{detail}");
    // One that the worker really runs; it takes it up as the documents say.
    run(
        &mut client,
        "UPDATE executions SET status = 'running'
         WHERE id = (SELECT min(id) FROM executions) AND worker_id = 'busy' AND status = 'running'",
    );
    let detail: String =
        ask(&mut client, "SELECT detail FROM rgrid_health() WHERE check_name = $1", &[&CHECK]);
    assert!(detail.contains(" 1 running jobs of 1 living workers "), "{detail}");
    run(&mut client, "SELECT rgrid_register('busy')");
    assert_eq!(status(&mut client, CHECK), "ok");
    assert_eq!(failed_jobs(&mut client, "busy"), 3);
}

/// The statement of the documents with which a worker takes up what runs under its id.
fn take_up(client: &mut Client, worker: &str) -> usize {
    let page = include_str!("../../../docs/workers.md");
    let section = page.split("## Jobs that are yours and that you do not run").nth(1).expect("it is there");
    let statement =
        section.split("```sql").nth(1).and_then(|rest| rest.split("```").next()).expect("it is SQL");
    assert!(statement.contains("'worker-2'"), "{statement}");
    let statement = statement.trim().trim_end_matches(';').replace("'worker-2'", &format!("'{worker}'"));
    client.query(&statement, &[]).expect("a worker can take up its jobs").len()
}

#[test]
fn a_recovery_to_a_point_in_time_gives_no_number_a_second_time_and_finds_jobs_that_had_ended() {
    let archive = archive();
    // With the default threshold: nobody dies while the backup is made, however long that takes.
    let primary = Cluster::builder()
        .setting("archive_mode", "on")
        .setting("archive_command", &format!("cp %p {}/%f", archive.display()))
        .start();
    let database = primary.database("grid");
    let mut client = database.connect();
    assert_eq!((register(&mut client, "worker"), beat(&mut client, "busy")), (1, 1));
    claim_jobs(&mut client, "busy", 1);
    let backup = primary.base_backup();
    backup.append_line("rgrid_heartbeat.stale_threshold = '3s'");
    run(&mut client, "SELECT pg_create_restore_point('then')");
    assert_eq!(register(&mut client, "worker"), 2);
    run(&mut client, "UPDATE executions SET status = 'completed' WHERE worker_id = 'busy'");
    let last: String = ask(&mut client, "SELECT pg_walfile_name(pg_switch_wal())", &[]);
    let archived = "SELECT coalesce(last_archived_wal >= $1, false) FROM pg_stat_archiver";
    wait_until("the last segment to be archived", || ask(&mut client, archived, &[&last]));
    primary.stop("immediate");

    backup.recover_to(&archive, "then");
    let mut client = backup.connect("grid");
    let _beats = Beating::calling(backup.connect("grid"), "busy");
    assert_eq!((beat(&mut client, "worker"), beat(&mut client, "busy")), (1, 1), "they live on");
    let number = register(&mut client, "worker");
    assert!((NEW_BASE..1 << 53).contains(&number), "it was told 2 before, and is told {number}");
    let check = "jobs before failover public.executions";
    wait_until("the check to find the job", || status(&mut client, check) == "warning");
    assert_eq!(take_up(&mut client, "busy"), 1);
    assert_eq!(status(&mut client, check), "ok");
}

fn status(client: &mut Client, check: &str) -> String {
    ask(client, "SELECT status FROM rgrid_health() WHERE check_name = $1", &[&check])
}

#[test]
fn no_copy_of_a_database_gives_a_number_a_second_time() {
    let cluster = Cluster::builder().start();
    let (database, _restored) = (cluster.database("grid"), cluster.empty_database("restored"));
    let mut client = database.connect();
    assert_eq!((register(&mut client, "worker"), register(&mut client, "other")), (1, 1));
    let dump = cluster.dump("grid");
    assert_eq!(register(&mut client, "worker"), 2);
    drop(client);
    cluster.restore(&dump, "restored");
    it_went_back(&mut cluster.connect("restored"));
    run(&mut cluster.connect("postgres"), "CREATE DATABASE copy TEMPLATE grid");
    let mut copy = cluster.connect("copy");
    assert_eq!(beat(&mut copy, "worker"), 2, "it is alive there");
    assert!(register(&mut copy, "worker") > NEW_BASE);
    // Into the same database.
    cluster.run_script(&format!("pg_restore --clean --if-exists --exit-on-error -d grid {}", dump.display()));
    it_went_back(&mut cluster.connect("grid"));
}

/// To a moment in which both workers had the number 1.
fn it_went_back(client: &mut Client) {
    assert_eq!((beat(client, "worker"), beat(client, "other")), (1, 1), "they live on");
    assert!(register(client, "worker") > NEW_BASE, "it was told 2");
    assert!(beat(client, "unknown") > NEW_BASE, "it may have been here after the dump");
}

#[test]
fn a_dump_of_a_database_in_which_no_number_was_given_begins_at_1() {
    let cluster = Cluster::builder().start();
    let (database, restored) = (cluster.database("grid"), cluster.empty_database("restored"));
    cluster.restore(&cluster.dump("grid"), "restored");
    for database in [&database, &restored] {
        let mut client = database.connect();
        assert_eq!((beat(&mut client, "worker"), register(&mut client, "worker")), (1, 2));
    }
}

/// A worker of an adopted table is known by its row.
#[test]
fn workers_of_an_adopted_table_live_on_and_others_get_a_new_number() {
    let primary = Cluster::builder().start();
    let database = primary.rgrid_database("rgrid");
    let mut client = database.connect();
    run(
        &mut client,
        "INSERT INTO workers SELECT w, NULL, NULL, 'active', 1, now() FROM unnest('{known,new}'::text[]) w",
    );
    assert_eq!(beat(&mut client, "known"), 1);
    let standby = cut_off(&primary);
    assert_eq!(beat(&mut client, "new"), 1);
    primary.stop("immediate");
    standby.promote();
    let mut client = standby.connect("rgrid");
    assert_eq!(beat(&mut client, "known"), 1);
    let number = beat(&mut client, "new");
    assert!(number > NEW_BASE, "its row was lost: {number}");
    assert_eq!(slow_beat(&mut client, "new", "host"), number);
    assert!(register(&mut client, "known") > NEW_BASE);
}
