//! Sweeps by hand that are cancelled while they have much to say: to the client, and to the log.

use crate::cluster::*;
use postgres::{Client, Config, NoTls};
use std::sync::mpsc::channel;
use std::thread;

/// Tables that cannot be settled: each is a warning in each sweep.
const FAILING: i64 = 150;

/// Workers that are found dead at once: each is a line in the log.
const SILENT: i64 = 300;

/// Sweeps by hand alone.
fn server() -> Shared {
    Shared::of(|| {
        Cluster::builder()
            .setting("rgrid_heartbeat.check_interval", "1h")
            .setting("rgrid_heartbeat.stale_threshold", "200ms")
            .setting("rgrid_heartbeat.max_dead_fraction", "1")
    })
}

/// Returns when a sweep may judge, and would find all of the silent ones.
fn prepare(client: &mut Client, name: &str) {
    let sql = format!(
        "DO $$BEGIN
             FOR n IN 1..{FAILING} LOOP
                 EXECUTE format('CREATE TABLE failing_%s (worker_id text, status text, execution_error text)', n);
                 INSERT INTO rgrid_job_tables (job_table, error_column, finished_column)
                 VALUES ('failing_' || n, NULL, NULL);
                 EXECUTE format('ALTER TABLE failing_%s DROP COLUMN status', n);
             END LOOP;
         END$$;
         INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at)
         SELECT '{name}-' || n, clock_timestamp() - interval '1 hour' FROM generate_series(1, {SILENT}) AS n"
    );
    run(client, &sql);
    let found = "SELECT count(DISTINCT worker_id) FROM rgrid_sweep(dry_run => true)";
    wait_until("a sweep that may judge", || ask::<i64>(client, found, &[]) == SILENT);
}

/// A sweep by hand; whether it came to its end. A cancellation is all that may have come between.
fn sweeps(client: &mut Client) -> bool {
    let swept = client.batch_execute("SELECT rgrid_sweep()");
    if let Err(error) = &swept {
        assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
    }
    swept.is_ok()
}

/// The session is as good as before, and each silent worker died once, in the ledger and in the log.
fn no_harm_is_done(cluster: &Cluster, client: &mut Client, name: &str) {
    run(client, "RESET statement_timeout");
    wait_until("a sweep that comes to its end", || sweeps(client));
    let ledger = "SELECT count(DISTINCT worker_id) FROM rgrid_worker_deaths WHERE incarnation = 1";
    assert_eq!(ask::<i64>(client, ledger, &[]), SILENT);
    assert_eq!(ask::<i64>(client, "SELECT count(*) FROM rgrid_worker_deaths", &[]), SILENT);
    let lines = cluster.log_lines_with(&["declared dead", &format!("\"{name}-")]);
    assert_eq!(i64::try_from(lines.len()), Ok(SILENT));
    run(client, "BEGIN; CREATE TABLE usable (); ROLLBACK");
    let still_cancellable = "SET statement_timeout = '1ms'; SELECT pg_sleep(30)";
    assert_eq!(sqlstate(client, still_cancellable), "57014");
    for trouble in ["PANIC:", "was terminated by signal", "panicked"] {
        assert!(cluster.log_lines_with(&[trouble]).is_empty(), "{trouble}");
    }
}

/// A session whose every warning is told to `heard`.
fn connect_hearing(mut config: Config, heard: impl Fn() + Send + Sync + 'static) -> Client {
    let config = config.notice_callback(move |_| heard());
    config.connect(NoTls).expect("the server takes connections")
}

#[test]
fn cancels_while_a_sweep_by_hand_warns_do_no_harm() {
    let cluster = server();
    let database = cluster.database("warning");
    let mut client = database.connect();
    prepare(&mut client, "warning");
    let (warned, warnings) = channel();
    let mut sweeping = connect_hearing(database.config(), move || warned.send(()).expect("it is listened"));
    let process = pid(&mut sweeping);
    let cancelling = thread::spawn(move || {
        // One cancel for each warning, as fast as they go.
        while warnings.recv().is_ok() {
            run(&mut client, &format!("SELECT pg_cancel_backend({process})"));
        }
    });
    for _ in 0..5 {
        // Those that are still on their way may hit any other statement.
        sweeps(&mut sweeping);
    }
    drop(sweeping);
    cancelling.join().expect("the cancels are sent");
    no_harm_is_done(&cluster, &mut database.connect(), "warning");
}

#[test]
fn timeouts_of_sweeps_by_hand_do_no_harm() {
    let cluster = server();
    let database = cluster.database("timing_out");
    let mut client = database.connect();
    prepare(&mut client, "timing-out");
    let mut timeout = 1;
    wait_until("a sweep that is fast enough", || {
        run(&mut client, &format!("SET statement_timeout = {timeout}"));
        timeout += 1 + timeout / 8;
        sweeps(&mut client)
    });
    no_harm_is_done(&cluster, &mut client, "timing-out");
}
