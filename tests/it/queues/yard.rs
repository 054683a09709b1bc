//! A database with the tables of a library, and the processes of its workers.

use crate::cluster::*;
use postgres::Client;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What the documents' times are measured with.
const THRESHOLD: &str = "3s";
const CHECK_INTERVAL: &str = "1s";

/// A job runs again so soon after the kill of its worker: the threshold, a check interval, and a second.
pub const AGAIN_WITHIN: f64 = 5.0;

/// The same where the worker was attached, with the settings as they are installed: the grace of five seconds, and a
/// second each for the sweeper and for the library to look.
pub const LOST_WITHIN: f64 = 7.0;

/// How long a program may take on a busy machine: some of the libraries load for seconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// How long a claim about something that does not happen is watched: two sweeps.
pub const WHILE: Duration = Duration::from_secs(2);

/// The role that owns the database and the tables of the library, and as which all of its programs connect.
const OWNER: &str = "app";

#[derive(Clone, Copy)]
pub struct Library {
    /// As `rgrid_watch_queue()` calls it, and as its page is called.
    pub name: &'static str,
    /// Its program, below `tests/queues`, or the SQL of its schema.
    pub program: &'static str,
    /// The status of a job, as text: `$1` is what the job was enqueued as.
    pub status: &'static str,
    /// How it names a job that has been done.
    pub done: &'static str,
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Newer than Debian's, as the libraries want it.
fn node() -> PathBuf {
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    root(&format!("tests/queues/node/node_modules/node-linux-{machine}/bin/node"))
}

pub fn server() -> Shared {
    Shared::of(|| {
        Cluster::builder()
            .setting("rgrid_heartbeat.check_interval", CHECK_INTERVAL)
            .setting("rgrid_heartbeat.stale_threshold", THRESHOLD)
    })
}

/// With the settings as they are installed.
pub fn default_server() -> Shared {
    Shared::of(Cluster::builder)
}

pub struct Yard<'a> {
    /// A superuser's session.
    pub client: Client,
    server: &'a Cluster,
    database: Database<'a>,
    name: String,
    library: Library,
    /// How many were enqueued to see whether a worker is there.
    quick_jobs: u32,
}

impl<'a> Yard<'a> {
    /// With the queue watched by its owner, as its page says.
    pub fn new(server: &'a Cluster, library: Library, test: &str) -> Self {
        let yard = Self::unwatched(server, library, test);
        for statement in yard.page("sql") {
            run(&mut yard.database.connect_as(OWNER), &statement);
        }
        yard
    }

    pub fn unwatched(server: &'a Cluster, library: Library, test: &str) -> Self {
        Self::prepared(server, library, test, "")
    }

    /// The same after statements of a superuser.
    pub fn prepared(server: &'a Cluster, library: Library, test: &str, sql: &str) -> Self {
        let name = format!("{}_{test}", library.name);
        let database = server.empty_database(&name);
        let mut client = database.connect();
        run(&mut client, OWNER_OF_ALL);
        run(&mut client, &format!("ALTER DATABASE {name} OWNER TO {OWNER}"));
        run(&mut database.connect_as(OWNER), include_str!("yard.sql"));
        run(&mut client, sql);
        let yard = Self { client, server, database, name, library, quick_jobs: 0 };
        yard.install();
        yard
    }

    /// The blocks of the library's page that are in a language.
    pub fn page(&self, language: &str) -> Vec<String> {
        let path = root(&format!("docs/queues/{}.md", self.library.name));
        let text = fs::read_to_string(path).expect("the queue has a page");
        let begin = format!("```{language}\n");
        text.split(&begin)
            .skip(1)
            .map(|block| block.split("```").next().unwrap_or_default().to_owned())
            .collect()
    }

    /// The library's program.
    pub fn source(&self) -> PathBuf {
        root("tests/queues").join(self.library.program)
    }

    /// A session of the owner.
    pub fn owner(&self) -> Client {
        self.database.connect_as(OWNER)
    }

    /// A schema has no program of its own.
    fn install(&self) {
        if self.source().extension() == Some(OsStr::new("sql")) {
            let schema = fs::read_to_string(self.source()).expect("the schema is there");
            run(&mut self.owner(), &schema);
        } else {
            self.told(&["install"]);
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        match self.source().extension().and_then(OsStr::to_str) {
            Some("py") => command.arg(root("target/queues/bin/python")).arg("-B").arg(self.source()),
            Some("rs") => command.arg(root("target/queues-apalis/debug/apalis_worker")),
            _ => command.arg(node()).arg(self.source()),
        };
        command.args(arguments).env("PYTHONPATH", root("clients/python"));
        command
            .env("PGHOST", self.server.socket_directory())
            .env("PGUSER", OWNER)
            .env("PGDATABASE", &self.name);
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    fn log(&self) -> PathBuf {
        self.server.socket_directory().join(format!("{}.log", self.name))
    }

    /// What the library's program says to a command that ends.
    pub fn told(&self, arguments: &[&str]) -> String {
        run_program(&mut self.command(arguments))
    }

    /// Puts a job into the queue.
    pub fn enqueue(&self, job: &str) {
        self.enqueue_with(job, &json!({}));
    }

    /// The same with options that its program knows.
    pub fn enqueue_with(&self, job: &str, options: &Value) {
        self.told(&["enqueue", job, &options.to_string()]);
    }

    /// A worker, maybe before it is ready.
    pub fn worker(&self) -> Worker {
        self.worker_told(&["work"])
    }

    /// The same by another command than "work".
    pub fn worker_told(&self, arguments: &[&str]) -> Worker {
        let mut command = self.command(arguments);
        command.stdout(open_log(&self.log())).stderr(open_log(&self.log()));
        Worker(command.spawn().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}")))
    }

    /// A worker in the middle of a new job. There must be no other one that is idle.
    pub fn worker_at(&mut self, job: &str) -> Worker {
        self.worker_with(job, &json!({}))
    }

    /// The same for a job with options.
    pub fn worker_with(&mut self, job: &str, options: &Value) -> Worker {
        self.enqueue_with(job, options);
        let worker = self.worker();
        self.await_run(job, 1);
        worker
    }

    /// A worker that has done a job and waits for another one. There must be no other one that is idle.
    pub fn idle_worker(&mut self) -> Worker {
        let worker = self.worker();
        self.quick_jobs += 1;
        let job = format!("quick {}", self.quick_jobs);
        self.enqueue(&job);
        self.await_done(&job);
        worker
    }

    pub fn runs(&mut self, job: &str) -> i64 {
        ask(&mut self.client, "SELECT count(*) FROM runs WHERE job = $1", &[&job])
    }

    /// Returns when a run of a job has begun, the first one being 1.
    pub fn await_run(&mut self, job: &str, run: i64) {
        wait_within(DEADLINE, &format!("run {run} of {job}"), || self.runs(job) == run);
    }

    /// Returns when so many runs of a job have ended.
    pub fn await_ends(&mut self, job: &str, count: i64) {
        let sql = "SELECT count(*) FROM runs WHERE job = $1 AND ended IS NOT NULL";
        let awaited = format!("the end of {count} runs of {job}");
        wait_within(DEADLINE, &awaited, || ask::<i64>(&mut self.client, sql, &[&job]) == count);
    }

    pub fn status(&mut self, job: &str) -> String {
        ask(&mut self.client, self.library.status, &[&job])
    }

    pub fn await_done(&mut self, job: &str) {
        self.await_status(job, self.library.done);
    }

    pub fn await_status(&mut self, job: &str, status: &str) {
        wait_within(DEADLINE, &format!("{job} to be {status}"), || self.status(job) == status);
    }

    /// The first run of a job may end.
    pub fn release(&mut self, job: &str) {
        self.client.execute("INSERT INTO released VALUES ($1)", &[&job]).expect("a job can be released");
    }

    /// Kills a worker in the middle of a job, and answers after how many seconds its next run began. Prints it, too.
    pub fn time_to_next_run(&mut self, job: &str, worker: Worker) -> f64 {
        let before = self.runs(job);
        let killed_at: String = ask(&mut self.client, "SELECT clock_timestamp()::text", &[]);
        worker.kill();
        self.await_run(job, before + 1);
        let sql =
            "SELECT extract(epoch FROM max(began) - $2::text::timestamptz)::float8 FROM runs WHERE job = $1";
        let seconds = ask(&mut self.client, sql, &[&job, &killed_at]);
        // Past the test runner, which keeps what passing tests print to itself.
        let _ = writeln!(std::io::stderr(), "{}: its job ran again {seconds:.1} s after the kill", self.name);
        seconds
    }

    /// What became of the jobs of all workers of the queue, as the ledger has it: "0 failed, 1 requeued".
    pub fn settled(&mut self) -> String {
        let sql = "SELECT format('%s failed, %s requeued', coalesce(sum(jobs_failed), 0),
                       coalesce(sum(jobs_requeued), 0))
                   FROM rgrid_worker_deaths WHERE worker_id LIKE $1 || ':%'";
        ask(&mut self.client, sql, &[&self.library.name])
    }

    pub fn await_death(&mut self) {
        wait_until("the death", || dead(&mut self.client).len() == 1);
    }
}

impl Drop for Yard<'_> {
    fn drop(&mut self) {
        print_tail(&self.name, &self.log(), &[]);
    }
}

/// A role, once a server, and the extension in a database.
const OWNER_OF_ALL: &str =
    "DO $$BEGIN CREATE ROLE app LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END$$;
     CREATE EXTENSION rgrid_heartbeat;
     GRANT EXECUTE ON FUNCTION rgrid_heartbeat(text, text), rgrid_attach(text, text), rgrid_register(text, text),
         rgrid_deregister(text), rgrid_watch_queue(text, text, text), rgrid_unwatch_queue(text, text) TO app";

/// Killed with the handle, and with the process of the tests.
pub struct Worker(Child);

impl Worker {
    /// `kill -9`.
    pub fn kill(mut self) {
        self.0.kill().expect("it is our child");
        self.0.wait().expect("it is our child");
    }

    pub fn signal(&self, name: &str) {
        signal(i32::try_from(self.0.id()).expect("it is a process id"), name);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
