//! Plays RGrid: its tables as an existing installation has them, its Python workers, and the workers that use
//! the extension's functions.

use super::{Database, ask, run, wait_until};
use chrono::{DateTime, NaiveDateTime};
use postgres::{Client, Config, NoTls};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An hour and a bit: a heartbeat so old is not that of another time zone.
pub const HOUR: Duration = Duration::from_secs(4_000);

/// RGrid's `executions`. Its defaults live in Python, so the columns that are NOT NULL have none here.
pub fn executions_table(client: &mut Client) {
    run(
        client,
        "CREATE TABLE executions (
            id bigserial PRIMARY KEY,
            execution_id varchar(255) NOT NULL UNIQUE,
            user_id varchar(64),
            account_id varchar(64),
            batch_id varchar(64),
            batch_index integer,
            runtime varchar(64) NOT NULL,
            code text NOT NULL,
            args json NOT NULL,
            env_vars json NOT NULL,
            input_files json NOT NULL,
            requirements_content text,
            status varchar(50) NOT NULL,
            worker_id varchar(64),
            execution_error text,
            exit_code integer,
            stdout text,
            stderr text,
            output_truncated boolean NOT NULL,
            cost_micros bigint NOT NULL,
            duration_seconds integer,
            execution_metadata json,
            priority integer NOT NULL,
            timeout_seconds integer NOT NULL,
            retry_count integer NOT NULL,
            max_retries integer NOT NULL,
            created_at timestamp NOT NULL,
            started_at timestamp,
            completed_at timestamp
        );
        CREATE INDEX ix_executions_status ON executions (status)",
    );
}

/// All of RGrid's tables that matter here, as SQLAlchemy makes them.
pub fn rgrid_tables(client: &mut Client) {
    run(
        client,
        "CREATE TABLE workers (
            worker_id varchar(64) PRIMARY KEY,
            node_id varchar(128),
            ray_node_id varchar(128),
            status varchar(32) NOT NULL,
            max_concurrent integer NOT NULL,
            created_at timestamp NOT NULL,
            terminated_at timestamp
        );
        CREATE TABLE worker_heartbeats (
            worker_id varchar(64) PRIMARY KEY REFERENCES workers (worker_id) ON DELETE CASCADE,
            last_heartbeat_at timestamp NOT NULL,
            ray_available_resources json
        );
        CREATE INDEX ix_worker_heartbeats_last_heartbeat_at ON worker_heartbeats (last_heartbeat_at)",
    );
    executions_table(client);
}

/// A heartbeat of RGrid's Python worker: an upsert with the naive UTC of the worker's own clock, `ago` in the
/// past.
pub fn upsert_like_python(client: &mut Client, worker: &str, ago: Duration) {
    let known =
        "INSERT INTO workers (worker_id, status, max_concurrent, created_at) VALUES ($1, 'active', 2, $2)
                 ON CONFLICT (worker_id) DO NOTHING";
    let beat = "INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at, ray_available_resources)
                VALUES ($1, $2, $3::text::json)
                ON CONFLICT (worker_id) DO UPDATE SET last_heartbeat_at = EXCLUDED.last_heartbeat_at,
                    ray_available_resources = EXCLUDED.ray_available_resources";
    let at = naive_utc(SystemTime::now() - ago);
    client.execute(known, &[&worker, &at]).expect("a worker can be added");
    client.execute(beat, &[&worker, &at, &r#"{"CPU": 2.0}"#]).expect("a heartbeat can be upserted");
}

/// What `datetime.utcnow()` answers.
pub fn naive_utc(time: SystemTime) -> NaiveDateTime {
    let since = time.duration_since(UNIX_EPOCH).expect("the clock is later than 1970");
    let seconds = i64::try_from(since.as_secs()).expect("the clock is earlier than the end of time");
    DateTime::from_timestamp(seconds, since.subsec_micros() * 1000)
        .expect("a time that chrono knows")
        .naive_utc()
}

/// A worker whose last heartbeat is an hour old, written as a row: dead at the next sweep.
pub fn silent_worker(client: &mut Client, worker: &str) {
    let sql = "INSERT INTO worker_heartbeats (worker_id, hostname, last_heartbeat_at)
               VALUES ($1, $1 || '.example', clock_timestamp() - interval '1 hour')";
    client.execute(sql, &[&worker]).expect("a heartbeat can be written as a row");
}

/// Jobs that `worker` has claimed: queued, then taken the way RGrid's workers take them.
pub fn claim_jobs(client: &mut Client, worker: &str, count: i32) {
    queue_jobs(client, worker, count);
    let claim =
        "UPDATE executions SET status = 'running', worker_id = $1, started_at = timezone('UTC', now())
                 WHERE id IN (SELECT id FROM executions
                              WHERE status = 'queued' AND execution_id LIKE $1 || '/%'
                              ORDER BY id FOR UPDATE SKIP LOCKED)";
    client.execute(claim, &[&worker]).expect("jobs can be claimed");
}

/// From now on a trigger of the table refuses to have a job failed.
pub fn refuse_to_settle(client: &mut Client) {
    run(
        client,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not today'; END$$;
         CREATE TRIGGER refuse BEFORE UPDATE ON executions FOR EACH ROW WHEN (new.status = 'failed')
             EXECUTE FUNCTION refuse()",
    );
}

/// Unclaimed jobs, named after the worker that is to have them.
pub fn queue_jobs(client: &mut Client, worker: &str, count: i32) {
    let sql = "INSERT INTO executions (execution_id, runtime, code, args, env_vars, input_files, status,
                   output_truncated, cost_micros, priority, timeout_seconds, retry_count, max_retries,
                   created_at)
               SELECT format('%s/%s', $1::text, gen_random_uuid()), 'python:3.11', 'print(42)', '[]', '{}',
                   '[]', 'queued', false, 0, 0, 300, 0, 3, timezone('UTC', now())
               FROM generate_series(1, $2)";
    client.execute(sql, &[&worker, &count]).expect("jobs can be queued");
}

/// How many of the worker's jobs have this status.
pub fn jobs(client: &mut Client, worker: &str, status: &str) -> i64 {
    ask(client, "SELECT count(*) FROM executions WHERE worker_id = $1 AND status = $2", &[&worker, &status])
}

/// How many of the worker's jobs were failed as the daemon did it: message and finish time included.
pub fn failed_jobs(client: &mut Client, worker: &str) -> i64 {
    let sql = "SELECT count(*) FROM executions
               WHERE worker_id = $1 AND status = 'failed' AND execution_error = 'Worker died unexpectedly'
                 AND timezone('UTC', now()) - completed_at BETWEEN interval '0' AND interval '1 minute'";
    ask(client, sql, &[&worker])
}

/// How many rows the ledger has for a worker.
pub fn deaths(client: &mut Client, worker: &str) -> i64 {
    ask(client, "SELECT count(*) FROM rgrid_worker_deaths WHERE worker_id = $1", &[&worker])
}

/// Who has ever been declared dead, in the order of names.
pub fn dead(client: &mut Client) -> Vec<String> {
    let sql = "SELECT coalesce(array_agg(worker_id ORDER BY worker_id), '{}') FROM rgrid_worker_deaths";
    ask(client, sql, &[])
}

/// The ledger's rows of a worker, one text each: incarnation, reason, jobs failed, whether it returned.
pub fn ledger(client: &mut Client, worker: &str) -> Vec<String> {
    let sql = "SELECT format('%s %s %s %s', incarnation, reason, jobs_failed,
                             CASE WHEN returned_at IS NULL THEN 'gone' ELSE 'returned' END)
               FROM rgrid_worker_deaths WHERE worker_id = $1 ORDER BY incarnation";
    let rows = client.query(sql, &[&worker]).expect("the ledger can be read");
    rows.iter().map(|row| row.get(0)).collect()
}

pub fn await_death(client: &mut Client, worker: &str) {
    wait_until(&format!("the death of {worker}"), || deaths(client, worker) == 1);
}

/// Proof that a whole sweep has run since the call: a worker that was dead before it is found.
pub fn await_sweep(client: &mut Client, witness: &str) {
    silent_worker(client, witness);
    await_death(client, witness);
}

/// A session that beats every 100 ms until it is dropped, like a worker's heartbeat thread.
pub struct Beating {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Beating {
    /// Returns after the first heartbeat.
    pub fn start(mut client: Client, mut beat: impl FnMut(&mut Client) + Send + 'static) -> Self {
        beat(&mut client);
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
                beat(&mut client);
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }

    /// A worker that calls `rgrid_heartbeat`.
    pub fn calling(client: Client, worker: &'static str) -> Self {
        Self::start(client, move |client| {
            let _: i64 = ask(client, "SELECT rgrid_heartbeat($1)", &[&worker]);
        })
    }

    /// A worker that calls `rgrid_heartbeat`, and connects again when the server ends its session.
    pub fn through_crashes(database: &Database<'_>, worker: &'static str) -> Self {
        Self::reconnecting(database.config(), worker)
    }

    /// The same, wherever the way to connect leads it.
    pub fn reconnecting(config: Config, worker: &'static str) -> Self {
        let client = config.connect(NoTls).expect("the server takes connections");
        Self::start(client, move |client| {
            if client.execute("SELECT rgrid_heartbeat($1)", &[&worker]).is_err()
                && let Ok(again) = config.connect(NoTls)
            {
                *client = again;
            }
        })
    }

    /// A Python worker that knows nothing of the extension.
    pub fn upserting(client: Client, worker: &'static str) -> Self {
        Self::start(client, move |client| upsert_like_python(client, worker, Duration::ZERO))
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        drop(self.stop.take());
        let beaten = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(beaten, Some(Ok(()))), "a heartbeat failed");
        }
    }
}
