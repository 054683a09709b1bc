//! Tables of the extension that were given to a role for a while, by a habit of an operator: what that role attached to
//! them is taken back with them.

use super::{create_owner, own_objects, silent_with_job, swept};
use crate::cluster::*;
use postgres::Client;

/// A table of the extension is given to a role, which attaches something to it. It is taken back with what was
/// attached, and none of that has run with more rights than the role has.
fn given_away(me: &str, table: &str, arm: &str) {
    let cluster = swept();
    let database = cluster.database(me);
    let mut client = database.connect();
    create_owner(&mut client, me);
    // Rows, so that nothing is left out because there is nothing to do.
    silent_with_job(&mut client, "earlier");
    await_death(&mut client, "earlier");
    silent_with_job(&mut client, "victim");
    let arm = arm.replace("@me", me).replace("@table", table);
    run(
        &mut client,
        &format!("BEGIN; ALTER TABLE {table} OWNER TO {me}; SET ROLE {me}; {arm}; COMMIT; RESET ROLE"),
    );
    await_death(&mut client, "victim");
    assert_eq!(failed_jobs(&mut client, "victim"), 1);
    let owner = format!("SELECT relowner::regrole::text FROM pg_class WHERE oid = '{table}'::regclass");
    assert_eq!(ask::<String>(&mut client, &owner, &[]), "postgres");
    wait_until("all to be as it was made", || own_objects(&mut client).0 == "ok");
    run(
        &mut client,
        &format!("ANALYZE {table}; SELECT rgrid_watch_jobs('executions'), rgrid_unwatch_jobs('executions')"),
    );
    lead_a_life_without_jobs(&mut client);
    assert!(!is_superuser(&mut client, me), "{arm}");
}

/// The table has its owner again when a sweeper looks, and what the role has attached is still there.
#[test]
fn a_constraint_and_a_default_that_an_owner_left_behind_are_dropped() {
    let cluster = swept();
    let database = cluster.database("leaving_traces");
    let mut client = database.connect();
    create_owner(&mut client, "tenant");
    silent_with_job(&mut client, "victim");
    run(
        &mut client,
        "BEGIN; ALTER TABLE rgrid_worker_deaths OWNER TO tenant; ALTER TABLE worker_heartbeats OWNER TO tenant; SET ROLE tenant;
         ALTER TABLE rgrid_worker_deaths ADD CONSTRAINT climbing CHECK (tenant.climb(worker_id));
         ALTER TABLE worker_heartbeats ADD note text; ALTER TABLE worker_heartbeats ALTER note SET DEFAULT tenant.word('');
         RESET ROLE; ALTER TABLE rgrid_worker_deaths OWNER TO postgres; ALTER TABLE worker_heartbeats OWNER TO postgres; COMMIT",
    );
    await_death(&mut client, "victim");
    assert_eq!(failed_jobs(&mut client, "victim"), 1);
    wait_until("a worker to be accepted", || client.batch_execute("SELECT rgrid_register('lively')").is_ok());
    lead_a_life_without_jobs(&mut client);
    assert_eq!(own_objects(&mut client).0, "ok");
    assert!(!is_superuser(&mut client, "tenant"));
}

fn lead_a_life_without_jobs(client: &mut Client) {
    run(client, "SELECT rgrid_register('lively'), rgrid_heartbeat('lively')");
    run(client, "SELECT rgrid_register('lively')");
    run(client, "SELECT rgrid_heartbeat('earlier'), rgrid_deregister('lively')");
}

#[test]
fn a_rule_of_an_owner_for_a_while_is_dropped() {
    let rule = "CREATE RULE climbing AS ON INSERT TO @table DO ALSO SELECT @me.climb('')";
    given_away("ruler", "rgrid_worker_deaths", rule);
    given_away("rule_maker", "rgrid_job_tables", &rule.replace("INSERT", "UPDATE"));
}

#[test]
fn a_policy_of_an_owner_for_a_while_is_no_longer_in_force() {
    let policy = "ALTER TABLE @table ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
                  CREATE POLICY climbing ON @table USING (@me.climb(''))";
    given_away("governor", "rgrid_worker_deaths", policy);
    given_away("president", "worker_heartbeats", policy);
}

#[test]
fn a_constraint_of_an_owner_for_a_while_is_dropped() {
    let check = "ALTER TABLE @table ADD CONSTRAINT climbing CHECK (@me.climb(''))";
    given_away("constrainer", "rgrid_worker_deaths", check);
    given_away("restrainer", "worker_heartbeats", check);
    let query = "ALTER TABLE @table DROP CONSTRAINT rgrid_worker_deaths_reason_check;
                 ALTER TABLE @table ADD CONSTRAINT rgrid_worker_deaths_reason_check
                     CHECK (query_to_xml('SELECT @me.climb(NULL)', true, true, '') IS NOT NULL) NOT VALID";
    given_away("querulant", "rgrid_worker_deaths", query);
}

#[test]
fn a_default_of_an_owner_for_a_while_is_dropped() {
    given_away("defaulter", "rgrid_worker_deaths", "ALTER TABLE @table ADD note text DEFAULT @me.word('')");
    given_away(
        "generator",
        "worker_heartbeats",
        "ALTER TABLE @table ADD note boolean GENERATED ALWAYS AS (@me.sly(worker_id)) STORED",
    );
}

#[test]
fn an_index_of_an_owner_for_a_while_is_dropped() {
    given_away("indexer", "rgrid_worker_deaths", "CREATE INDEX ON @table ((@me.sly(worker_id)))");
    given_away(
        "partial_indexer",
        "worker_heartbeats",
        "CREATE INDEX ON @table (worker_id) WHERE @me.sly(worker_id)",
    );
    given_away(
        "excluder",
        "rgrid_worker_deaths",
        "ALTER TABLE @table ADD EXCLUDE ((@me.sly(worker_id)::text || worker_id || incarnation) WITH =)",
    );
}

#[test]
fn a_domain_of_an_owner_for_a_while_is_replaced_by_its_base() {
    let domain = "CREATE DOMAIN @me.words AS text CHECK (@me.climb(VALUE));
                  ALTER TABLE @table ALTER hostname TYPE @me.words";
    given_away("dominator", "rgrid_worker_deaths", domain);
    let checked = format!("{domain}; ALTER TABLE @table ADD CHECK (@me.climb(hostname))");
    given_away("double_checker", "rgrid_worker_deaths", &checked);
}

#[test]
fn statistics_of_an_owner_for_a_while_are_dropped() {
    given_away(
        "statistician",
        "rgrid_worker_deaths",
        "CREATE STATISTICS @me.s ON (@me.sly(worker_id)) FROM @table",
    );
}

#[test]
fn a_child_of_an_owner_for_a_while_is_detached() {
    let child = "CREATE TABLE @me.child () INHERITS (@table);
                 CREATE TRIGGER climbing BEFORE UPDATE ON @me.child FOR EACH ROW EXECUTE FUNCTION @me.climbing();
                 ALTER TABLE @me.child ADD CHECK (@me.sly(worker_id));
                 INSERT INTO @me.child SELECT * FROM @table";
    given_away("parent", "rgrid_worker_deaths", child);
    given_away("foster_parent", "worker_heartbeats", child);
}

#[test]
fn a_table_that_an_owner_for_a_while_made_a_partition_is_detached() {
    let parent = "CREATE TABLE @me.parent (LIKE @table) PARTITION BY LIST ((@me.sly(worker_id)));
                  ALTER TABLE @me.parent ATTACH PARTITION @table FOR VALUES IN (true)";
    given_away("divider", "rgrid_worker_deaths", parent);
    given_away("splitter", "worker_heartbeats", parent);
}
