//! Heartbeats one at a time: what they answer, where they are kept, and what is known of them.

use super::{Cluster, Database, ask, run, wait_until};
use chrono::{DateTime, Utc};
use postgres::Client;

/// One heartbeat; the worker's incarnation.
pub fn beat(client: &mut Client, worker: &str) -> i64 {
    ask(client, "SELECT rgrid_heartbeat($1)", &[&worker])
}

/// A heartbeat that has to ask the row, because it names another host.
pub fn slow_beat(client: &mut Client, worker: &str, host: &str) -> i64 {
    ask(client, "SELECT rgrid_heartbeat($1, $2)", &[&worker, &host])
}

/// The host of workers that are attached to sessions, where it does not matter.
pub const ONE_HOST: &str = "one.example";

/// The call that attaches a worker, which may say where it is.
pub fn attaching(worker: &str, host: Option<&str>) -> String {
    let host = host.map_or("NULL".to_owned(), |host| format!("'{host}'"));
    format!("SELECT rgrid_attach('{worker}', {host})")
}

/// Every number from another origin of the database is higher than this one: it is the seconds since 1970.
pub const NEW_BASE: i64 = 1_700_000_000;

/// One heartbeat; whether it was kept in memory, which needs no transaction id.
pub fn beats_in_memory(client: &mut Client, worker: &str) -> bool {
    let sql = "SELECT rgrid_heartbeat($1) IS NOT NULL AND pg_current_xact_id_if_assigned() IS NULL";
    ask(client, sql, &[&worker])
}

/// Lets the worker be known and then beat in memory. An entry taken out just then, in a database beside this one,
/// may keep out this one's: the next heartbeat makes it.
///
/// # Panics
/// When it is never known.
pub fn known_worker(client: &mut Client, worker: &str) {
    beat(client, worker);
    wait_until(&format!("{worker} to be known in memory"), || beats_in_memory(client, worker));
}

/// What the worker's row says; `None` when it has none.
pub fn row_time(client: &mut Client, worker: &str) -> Option<DateTime<Utc>> {
    let sql = "SELECT max(last_heartbeat_at::timestamptz) FROM worker_heartbeats WHERE worker_id = $1";
    ask(client, sql, &[&worker])
}

/// Makes the worker's row an hour old, behind the back of the memory that keeps its heartbeats.
pub fn age_row(client: &mut Client, worker: &str) {
    let sql = "UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp() - interval '1 hour'
               WHERE worker_id = $1";
    assert_eq!(client.execute(sql, &[&worker]).expect("a row can be changed"), 1);
}

/// When the extension last heard the worker, by its own account; `None` when it does not know it.
pub fn last_heard(client: &mut Client, worker: &str) -> Option<DateTime<Utc>> {
    let sql = "SELECT max(last_heartbeat_at) FROM rgrid_stale_workers(interval '1 microsecond')
               WHERE worker_id = $1";
    ask(client, sql, &[&worker])
}

/// The server's clock.
pub fn server_time(client: &mut Client) -> DateTime<Utc> {
    ask(client, "SELECT clock_timestamp()", &[])
}

/// Sweeps by hand, with a short threshold, until the worker is dead, and with it all that do not beat.
pub fn sweep_away(client: &mut Client, worker: &str) {
    // Not the number of deaths, as old ones may be pruned meanwhile.
    let last_death = "SELECT coalesce(max(incarnation), 0) FROM rgrid_worker_deaths WHERE worker_id = $1";
    let before: i64 = ask(client, last_death, &[&worker]);
    run(client, "SET rgrid_heartbeat.stale_threshold = '200ms'");
    wait_until(&format!("a sweep by hand that finds {worker}"), || {
        run(client, "SELECT rgrid_sweep()");
        ask::<i64>(client, last_death, &[&worker]) > before
    });
    run(client, "RESET rgrid_heartbeat.stale_threshold");
}

/// The process that serves a session.
pub fn pid(client: &mut Client) -> i32 {
    ask(client, "SELECT pg_backend_pid()", &[])
}

/// Returns when the process waits for an event of this type, as 'Lock', or of this name, as 'SyncRep'.
pub fn await_waiting(cluster: &Cluster, pid: i32, event: &str) {
    let mut client = cluster.connect("postgres");
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND $2 IN (wait_event_type, wait_event)";
    wait_until(&format!("a session that waits for {event}"), || {
        ask::<i64>(&mut client, sql, &[&pid, &event]) == 1
    });
}

impl Cluster {
    /// How many sweepers were started for a database. Needs `log_min_messages = debug1`.
    pub fn sweepers_started(&self, database: &str) -> usize {
        self.log_lines_with(&["starting background worker", &format!("sweeper for database {database}\"")])
            .len()
    }

    /// A database as [`Cluster::database`] makes it, which the sweeper that its installation asks for has
    /// left. Needs `log_min_messages = debug1`.
    pub fn visited_database(&self, name: &str) -> Database<'_> {
        let database = self.database(name);
        self.await_visit(name);
        database
    }

    /// Returns when a sweeper has been in the database, and none is at work anywhere.
    pub fn await_visit(&self, database: &str) {
        wait_until("a sweeper to come and go", || {
            let log = self.log();
            let lines = |part: &str| log.lines().filter(|line| line.contains(part)).count();
            let started = lines("starting background worker process \"rgrid_heartbeat sweeper");
            let ended = lines("background worker \"rgrid_heartbeat sweeper\" (PID ");
            self.sweepers_started(database) > 0 && started == ended
        });
    }
}
