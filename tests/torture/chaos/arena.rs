//! The server, its databases, and what has happened to them so far.

use crate::cluster::{Cluster, ask, run};
use postgres::error::DbError;
use postgres::{Client, Config, NoTls};
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// Databases at a time.
pub const DATABASES: usize = 3;

/// Workers that fit in memory.
pub const PLACES: i64 = 64;

/// The template of all databases: the extension, tables of jobs, functions for triggers. No sweeper visits it.
pub const ORIGIN: &str = "chaos_origin";

/// What a template has beside the extension.
const TABLES: &str = "
    CREATE EXTENSION rgrid_heartbeat;
    CREATE TABLE noted (what text);
    CREATE FUNCTION chaos_raise() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$;
    CREATE FUNCTION chaos_sleep() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN PERFORM pg_catalog.pg_sleep(0.02); RETURN NEW; END$$;
    CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN INSERT INTO public.noted VALUES (NEW.status); RETURN NEW; END$$;
    CREATE FUNCTION chaos_beat() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN PERFORM public.rgrid_heartbeat(OLD.worker_id); RETURN NEW; END$$;
    GRANT ALL ON SCHEMA public TO chaos_owner;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO chaos_owner;
    GRANT ALL ON noted TO chaos_owner";

/// Where PostgreSQL itself raises an internal error, when two sessions change the same object, or one drops the
/// function that another one calls. What the extension raises has its own places.
const PLACES_OF_POSTGRESQL: [&str; 3] = ["simple_heap_delete", "simple_heap_update", "func_get_detail"];

fn is_internal(error: &DbError) -> bool {
    let is_postgresqls = error.routine().is_some_and(|place| PLACES_OF_POSTGRESQL.contains(&place));
    error.code().code().starts_with("XX") && !is_postgresqls
}

/// One database from its creation to its end.
#[derive(Clone)]
pub struct Life {
    pub name: String,
    /// The rows of the ledgers that were dropped here.
    pub deaths: i64,
    /// No ledger was dropped uncounted.
    pub is_counted: bool,
}

pub struct Arena {
    pub cluster: Cluster,
    current: Mutex<Vec<Life>>,
    past: Mutex<Vec<Life>>,
    is_over: AtomicBool,
    /// How often each thing has happened.
    tally: Mutex<BTreeMap<String, u64>>,
    /// Errors that no statement may ever raise.
    internal_errors: Mutex<Vec<String>>,
}

impl Arena {
    pub fn start() -> Self {
        let cluster = Cluster::builder()
            .setting("rgrid_heartbeat.check_interval", "50ms")
            .setting("rgrid_heartbeat.flush_interval", "50ms")
            .setting("rgrid_heartbeat.stale_threshold", "400ms")
            .setting("rgrid_heartbeat.statement_timeout", "2s")
            .setting("rgrid_heartbeat.retention", "-1")
            .setting("rgrid_heartbeat.batch_size", "3")
            .setting("rgrid_heartbeat.max_workers", &PLACES.to_string())
            .setting("deadlock_timeout", "100ms")
            .setting("log_line_prefix", "%m [%p] %e %b: ")
            .setting("restart_after_crash", "on")
            .start();
        let mut client = cluster.connect("postgres");
        run(&mut client, "CREATE ROLE chaos_owner IN ROLE pg_monitor");
        run(&mut client, &format!("CREATE DATABASE {ORIGIN} IS_TEMPLATE true"));
        let mut origin = cluster.connect(ORIGIN);
        run(&mut origin, TABLES);
        for table in super::statements::TABLES {
            run(&mut origin, &super::statements::create(table));
        }
        drop(origin);
        let arena = Self {
            cluster,
            current: Mutex::default(),
            past: Mutex::default(),
            is_over: AtomicBool::new(false),
            tally: Mutex::default(),
            internal_errors: Mutex::default(),
        };
        for number in 1..=DATABASES {
            let name = format!("chaos_{number}");
            run(&mut client, &format!("CREATE DATABASE {name} TEMPLATE {ORIGIN}"));
            arena.current.lock().unwrap().push(Life { name, deaths: 0, is_counted: true });
        }
        arena
    }

    pub fn end(&self) {
        self.is_over.store(true, SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }

    /// Waits for some milliseconds, or for the end.
    pub fn pause(&self, random: &mut StdRng, milliseconds: std::ops::Range<u64>) {
        let mut left = random.random_range(milliseconds);
        while left > 0 && !self.is_over() {
            let step = left.min(50);
            thread::sleep(Duration::from_millis(step));
            left -= step;
        }
    }

    /// The life in a place.
    pub fn life(&self, place: usize) -> Life {
        self.current.lock().unwrap()[place].clone()
    }

    /// Changes the life in a place.
    pub fn change(&self, place: usize, change: impl FnOnce(&mut Life)) {
        change(&mut self.current.lock().unwrap()[place]);
    }

    /// Puts another life in the place of one that has ended.
    pub fn replace(&self, place: usize, name: String) {
        let new = Life { name, deaths: 0, is_counted: true };
        let ended = std::mem::replace(&mut self.current.lock().unwrap()[place], new);
        self.past.lock().unwrap().push(ended);
    }

    /// The lives that go on, and those that have ended.
    pub fn lives(&self) -> (Vec<Life>, Vec<Life>) {
        (self.current.lock().unwrap().clone(), self.past.lock().unwrap().clone())
    }

    /// A session, if there is one to be had.
    pub fn connect(&self, database: &str) -> Option<Client> {
        let mut config = Config::new();
        config.host_path(self.cluster.socket_directory()).port(5432).user("postgres").dbname(database);
        config.options("-c statement_timeout=3s -c lock_timeout=1s").connect_timeout(Duration::from_secs(2));
        config.connect(NoTls).ok()
    }

    /// Runs statements; whether they succeeded. An open transaction is rolled back when they fail.
    pub fn attempt(&self, client: &mut Client, sql: &str) -> bool {
        let Err(error) = client.batch_execute(sql) else {
            self.count("statements that succeeded");
            return true;
        };
        self.count("statements that failed");
        if let Some(error) = error.as_db_error().filter(|error| is_internal(error)) {
            self.internal_errors.lock().unwrap().push(format!("{error:?}, at: {sql}"));
        }
        let _ = client.batch_execute("ROLLBACK");
        false
    }

    /// One number, or nothing when there is no session or no answer.
    pub fn number(&self, client: &mut Client, sql: &str) -> Option<i64> {
        client.query_one(sql, &[]).ok()?.try_get(0).ok()
    }

    pub fn count(&self, what: &str) {
        *self.tally.lock().unwrap().entry(what.to_owned()).or_default() += 1;
    }

    pub fn counted(&self, what: &str) -> u64 {
        self.tally.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    pub fn internal_errors(&self) -> Vec<String> {
        self.internal_errors.lock().unwrap().clone()
    }

    /// What happened, and what must happen for a run to prove anything.
    pub fn summary(&self) -> (String, Vec<&'static str>) {
        let must = [
            "statements that succeeded",
            "deaths in the log",
            "extensions dropped",
            "databases dropped",
            "processes terminated",
            "processes killed by SIGKILL",
        ];
        let tally = self.tally.lock().unwrap();
        let lines: Vec<String> = tally.iter().map(|(what, count)| format!("{count:8} {what}")).collect();
        (lines.join("\n"), must.into_iter().filter(|what| !tally.contains_key(*what)).collect())
    }

    /// The OID of a database.
    pub fn oid(&self, name: &str) -> Option<i64> {
        let mut client = self.connect("postgres")?;
        self.number(&mut client, &format!("SELECT oid::bigint FROM pg_database WHERE datname = '{name}'"))
    }

    /// A session of the judge, for whom the server has to be there.
    pub fn ask(&self, database: &str, sql: &str) -> i64 {
        ask(&mut self.cluster.connect(database), sql, &[])
    }
}
