//! Worker columns whose collation takes different bytes for the same.

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
