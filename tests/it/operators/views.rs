//! What operators read of workers and databases: the views, and the processes in `pg_stat_activity`.

use crate::cluster::*;
use postgres::Client;

fn server() -> Shared {
    Shared::of(|| Cluster::quick().setting("rgrid_heartbeat.flush_interval", "100ms"))
}

/// A number of this database's row in pg_stat_rgrid_heartbeat.
fn counted(client: &mut Client, expression: &str) -> i64 {
    let sql = format!(
        "SELECT ({expression})::bigint FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()"
    );
    ask(client, &sql, &[])
}

/// What rgrid_workers says of a worker: state, incarnation, whether it has a time of death.
fn shown(client: &mut Client, worker: &str) -> String {
    let sql = "SELECT concat_ws(' ', state, incarnation, declared_dead_at IS NOT NULL) FROM rgrid_workers
               WHERE worker_id = $1";
    ask(client, sql, &[&worker])
}

#[test]
fn workers_are_shown_with_their_state_and_number_and_with_what_is_in_memory() {
    let cluster = server();
    let database = cluster.database("shown");
    let mut client = database.connect();
    known_worker(&mut client, "worker");
    assert_eq!(shown(&mut client, "worker"), "alive 1 f");
    age_row(&mut client, "worker");
    let before = server_time(&mut client);
    assert!(beats_in_memory(&mut client, "worker"));
    let exact = "SELECT last_heartbeat_at >= $1 AND seconds_since_heartbeat < 60 FROM rgrid_workers
                 WHERE worker_id = 'worker'";
    assert!(ask::<bool>(&mut client, exact, &[&before]), "it has just beaten, in memory");

    run(&mut client, "SET rgrid_heartbeat.stale_threshold = '100ms'");
    wait_until("it to be silent", || shown(&mut client, "worker") == "stale 1 f");
    run(&mut client, "RESET rgrid_heartbeat.stale_threshold");
    await_death(&mut client, "worker");
    assert_eq!(shown(&mut client, "worker"), "dead 2 t");
    assert_eq!(beat(&mut client, "worker"), 2);
    assert_eq!(shown(&mut client, "worker"), "alive 2 f");
}

#[test]
fn what_happens_in_a_database_is_counted_and_can_be_counted_anew() {
    let cluster = server();
    let database = cluster.database("counted");
    let mut client = database.connect();
    claim_jobs(&mut client, "worker", 3);
    assert_eq!(beat(&mut client, "worker"), 1);
    assert_eq!(counted(&mut client, "heartbeats_in_row"), 1);
    known_worker(&mut client, "worker");
    wait_until("a flush", || counted(&mut client, "least(flushes, rows_flushed)") > 0);
    await_death(&mut client, "worker");
    assert_eq!(counted(&mut client, "deaths"), 1);
    assert_eq!(counted(&mut client, "jobs_failed"), 3);
    assert_eq!(counted(&mut client, "jobs_requeued + false_deaths"), 0);
    assert_eq!(beat(&mut client, "worker"), 2);
    assert_eq!(counted(&mut client, "false_deaths"), 1);
    assert_eq!(counted(&mut client, "buffer_entries"), 1);
    assert_eq!(counted(&mut client, "buffer_capacity"), 65_536);
    let beats = Beating::calling(database.connect(), "worker");
    let sweeps = counted(&mut client, "sweeps");
    wait_until("another sweep", || counted(&mut client, "sweeps") > sweeps);
    let told = "last_sweep_started_at > stats_reset AND last_sweep_finished_at > stats_reset
                AND observing_since <= clock_timestamp() AND has_extension AND coalesce(last_sweep_seconds, 0) >= 0";
    assert_eq!(counted(&mut client, &format!("({told})::int")), 1);
    drop(beats);

    run(&mut client, "BEGIN; SELECT rgrid_register('worker', 'host'); ROLLBACK");
    assert_eq!(counted(&mut client, "deaths"), 1, "a death that was rolled back was none");
    run(&mut client, "SELECT rgrid_stat_reset()");
    assert_eq!(counted(&mut client, "deaths + jobs_failed + false_deaths + heartbeats_in_row"), 0);
    assert_eq!(counted(&mut client, "(clock_timestamp() - stats_reset < interval '1 minute')::int"), 1);
}

#[test]
fn problems_are_counted_and_the_last_one_is_shown() {
    let cluster = server();
    let database = cluster.database("troubled");
    let mut client = database.connect();
    run(&mut client, "ALTER TABLE executions DROP COLUMN completed_at");
    silent_worker(&mut client, "victim");
    wait_until("a problem", || counted(&mut client, "errors") > 1);
    let shown: String = ask(
        &mut client,
        "SELECT last_error FROM pg_stat_rgrid_heartbeat
         WHERE datname = current_database() AND last_error_at > stats_reset",
        &[],
    );
    assert!(shown.starts_with("could not settle jobs in table public.executions: column"), "{shown}");
    assert_eq!(cluster.log_lines_with(&["WARNING:", "completed_at"]).len(), 1, "it is logged once");
}

#[test]
fn a_flush_that_goes_well_does_not_make_an_old_problem_news() {
    let cluster = server();
    let database = cluster.database("flushing");
    let mut client = database.connect();
    run(&mut client, "ALTER TABLE executions RENAME COLUMN execution_error TO mishap");
    silent_worker(&mut client, "victim");
    wait_until("a problem", || counted(&mut client, "errors") > 1);
    let _beats = Beating::calling(database.connect(), "worker");
    let flushes = counted(&mut client, "flushes");
    wait_until("some flushes", || counted(&mut client, "flushes") > flushes + 5);
    assert_eq!(cluster.log_lines_with(&["WARNING:", "execution_error"]).len(), 1, "it is logged once");
}

#[test]
fn a_monitor_reads_the_views_and_may_not_reset_them() {
    let cluster = server();
    let database = cluster.database("watched");
    run(
        &mut database.connect(),
        "CREATE ROLE stat_watcher LOGIN IN ROLE pg_monitor; CREATE ROLE stat_passer LOGIN",
    );
    let mut watcher = database.connect_as("stat_watcher");
    run(&mut watcher, "TABLE rgrid_workers; TABLE pg_stat_rgrid_heartbeat");
    assert_eq!(sqlstate(&mut watcher, "SELECT rgrid_stat_reset()"), "42501");
    let mut passer = database.connect_as("stat_passer");
    for view in ["rgrid_workers", "pg_stat_rgrid_heartbeat"] {
        assert_eq!(sqlstate(&mut passer, &format!("TABLE {view}")), "42501");
    }
}

#[test]
fn without_preloading_workers_are_shown_and_there_is_nothing_counted() {
    let cluster = Cluster::quick().preload(false).start();
    let database = cluster.database("unloaded");
    let mut client = database.connect();
    beat(&mut client, "worker");
    assert_eq!(shown(&mut client, "worker"), "alive 1 f");
    assert_eq!(sqlstate(&mut client, "TABLE pg_stat_rgrid_heartbeat"), "55000");
    assert_eq!(sqlstate(&mut client, "SELECT rgrid_stat_reset()"), "55000");
}

#[test]
fn launcher_and_sweeper_show_who_they_are_where_and_what_they_do() {
    let cluster = server();
    let database = cluster.database("busy");
    let (mut client, mut blocker) = (database.connect(), database.connect());
    let launcher = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'rgrid_heartbeat launcher'
                    AND application_name = backend_type AND datid IS NULL AND state IS NOT NULL";
    assert_eq!(ask::<i64>(&mut client, launcher, &[]), 1);
    run(&mut blocker, "BEGIN; LOCK TABLE executions");
    silent_worker(&mut client, "victim");
    let sweeper = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'rgrid_heartbeat sweeper'
                   AND application_name = backend_type AND datname = 'busy' AND state = 'active'
                   AND query = 'settling jobs of dead workers'";
    wait_until("a sweeper at work", || ask::<i64>(&mut client, sweeper, &[]) == 1);
    run(&mut blocker, "ROLLBACK");
    await_death(&mut client, "victim");
}
