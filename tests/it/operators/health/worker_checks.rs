//! Checks of the workers and of the table of their heartbeats.

use super::*;

#[test]
fn a_pause_and_heartbeats_from_the_future_are_told() {
    let cluster = busy().setting("rgrid_heartbeat.enabled", "off").start();
    let database = cluster.database("paused");
    let mut client = database.connect();
    let (status, _, hint) = finding(&mut client, "enabled");
    assert_eq!((status.as_str(), finding(&mut client, "sweeper").0.as_str()), ("warning", "ok"));
    silent_worker(&mut client, "ahead");
    run(&mut client, "UPDATE worker_heartbeats SET last_heartbeat_at = now() + interval '1 hour'");
    let (status, detail, fix) = finding(&mut client, "future heartbeats");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("1 workers") && detail.contains("\"ahead\""), "{detail}");
    run(&mut client, &fix);
    assert_eq!(finding(&mut client, "future heartbeats").0, "ok");
    client.execute(hint.split(';').next().unwrap(), &[]).expect("the hint is a statement");
    cluster.reload();
    wait_until("the pause to end", || complaints(&mut database.connect()).is_empty());
}

#[test]
fn a_threshold_close_to_the_observed_gaps_is_a_warning() {
    let cluster = server();
    let database = cluster.database("tight");
    let mut client = connect_patiently(&database, "tight");
    let _beats = Beating::calling(database.connect(), "worker");
    wait_until("intervals to be known", || finding(&mut client, "threshold").1.contains("median"));
    assert_eq!(finding(&mut client, "threshold").0, "ok");
    run(&mut client, "SET rgrid_heartbeat.stale_threshold = '150ms'");
    let (status, detail, hint) = finding(&mut client, "threshold");
    assert_eq!(status, "warning", "{detail}");
    let raised = hint.split_inclusive(';').next().unwrap();
    assert!(raised.starts_with("ALTER DATABASE tight SET rgrid_heartbeat.stale_threshold = '"), "{hint}");
    run(&mut client, raised);
    assert_eq!(finding(&mut database.connect(), "threshold").0, "ok", "the statement that it gives helps");
}

#[test]
fn a_worker_that_came_back_was_a_false_death() {
    let cluster = server();
    let database = cluster.database("mistaken");
    let mut client = database.connect();
    beat(&mut client, "slow");
    sweep_away(&mut client, "slow");
    assert_eq!(finding(&mut client, "false deaths").0, "ok", "it is dead, as far as the database knows");
    assert_eq!(beat(&mut client, "slow"), 2);
    let (status, detail, hint) = finding(&mut client, "false deaths");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("1 workers") && detail.contains("\"slow\""), "{detail}");
    assert!(hint.contains("ALTER DATABASE mistaken SET rgrid_heartbeat.stale_threshold"), "{hint}");
}

#[test]
fn an_index_on_the_time_of_the_heartbeats_is_told() {
    let cluster = server();
    let database = cluster.rgrid_database("indexed");
    let mut client = database.connect();
    let (status, _, hint) = finding(&mut client, "heartbeat index");
    assert_eq!(status, "warning");
    run(&mut client, hint.split(';').next().unwrap());
    assert_eq!(finding(&mut client, "heartbeat index").0, "ok");
}

#[test]
fn a_locked_row_of_a_silent_worker_is_reported_with_its_holder() {
    let cluster = server();
    let database = cluster.database("heldrows");
    let (mut client, mut other) = (database.connect(), database.connect());
    // A lock that was let go leaves a trace on the row, and is none.
    run(&mut other, "INSERT INTO worker_heartbeats VALUES ('free', 'host', now())");
    run(&mut other, "BEGIN; SELECT FROM worker_heartbeats FOR UPDATE; COMMIT");
    run(&mut other, "INSERT INTO worker_heartbeats VALUES ('stuck', 'host', now())");
    run(&mut other, "BEGIN; SELECT FROM worker_heartbeats WHERE worker_id = 'stuck' FOR UPDATE");
    run(&mut client, "SET rgrid_heartbeat.stale_threshold = '100ms'");
    let holder = pid(&mut other);
    let (detail, hint) = await_status(&mut client, "locked workers", "warning");
    assert!(detail.ends_with(&format!("locked: 1 by process {holder}.")), "{detail}");
    assert!(hint.contains(&format!("pg_terminate_backend({holder})")), "{hint}");
    run(&mut other, "ROLLBACK");
    assert_eq!(finding(&mut client, "locked workers").0, "ok");
}

#[test]
fn a_mass_death_that_is_held_back_is_told_with_what_lifts_it() {
    let cluster = busy()
        .setting("rgrid_heartbeat.max_dead_fraction", "0.5")
        .setting("rgrid_heartbeat.mass_death_minimum", "3")
        .setting("rgrid_heartbeat.stale_threshold", "10s")
        .start();
    let database = cluster.database("fleet");
    let mut client = database.connect();
    for number in 1..=5 {
        silent_worker(&mut client, &format!("ship-{number}"));
    }
    let (detail, hint) = await_status(&mut client, "mass death", "warning");
    assert!(detail.starts_with("5 workers fell silent at once"), "{detail}");
    let shown = "SELECT held_workers = 5 AND held_until > clock_timestamp() FROM pg_stat_rgrid_heartbeat
                 WHERE datname = 'fleet'";
    assert!(ask::<bool>(&mut client, shown, &[]));
    run(&mut client, hint.split_once(": ").unwrap().1);
    await_status(&mut client, "mass death", "ok");
    assert_eq!(deaths(&mut client, "ship-1"), 1);
}

#[test]
fn a_lock_on_a_table_of_the_extension_is_named_in_the_log_and_by_a_check() {
    let cluster = busy().start();
    for table in ["rgrid_worker_deaths", "rgrid_job_tables", "worker_heartbeats"] {
        let database = cluster.database(&format!("locked_{table}"));
        let (mut client, mut holder) = (database.connect(), database.connect());
        let pid = pid(&mut holder);
        silent_worker(&mut client, "w");
        await_death(&mut client, "w");
        known_worker(&mut client, "beating");
        run(&mut holder, &format!("BEGIN; LOCK TABLE {table}"));
        let (detail, hint) = await_status(&mut client, "table locks", "error");
        let said =
            format!("table public.{table} of the extension is locked by process {pid} (AccessExclusiveLock)");
        assert_eq!(detail, format!("Sweeps or calls that need it fail: {said}."));
        assert_eq!(hint, format!("End it: SELECT pg_terminate_backend({pid});"));
        wait_until("the log", || !cluster.log_lines_with(&[&said]).is_empty());
        run(&mut holder, "COMMIT");
        await_status(&mut client, "table locks", "ok");
        await_sweep(&mut client, "later");
        assert_eq!(cluster.log_lines_with(&[&said]).len(), 1);
    }
}

#[test]
fn a_call_for_the_id_of_another_role_is_told_before_the_worker_dies_of_it() {
    let cluster = server();
    let database = cluster.database("refused");
    let mut client = connect_patiently(&database, "refused");
    let counted = |client: &mut Client| -> i64 {
        let sql = "SELECT calls_refused FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
        ask(client, sql, &[])
    };
    assert_eq!((finding(&mut client, "worker owners").0.as_str(), counted(&mut client)), ("ok", 0));
    let (mut former, mut present) = (tenant(&database, "former_login"), tenant(&database, "present_login"));
    beat(&mut former, "worker's own");
    for _ in 0..2 {
        assert_eq!(sqlstate(&mut present, "SELECT rgrid_heartbeat('worker''s own')"), "42501");
    }
    let (status, detail, hint) = finding(&mut client, "worker owners");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("2 calls") && detail.contains("\"worker's own\""), "{detail}");
    assert!(detail.contains("\"present_login\""), "{detail}");
    assert_eq!((counted(&mut client), deaths(&mut client, "worker's own")), (2, 0));
    run(&mut client, hint.rsplit(": ").next().unwrap());
    assert_eq!(beat(&mut present, "worker's own"), 1, "the statement that it gives helps");
    run(&mut client, "SELECT rgrid_stat_reset()");
    assert_eq!((finding(&mut client, "worker owners").0.as_str(), counted(&mut client)), ("ok", 0));
    run(&mut client, "SET rgrid_heartbeat.isolate_roles = off");
    let (status, detail, _) = finding(&mut client, "worker owners");
    assert!(status == "ok" && detail.contains("isolate_roles is off"), "{status}: {detail}");
}

#[test]
fn an_adopted_table_of_a_role_without_other_rights_is_a_warning() {
    let cluster = busy().start();
    let database = cluster.empty_database("adopted_from_a_role");
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE ROLE keeper LOGIN;
         CREATE TABLE worker_heartbeats (worker_id text PRIMARY KEY, last_heartbeat_at timestamptz NOT NULL);
         CREATE EXTENSION rgrid_heartbeat",
    );
    assert_eq!(finding(&mut client, "heartbeat table").0, "ok");
    run(&mut client, "ALTER TABLE worker_heartbeats OWNER TO keeper");
    let (status, detail, hint) = finding(&mut client, "heartbeat table");
    assert_eq!(status, "warning");
    assert!(detail.contains("belongs to role \"keeper\""), "{detail}");
    assert!(hint.contains("OWNER TO"), "{hint}");
    run(&mut client, "ALTER DATABASE adopted_from_a_role OWNER TO keeper");
    assert_eq!(finding(&mut client, "heartbeat table").0, "ok");
}

#[test]
fn jobs_that_a_worker_has_left_behind_are_told_until_they_are_settled() {
    let cluster = server();
    let database = cluster.database("left_behind");
    let (mut client, mut holder) = (connect_patiently(&database, "left_behind"), database.connect());
    beat(&mut client, "worker");
    claim_jobs(&mut client, "worker", 1);
    assert_eq!(finding(&mut client, "unsettled jobs").0, "ok");
    run(&mut holder, "BEGIN; SELECT FROM executions FOR UPDATE");
    run(&mut client, "SELECT rgrid_register('worker')");
    let (status, detail, hint) = finding(&mut client, "unsettled jobs");
    assert_eq!(status, "warning");
    assert!(detail.starts_with("1 workers") && hint.contains("rgrid_unsettled_jobs"), "{detail} {hint}");
    run(&mut holder, "ROLLBACK");
    await_status(&mut client, "unsettled jobs", "ok");
    assert_eq!(failed_jobs(&mut client, "worker"), 1);
}
