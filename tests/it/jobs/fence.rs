//! Fences: a job that a sweep has given up takes no late result, and everything else goes on as before.

use crate::cluster::*;
use postgres::Client;

/// Sweeps by hand.
fn server() -> Shared {
    Shared::of(|| Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h"))
}

/// RGrid's unconditional way of writing a result.
const COMPLETE: &str = "UPDATE executions SET status = 'completed', completed_at = timezone('UTC', now())";

/// A fenced table with a job that a sweep has failed.
fn given_up_job(client: &mut Client) {
    run(client, "SELECT rgrid_fence('executions'); SELECT rgrid_register('zombie')");
    claim_jobs(client, "zombie", 1);
    sweep_away(client, "zombie");
    assert_eq!(failed_jobs(client, "zombie"), 1, "the fence does not keep sweeps out");
}

#[test]
fn a_late_result_of_a_job_that_was_given_up_is_refused_and_says_why() {
    let cluster = server();
    let database = cluster.database("late");
    let mut client = database.connect();
    given_up_job(&mut client);
    let refusal = client.batch_execute(COMPLETE).expect_err("it is fenced");
    let refusal = refusal.as_db_error().expect("an error of the server");
    assert_eq!(refusal.code().code(), "55000");
    assert_eq!(refusal.message(), "job was given up because its worker was declared dead");
    assert!(refusal.detail().is_some_and(|detail| detail.contains("\"executions\"")), "{refusal:?}");
    assert!(refusal.hint().is_some_and(|hint| hint.contains("incarnation")), "{refusal:?}");
    assert_eq!(failed_jobs(&mut client, "zombie"), 1);
    for status in ["cancelled", "succeeded", "FAILED"] {
        assert_eq!(sqlstate(&mut client, &format!("UPDATE executions SET status = '{status}'")), "55000");
    }
}

#[test]
fn a_job_given_up_can_be_retried_and_its_new_result_counts() {
    let cluster = server();
    let database = cluster.database("retried");
    let mut client = database.connect();
    given_up_job(&mut client);
    run(&mut client, "UPDATE executions SET status = 'failed', stderr = 'noted'");
    run(&mut client, "UPDATE executions SET status = 'queued'");
    run(&mut client, "UPDATE executions SET status = 'running', worker_id = 'another'");
    run(&mut client, COMPLETE);
    assert_eq!(jobs(&mut client, "another", "completed"), 1);
}

#[test]
fn a_fence_leaves_other_failures_and_other_columns_alone() {
    let cluster = server();
    let database = cluster.database("untouched");
    let mut client = database.connect();
    given_up_job(&mut client);
    run(&mut client, "UPDATE executions SET stdout = 'late output'");
    claim_jobs(&mut client, "healthy", 2);
    run(
        &mut client,
        "UPDATE executions SET status = 'failed', execution_error = 'exit 1' WHERE worker_id = 'healthy'",
    );
    run(&mut client, "UPDATE executions SET status = 'completed' WHERE worker_id = 'healthy'");
    assert_eq!(jobs(&mut client, "healthy", "completed"), 2);
}

#[test]
fn without_a_fence_a_late_result_overwrites() {
    let cluster = server();
    let database = cluster.database("unfenced");
    let mut client = database.connect();
    assert!(!ask::<bool>(&mut client, "SELECT rgrid_unfence('executions')", &[]), "off by default");
    given_up_job(&mut client);
    run(&mut client, "SELECT rgrid_fence('executions')");
    assert!(
        ask::<bool>(&mut client, "SELECT rgrid_unfence('executions')", &[]),
        "put up twice, there is one"
    );
    assert!(!ask::<bool>(&mut client, "SELECT rgrid_unfence('executions')", &[]));
    run(&mut client, COMPLETE);
}

#[test]
fn only_the_owner_of_a_table_fences_it() {
    let cluster = server();
    let database = cluster.database("owned");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE ROLE grid; CREATE ROLE fencer LOGIN IN ROLE grid; CREATE ROLE fence_stranger LOGIN;
         GRANT EXECUTE ON FUNCTION rgrid_fence(regclass), rgrid_unfence(regclass) TO fencer, fence_stranger;
         ALTER TABLE executions OWNER TO grid",
    );
    let mut stranger = database.connect_as("fence_stranger");
    for call in ["rgrid_fence", "rgrid_unfence"] {
        assert_eq!(sqlstate(&mut stranger, &format!("SELECT {call}('executions')")), "42501");
    }
    let mut owner = database.connect_as("fencer");
    run(&mut owner, "SELECT rgrid_fence('executions')");
    drop((stranger, owner));
    given_up_job(&mut client);
    assert_eq!(sqlstate(&mut client, COMPLETE), "55000");
    run(&mut client, "REASSIGN OWNED BY grid TO postgres");
    run(&mut client, "DROP OWNED BY fencer, fence_stranger; DROP ROLE fencer, fence_stranger, grid");
}

#[test]
fn a_table_that_is_not_watched_cannot_be_fenced() {
    let cluster = server();
    let database = cluster.database("unwatched");
    let mut client = database.connect();
    run(&mut client, "CREATE TABLE tasks (status text)");
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_fence('tasks')"), "42704");
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_fence('pg_class')"), "42704");
}

#[test]
fn odd_names_partitions_and_tables_without_an_error_column_can_be_fenced() {
    let cluster = server();
    let database = cluster.database("odd");
    let mut client = database.connect();
    run(
        &mut client,
        r#"CREATE SCHEMA "Odd schema";
           CREATE TABLE "Odd schema"."Odd ""table" (n int, "Runner's id" text, "The state" text)
               PARTITION BY RANGE (n);
           CREATE TABLE "Odd schema".low PARTITION OF "Odd schema"."Odd ""table" FOR VALUES FROM (0) TO (10);
           INSERT INTO rgrid_job_tables (job_table, worker_column, status_column, running_status, dead_status,
                                         error_column, finished_column)
           VALUES ('"Odd schema"."Odd ""table"', 'Runner''s id', 'The state', 'it''s running', 'it''s \ lost',
                   NULL, NULL);
           SELECT rgrid_fence('"Odd schema"."Odd ""table"');
           SELECT rgrid_register('zombie');
           INSERT INTO "Odd schema"."Odd ""table" VALUES (1, 'zombie', 'it''s running'), (2, 'other', 'new')"#,
    );
    sweep_away(&mut client, "zombie");
    let late = r#"UPDATE "Odd schema"."Odd ""table" SET "The state" = 'done' WHERE n = "#;
    assert_eq!(sqlstate(&mut client, &format!("{late} 1")), "55000");
    run(&mut client, &format!("{late} 2"));
    run(&mut client, r#"UPDATE "Odd schema"."Odd ""table" SET "The state" = 'it''s running' WHERE n = 1"#);
    run(&mut client, &format!("{late} 1"));
    assert!(ask::<bool>(&mut client, r#"SELECT rgrid_unfence('"Odd schema"."Odd ""table"')"#, &[]));
}

#[test]
fn a_late_result_that_would_move_its_job_to_another_partition_is_refused() {
    let cluster = server();
    let database = cluster.database("moving");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE TABLE parted (worker_id text, status text, execution_error text, completed_at timestamptz)
             PARTITION BY LIST (status);
         CREATE TABLE parted_failed PARTITION OF parted FOR VALUES IN ('failed');
         CREATE TABLE parted_others PARTITION OF parted DEFAULT;
         INSERT INTO rgrid_job_tables VALUES ('parted');
         SELECT rgrid_fence('parted'), rgrid_register('zombie');
         INSERT INTO parted VALUES ('zombie', 'running')",
    );
    sweep_away(&mut client, "zombie");
    assert_eq!(sqlstate(&mut client, "UPDATE parted SET status = 'completed'"), "55000");
    run(&mut client, "UPDATE parted SET status = 'queued'");
}

#[test]
fn a_fence_survives_dump_and_restore_and_prevents_drop_extension() {
    let cluster = server();
    let (database, restored) = (cluster.database("dumped"), cluster.empty_database("restored"));
    let mut client = database.connect();
    given_up_job(&mut client);
    cluster.dump_and_restore("dumped", "restored");
    let mut copy = restored.connect();
    assert_eq!(sqlstate(&mut copy, COMPLETE), "55000");
    assert_eq!(sqlstate(&mut copy, "DROP EXTENSION rgrid_heartbeat"), "2BP01");
    run(&mut copy, "SELECT rgrid_unfence('executions'); DROP EXTENSION rgrid_heartbeat");
}
