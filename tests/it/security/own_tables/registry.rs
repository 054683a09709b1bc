//! The registry of watched tables: its rows count only if the owner of the watched table or a superuser made them.

use super::{await_end_of_problems, await_sweep_of, called, own_objects, silent_with_job, swept};
use crate::cluster::*;
use postgres::Client;

/// A table of somebody else.
fn secret(client: &mut Client) {
    run(
        client,
        "CREATE TABLE secret (worker_id text, status text); INSERT INTO secret VALUES ('victim', 'keep')",
    );
}

#[test]
fn a_row_of_the_registry_counts_only_for_those_who_have_the_rights_of_the_tables_owner() {
    let cluster = called();
    let database = cluster.database("registry");
    let mut client = database.connect();
    await_sweep_of(&mut client);
    create_attacker(&mut client, "intruder");
    secret(&mut client);
    run(
        &mut client,
        "GRANT SELECT, INSERT, UPDATE ON rgrid_job_tables TO intruder;
         CREATE TABLE intruder.jobs (worker_id text, status text); ALTER TABLE intruder.jobs OWNER TO intruder;
         INSERT INTO intruder.jobs VALUES ('victim', 'keep');
         CREATE TABLE watched (worker_id text, status text);
         SELECT rgrid_watch_jobs('watched', error_column => NULL, finished_column => NULL)",
    );
    let mut intruder = database.connect_as("intruder");
    let entry = |table: &str, column: &str, role: &str| {
        format!(
            "INSERT INTO rgrid_job_tables (job_table, running_status, dead_status, error_column, finished_column{column})
             VALUES ('{table}', 'keep', 'taken', NULL, NULL{role})"
        )
    };
    for role in ["'postgres'", "'pg_monitor'", "'not there'", "NULL"] {
        let forged = entry("secret", ", watched_by", &format!(", {role}"));
        assert_eq!(sqlstate(&mut intruder, &forged), "23514", "{role}");
    }
    assert_eq!(sqlstate(&mut intruder, "UPDATE rgrid_job_tables SET job_table = 'secret'"), "23514");
    run(&mut intruder, &entry("secret", "", ""));
    run(&mut intruder, &entry("intruder.jobs", "", ""));
    silent_with_job(&mut client, "victim");
    sweep_away(&mut client, "victim");
    assert_eq!(failed_jobs(&mut client, "victim"), 1);
    assert_eq!(ask::<String>(&mut client, "SELECT status FROM secret", &[]), "keep");
    assert_eq!(ask::<String>(&mut client, "SELECT status FROM intruder.jobs", &[]), "taken", "its own");
    let check = "SELECT detail FROM rgrid_health() WHERE check_name = 'job tables' AND status = 'error'";
    let detail: String = ask(&mut client, check, &[]);
    assert!(detail.contains("public.secret: its entry was made by role \"intruder\""), "{detail}");

    // Its owner watches it after all.
    run(
        &mut client,
        "SELECT rgrid_watch_jobs('secret', running_status => 'keep', error_column => NULL, finished_column => NULL)",
    );
    run(&mut client, "SELECT rgrid_sweep()");
    assert_eq!(ask::<String>(&mut client, "SELECT status FROM secret", &[]), "failed");
}

#[test]
fn a_trigger_cannot_forge_who_made_a_row_of_the_registry() {
    let cluster = called();
    let database = cluster.database("forged");
    let mut client = database.connect();
    await_sweep_of(&mut client);
    create_attacker(&mut client, "forger");
    secret(&mut client);
    // In one transaction, so that no sweeper disables the trigger before.
    run(
        &mut client,
        "CREATE FUNCTION forger.forge() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN NEW.watched_by = 'postgres'; RETURN NEW; END$$;
         BEGIN; GRANT ALL ON rgrid_job_tables TO forger; SET ROLE forger;
         CREATE TRIGGER forge BEFORE INSERT OR UPDATE ON rgrid_job_tables FOR EACH ROW EXECUTE FUNCTION forger.forge()",
    );
    let entry =
        "INSERT INTO rgrid_job_tables (job_table, running_status, dead_status, error_column, finished_column)
                 VALUES ('secret', 'keep', 'taken', NULL, NULL)";
    assert_eq!(sqlstate(&mut client, entry), "23514");
    run(&mut client, "ROLLBACK");
}

#[test]
fn an_entry_of_a_role_that_is_gone_is_left_out_and_reported() {
    let cluster = swept();
    let database = cluster.database("orphaned");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE ROLE leaver SUPERUSER; SET ROLE leaver; SELECT rgrid_watch_jobs('executions', dead_status => 'lost');
         RESET ROLE; CREATE TABLE tasks (LIKE executions); SELECT rgrid_watch_jobs('tasks')",
    );
    let by = "SELECT string_agg(watched_by, ' ' ORDER BY job_table::text) FROM rgrid_job_tables";
    assert_eq!(ask::<String>(&mut client, by, &[]), "leaver postgres");
    silent_with_job(&mut client, "first");
    await_death(&mut client, "first");
    assert_eq!(jobs(&mut client, "first", "lost"), 1);
    run(&mut client, "DROP ROLE leaver");
    wait_until("the entry to be reported", || {
        let sql = "SELECT count(*) = 1 FROM pg_stat_rgrid_problems
                   WHERE datname = current_database() AND relid = 'executions'::regclass AND message LIKE '%leaver%'";
        ask(&mut client, sql, &[])
    });
    silent_with_job(&mut client, "second");
    await_death(&mut client, "second");
    assert_eq!(failed_jobs(&mut client, "second"), 1, "as it is watched without an entry");
    run(&mut client, "SELECT rgrid_watch_jobs('executions')");
    await_end_of_problems(&mut client);
}

#[test]
fn an_update_runs_no_code_of_others_and_keeps_the_watches() {
    let cluster = Cluster::builder().start();
    let database = cluster.empty_database("updated");
    let mut client = database.connect();
    run(&mut client, "CREATE EXTENSION rgrid_heartbeat VERSION '0.1.0'");
    create_attacker(&mut client, "early");
    run(
        &mut client,
        "CREATE TABLE early.tasks (LIKE worker_heartbeats); ALTER TABLE early.tasks OWNER TO early;
         INSERT INTO rgrid_job_tables (job_table) VALUES ('early.tasks'), ('worker_heartbeats');
         GRANT ALL ON ALL TABLES IN SCHEMA public TO early; SET ROLE early;
         CREATE TRIGGER climbing BEFORE UPDATE ON rgrid_job_tables FOR EACH ROW EXECUTE FUNCTION early.climbing();
         RESET ROLE; ALTER EXTENSION rgrid_heartbeat UPDATE",
    );
    assert!(!is_superuser(&mut client, "early"));
    let by = "SELECT count(*) FROM rgrid_job_tables WHERE watched_by IS NULL";
    assert_eq!(ask::<i64>(&mut client, by, &[]), 2, "which counts as their owners");
    wait_until("the trigger to be disabled", || own_objects(&mut client).0 == "ok");
    let watched = "SELECT status FROM rgrid_health() WHERE check_name = 'job tables'";
    assert_eq!(ask::<String>(&mut client, watched, &[]), "ok");
}
