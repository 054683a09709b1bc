//! Tables of others that refer to the heartbeats: what a deleted row sets off there runs with the rights of their
//! owners.

use super::{called, create_owner, swept};
use crate::cluster::*;
use postgres::Client;

/// A role whose table refers to the heartbeats, with triggers that climb and one that notes who runs it.
fn referring(client: &mut Client, me: &str, table: &str) {
    create_owner(client, me);
    let sql = "
        GRANT REFERENCES ON worker_heartbeats TO @me; SET ROLE @me;
        CREATE TABLE @me.notes (who text);
        CREATE FUNCTION @me.note() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN INSERT INTO @me.notes VALUES (current_user); RETURN NULL; END$$;
        @table; RESET ROLE; REVOKE REFERENCES ON worker_heartbeats FROM @me";
    run(client, &sql.replace("@table", table).replace("@me", me));
}

const CASCADE: &str = "
    CREATE TABLE @me.jobs (worker_id text REFERENCES worker_heartbeats ON DELETE CASCADE);
    CREATE TRIGGER a AFTER DELETE ON @me.jobs FOR EACH ROW EXECUTE FUNCTION @me.climbing();
    CREATE TRIGGER b AFTER DELETE ON @me.jobs EXECUTE FUNCTION @me.climbing();
    CREATE TRIGGER c AFTER DELETE ON @me.jobs FOR EACH ROW EXECUTE FUNCTION @me.note()";

/// A constraint that is checked when the statement has ended, with a function.
const SET_NULL: &str = "
    CREATE TABLE @me.jobs (worker_id text REFERENCES worker_heartbeats ON DELETE SET NULL,
        EXCLUDE ((coalesce(worker_id, 'none') || @me.sly(worker_id)) WITH =) DEFERRABLE);
    CREATE TRIGGER c AFTER UPDATE ON @me.jobs FOR EACH ROW EXECUTE FUNCTION @me.note()";

/// What refers to a table that refers to the heartbeats.
const CHAIN: &str = "
    CREATE TABLE @me.jobs (worker_id text PRIMARY KEY REFERENCES worker_heartbeats ON DELETE CASCADE);
    CREATE TABLE @me.parts (worker_id text REFERENCES @me.jobs ON DELETE CASCADE);
    CREATE TRIGGER a AFTER DELETE ON @me.parts FOR EACH ROW EXECUTE FUNCTION @me.climbing();
    CREATE TRIGGER c AFTER DELETE ON @me.parts FOR EACH ROW EXECUTE FUNCTION @me.note()";

const PARTITIONS: &str = "
    CREATE TABLE @me.jobs (worker_id text REFERENCES worker_heartbeats ON DELETE CASCADE) PARTITION BY LIST (worker_id);
    CREATE TABLE @me.rest PARTITION OF @me.jobs DEFAULT;
    CREATE TRIGGER a AFTER DELETE ON @me.rest FOR EACH ROW EXECUTE FUNCTION @me.climbing();
    CREATE TRIGGER c AFTER DELETE ON @me.rest FOR EACH ROW EXECUTE FUNCTION @me.note()";

const RULE: &str = "
    CREATE TABLE @me.jobs (worker_id text REFERENCES worker_heartbeats ON DELETE CASCADE);
    CREATE TABLE @me.log (worker_id text);
    CREATE RULE r AS ON DELETE TO @me.jobs DO ALSO INSERT INTO @me.log VALUES (OLD.worker_id);
    CREATE TRIGGER a AFTER INSERT ON @me.log FOR EACH ROW EXECUTE FUNCTION @me.climbing();
    CREATE TRIGGER c AFTER INSERT ON @me.log FOR EACH ROW EXECUTE FUNCTION @me.note()";

fn has_row(client: &mut Client, worker: &str) -> bool {
    ask(client, "SELECT EXISTS (SELECT FROM worker_heartbeats WHERE worker_id = $1)", &[&worker])
}

/// Its triggers have run, with the rights of their owner alone.
fn assert_noted(client: &mut Client, me: &str) {
    let notes: String = ask(client, &format!("SELECT string_agg(who, ' ') FROM {me}.notes"), &[]);
    assert_eq!(notes, me, "as whom the triggers ran");
    assert!(!is_superuser(client, me), "{me}");
}

#[test]
fn what_a_deregistration_sets_off_at_a_table_that_refers_to_the_row_has_its_owners_rights() {
    let cluster = called();
    let shapes = [
        ("cascading", CASCADE),
        ("nulling", SET_NULL),
        ("chained", CHAIN),
        ("split", PARTITIONS),
        ("ruled", RULE),
    ];
    for (me, table) in shapes {
        let database = cluster.database(&format!("leaving_{me}"));
        let mut client = database.connect();
        referring(&mut client, me, table);
        let parts = if me == "chained" { "INSERT INTO chained.parts VALUES ('w')" } else { "" };
        let jobs = format!("SET ROLE {me}; INSERT INTO {me}.jobs VALUES ('w'); {parts}; RESET ROLE");
        run(&mut client, "SELECT rgrid_register('w')");
        run(&mut client, &jobs);
        run(&mut client, "SELECT rgrid_deregister('w')");
        assert!(!has_row(&mut client, "w"), "{me}");
        assert_eq!(
            ask::<i64>(&mut client, &format!("SELECT count(worker_id) FROM {me}.jobs"), &[]),
            0,
            "{me}"
        );
        assert_noted(&mut client, me);
    }
}

#[test]
fn in_a_transaction_with_one_snapshot_it_has_its_owners_rights_too() {
    let cluster = called();
    let database = cluster.database("leaving_isolated");
    let mut client = database.connect();
    referring(&mut client, "isolated", CASCADE);
    run(&mut client, "SELECT rgrid_register('w'); INSERT INTO isolated.jobs VALUES ('w')");
    run(&mut client, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT rgrid_deregister('w'); COMMIT");
    assert!(!has_row(&mut client, "w"));
    assert_noted(&mut client, "isolated");
}

#[test]
fn what_pruning_and_a_handed_over_id_set_off_has_the_owners_rights() {
    let cluster = Shared::of(|| {
        Cluster::quick()
            .setting("rgrid_heartbeat.stale_threshold", "1s")
            .setting("rgrid_heartbeat.retention", "1s")
    });
    let database = cluster.database("pruned_references");
    let mut client = database.connect();
    referring(&mut client, "pruned", CASCADE);
    silent_worker(&mut client, "w");
    run(&mut client, "INSERT INTO pruned.jobs VALUES ('w')");
    wait_until("the row to be pruned", || !has_row(&mut client, "w"));
    assert_noted(&mut client, "pruned");
    run(
        &mut client,
        "CREATE ROLE heir; INSERT INTO rgrid_worker_owners VALUES ('restored', 'pruned');
         SELECT rgrid_reassign_worker('restored', 'heir')",
    );
    assert!(!is_superuser(&mut client, "pruned"), "by a trigger of the statement");
}

#[test]
fn a_row_stays_where_triggers_of_several_owners_would_run() {
    let cluster = swept();
    let database = cluster.database("several_owners");
    let mut client = database.connect();
    referring(&mut client, "thief", CASCADE);
    referring(&mut client, "neighbour", CASCADE);
    run(
        &mut client,
        "SELECT rgrid_register('w'); INSERT INTO thief.jobs VALUES ('w'); INSERT INTO neighbour.jobs VALUES ('w')",
    );
    assert!(ask::<bool>(&mut client, "SELECT rgrid_deregister('w')", &[]));
    for role in ["thief", "neighbour"] {
        assert!(!is_superuser(&mut client, role), "{role}");
    }
    let runs_as_queued: bool =
        ask(&mut client, "SELECT current_setting('server_version_num')::int >= 180000", &[]);
    if runs_as_queued {
        assert!(!has_row(&mut client, "w"));
        return;
    }
    assert!(has_row(&mut client, "w"));
    assert_eq!(ledger(&mut client, "w"), ["1 deregistered 0 gone"]);
    let warnings = cluster.log_lines_with(&["row of worker \"w\" stays", "neighbour", "thief"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    run(&mut client, "DROP TABLE neighbour.jobs; SELECT rgrid_register('w'), rgrid_deregister('w')");
    assert!(!has_row(&mut client, "w"));
    assert_noted(&mut client, "thief");
}
