//! Collations: of worker columns that take different bytes for the same, and of the extension's own tables.

use crate::cluster::*;

#[test]
fn a_death_leaves_the_jobs_of_a_worker_whose_id_differs_in_case_only() {
    let cluster = Cluster::quick().start();
    let database = cluster.empty_database("ignores_case");
    let mut client = database.connect();
    let collation =
        "CREATE COLLATION ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    if let Err(error) = client.execute(collation, &[]) {
        // Not every build has ICU.
        assert!(error.as_db_error().is_some_and(|error| error.message().contains("ICU")), "{error:?}");
        return;
    }
    run(
        &mut client,
        "CREATE EXTENSION rgrid_heartbeat;
         CREATE TABLE executions (id int PRIMARY KEY, status text NOT NULL, worker_id text COLLATE ignore_case,
                                  execution_error text, completed_at timestamptz);
         CREATE INDEX running ON executions (worker_id) WHERE status = 'running';
         INSERT INTO executions VALUES (1, 'running', 'w1'), (2, 'running', 'W1')",
    );
    let _beats = Beating::calling(database.connect(), "w1");
    silent_worker(&mut client, "W1");
    await_death(&mut client, "W1");
    let statuses = "SELECT string_agg(status, ' ' ORDER BY id) FROM executions";
    wait_until("the dead one's job to fail", || {
        ask::<String>(&mut client, statuses, &[]) == "running failed"
    });
    let index = "SELECT status = 'ok' AND detail LIKE 'An index finds%' FROM rgrid_health()
                 WHERE check_name = 'job index public.executions'";
    assert!(ask::<bool>(&mut client, index, &[]), "the index serves both comparisons");
}

#[test]
fn ids_are_compared_by_their_bytes_whatever_the_locale_of_the_database() {
    let cluster = Cluster::quick().start();
    let mut client = cluster.database("keys").connect();
    let compared = "SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r' JOIN pg_collation l ON l.oid = a.attcollation
        JOIN pg_depend d ON d.objid = c.oid AND d.deptype = 'e' AND d.classid = 'pg_class'::regclass
        WHERE a.attname = 'worker_id' AND l.collname = 'C'";
    assert_eq!(
        ask::<String>(&mut client, compared, &[]),
        "rgrid_incarnations rgrid_unsettled_calls rgrid_unsettled_jobs rgrid_worker_deaths rgrid_worker_owners worker_heartbeats"
    );
    let keys = "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
                WHERE c.relname IN ('worker_heartbeats', 'rgrid_worker_deaths', 'rgrid_job_tables')
                  AND i.indisunique AND 'pg_catalog.\"C\"'::regcollation <> ALL (i.indcollation::oid[])";
    assert_eq!(
        ask::<i64>(&mut client, keys, &[]),
        0,
        "an upgrade of the locale leaves the unique indexes as they are"
    );
}
