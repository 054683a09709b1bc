//! A server from its configuration to its end, and the sessions on it.

use super::database::{ask, run};
use super::interposed::Interposed;
use super::rgrid::{executions_table, rgrid_tables};
use super::{Database, programs, wait_until};
use postgres::{Client, Config, NoTls};
use std::fs;
use std::io::Write;
use std::ops::Deref;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

pub const SUPERUSER: &str = "postgres";

/// What a server is started with.
pub struct Builder {
    preload: bool,
    settings: Vec<(String, String)>,
    interposed: Option<Interposed>,
    has_tables_elsewhere: bool,
}

impl Builder {
    /// Whether the library is in `shared_preload_libraries`.
    pub fn preload(mut self, preload: bool) -> Self {
        self.preload = preload;
        self
    }

    /// A line of postgresql.conf; a later one of the same name wins.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// With a wall clock of its own, which [`Cluster::step_clock`] steps; see `clock.rs`.
    pub fn own_clock(mut self) -> Self {
        self.interposed = Some(Interposed::Clock);
        self
    }

    /// Whose processes are held up for a moment right after they asked the postmaster for something, as the launcher
    /// for a sweeper; see `requests.c`.
    pub fn held_up_after_requests(mut self) -> Self {
        self.interposed = Some(Interposed::Requests);
        self
    }

    /// With a schema `elsewhere`, the rows of whose tables are on other servers as far as a session sees.
    pub fn tables_elsewhere(mut self) -> Self {
        self.has_tables_elsewhere = true;
        self
    }

    pub fn start(self) -> Cluster {
        let dir = programs::new_server_directory(next_number());
        let interposed = self.interposed;
        self.start_in(Cluster { dir, bindir: programs::bindir().into(), interposed })
    }

    pub(super) fn start_in(self, cluster: Cluster) -> Cluster {
        if self.interposed == Some(Interposed::Clock) {
            cluster.step_clock(0);
        }
        cluster.append_configuration(&self);
        cluster.start();
        cluster
    }
}

/// A number that no other server of this test process has.
pub(super) fn next_number() -> usize {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    STARTED.fetch_add(1, Ordering::Relaxed)
}

/// A server of a test's own. Dropping it stops the server and removes its directory.
pub struct Cluster {
    pub(super) dir: PathBuf,
    /// Where its programs are.
    pub(super) bindir: PathBuf,
    /// What stands between it and the system.
    pub(super) interposed: Option<Interposed>,
}

impl Cluster {
    pub fn builder() -> Builder {
        Builder { preload: true, settings: Vec::new(), interposed: None, has_tables_elsewhere: false }
    }

    /// A server as most tests want it: sweeps every 200 ms, a worker is dead after two seconds of silence.
    pub fn quick() -> Builder {
        Self::builder()
            .setting("rgrid_heartbeat.check_interval", "200ms")
            .setting("rgrid_heartbeat.stale_threshold", "2s")
    }

    fn append_configuration(&self, builder: &Builder) {
        let mut libraries = Vec::new();
        let elsewhere = || programs::compile("elsewhere").display().to_string();
        libraries.extend(builder.has_tables_elsewhere.then(elsewhere));
        libraries.extend(builder.preload.then(|| "rgrid_heartbeat".to_owned()));
        let fixed = [
            ("listen_addresses", String::new()),
            ("unix_socket_directories", self.dir.display().to_string()),
            ("fsync", "off".into()),
            ("max_worker_processes", "32".into()),
            ("max_prepared_transactions", "4".into()),
            ("log_line_prefix", "%m [%p] %b: ".into()),
            ("timezone", "UTC".into()),
            ("shared_preload_libraries", libraries.join(",")),
        ];
        let fixed = fixed.iter().map(|(name, value)| (*name, value.as_str()));
        let chosen = builder.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let lines: Vec<String> =
            fixed.chain(chosen).map(|(name, value)| format!("{name} = '{value}'\n")).collect();
        self.append_line(&lines.concat());
    }

    /// Writes to the end of postgresql.conf, without any check, as an operator's editor would.
    pub fn append_line(&self, line: &str) {
        let path = self.data().join("postgresql.conf");
        let mut file = fs::OpenOptions::new().append(true).open(path).expect("postgresql.conf can be opened");
        writeln!(file, "{line}").expect("postgresql.conf can be written");
    }

    /// Where the server listens.
    pub fn socket_directory(&self) -> &Path {
        &self.dir
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(super) fn postmaster(&self) -> i32 {
        programs::postmaster(&self.data()).expect("the server runs")
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Starts the server, also after [`Cluster::stop`] and [`Cluster::crash`].
    pub fn start(&self) {
        let mut answer = String::new();
        let started = programs::try_program(self.pg_ctl("start").arg("-l").arg(self.log_path()), &mut answer);
        assert!(started, "the server does not start: {answer}\n{}", programs::tail(&self.log_path(), &[]));
    }

    /// Stops the server (`smart`, `fast` or `immediate`) and answers how long that took.
    pub fn stop(&self, mode: &str) -> Duration {
        let started = Instant::now();
        programs::run_program(self.pg_ctl("stop").args(["-m", mode]));
        started.elapsed()
    }

    pub fn restart(&self, mode: &str) {
        self.stop(mode);
        self.start();
    }

    /// `kill -9` of the postmaster: nothing is written, no process is told.
    ///
    /// Returns when the others have noticed and gone: until then no new server can start in their shared
    /// memory.
    pub fn crash(&self) {
        let others = self.all_pids();
        programs::kill(self.postmaster());
        wait_until("the server's processes to end", || !others.iter().any(|pid| programs::is_alive(*pid)));
    }

    /// `kill -9` of one backend: the postmaster restarts all the others. Returns when it takes connections
    /// again.
    pub fn crash_backend(&self, pid: i32) {
        let recoveries = || self.log_lines_with(&["all server processes terminated; reinitializing"]).len();
        let before = recoveries();
        programs::kill(pid);
        wait_until("the postmaster notices the crash", || recoveries() > before);
        wait_until("connections are taken again", || self.try_connect("postgres", SUPERUSER).is_ok());
    }

    pub(super) fn pg_ctl(&self, action: &str) -> Command {
        let mut command = match self.interposed {
            Some(interposed) => self.program_with(interposed, "pg_ctl"),
            None => programs::as_server_user(&self.bindir.join("pg_ctl")),
        };
        command.arg(action).arg("-D").arg(self.data()).args(["-w", "-t", "60"]);
        command
    }

    pub(super) fn try_connect(&self, database: &str, role: &str) -> Result<Client, postgres::Error> {
        self.config(database, role).connect(NoTls)
    }

    /// How to connect, for a worker that has to do so again after a crash.
    pub(super) fn config(&self, database: &str, role: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.dir).port(5432).user(role).dbname(database);
        config
    }

    /// A session of the superuser.
    pub fn connect(&self, database: &str) -> Client {
        self.connect_as(database, SUPERUSER)
    }

    pub fn connect_as(&self, database: &str, role: &str) -> Client {
        self.try_connect(database, role).expect("the server takes connections")
    }

    /// A database without the extension, dropped at the end of the test.
    pub fn empty_database(&self, name: &str) -> Database<'_> {
        Database::create(self, name)
    }

    /// A database with the extension and RGrid's `executions`; the table of heartbeats is the extension's.
    pub fn database(&self, name: &str) -> Database<'_> {
        let database = Database::create(self, name);
        let mut client = database.connect();
        run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
        executions_table(&mut client);
        database
    }

    /// A database with all of RGrid's tables, as they were before the extension came.
    pub fn rgrid_database(&self, name: &str) -> Database<'_> {
        let database = Database::create(self, name);
        let mut client = database.connect();
        rgrid_tables(&mut client);
        run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
        database
    }

    /// Returns when the postmaster, and so every process started from now on, knows the new settings.
    pub fn reload(&self) {
        let mut client = self.connect("postgres");
        let asked: String = ask(&mut client, "SELECT clock_timestamp()::text", &[]);
        run(&mut client, "SELECT pg_reload_conf()");
        wait_until("the postmaster reloads its settings", || {
            let sql = "SELECT pg_conf_load_time() > $1::text::timestamptz";
            ask(&mut self.connect("postgres"), sql, &[&asked])
        });
    }

    /// Copies a database into an empty one by pg_dump and pg_restore.
    pub fn dump_and_restore(&self, from: &str, to: &str) {
        let file = self.dir.join("dump");
        let mut dump = programs::server_program("pg_dump");
        dump.args(["-Fc", "-U", SUPERUSER, "-h"]).arg(&self.dir).arg("-f").arg(&file).arg(from);
        programs::run_program(&mut dump);
        let mut restore = programs::server_program("pg_restore");
        restore.args(["-U", SUPERUSER, "-d", to, "-h"]).arg(&self.dir).arg(&file);
        programs::run_program(&mut restore);
    }

    /// `ALTER SYSTEM` and a reload: what an operator does to change a setting without a restart.
    pub fn set(&self, setting: &str, value: &str) {
        run(&mut self.connect("postgres"), &format!("ALTER SYSTEM SET {setting} = '{value}'"));
        self.reload();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.print_log_of_failure();
        let mut ignored = String::new();
        programs::try_program(self.pg_ctl("stop").args(["-m", "immediate"]), &mut ignored);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// One server for the tests of a module, each in a database of its own.
///
/// It stops when a test of another module asks for a server and none of its own uses it any more: tests run in the
/// order of their names, so those of one module are over by then, or the server is started once more.
pub struct Shared(Arc<OnceLock<Cluster>>);

/// A shared server, and the place in the tests that it is for.
struct Lent {
    place: &'static Location<'static>,
    server: Arc<OnceLock<Cluster>>,
}

static LENT: Mutex<Vec<Lent>> = Mutex::new(Vec::new());

impl Shared {
    /// The server of the place in the tests that calls this, started at its first call.
    #[track_caller]
    pub fn of(builder: impl FnOnce() -> Builder) -> Self {
        let (server, unused) = lend(Location::caller());
        drop(unused);
        server.get_or_init(|| builder().start());
        Self(server)
    }
}

/// The server of a place, maybe not started yet, and the servers of other files that no test uses.
fn lend(place: &'static Location<'static>) -> (Arc<OnceLock<Cluster>>, Vec<Lent>) {
    let mut lent = LENT.lock().expect("nothing fails while this is locked");
    let is_unused =
        |other: &mut Lent| other.place.file() != place.file() && Arc::strong_count(&other.server) == 1;
    let unused = lent.extract_if(.., is_unused).collect();
    if let Some(own) = lent.iter().find(|own| own.place == place) {
        return (Arc::clone(&own.server), unused);
    }
    let server = Arc::default();
    lent.push(Lent { place, server: Arc::clone(&server) });
    (server, unused)
}

impl Deref for Shared {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.0.get().expect("a shared server was started")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.print_log_of_failure();
    }
}
