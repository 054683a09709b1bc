//! The primary, its synchronous standby, and what is done to them.
//!
//! Replication is synchronous, so that what was acknowledged survives a promotion: the ledger and the jobs are then
//! judged without exception. What commits locally without the standby, because a crash ended the wait for it, is no
//! exception either: the primary is stopped for good only when the standby has all that it has written until then.

use crate::cluster::{Cluster, LAUNCHER, ask, run, wait_until};
use crate::history::deaths_in;
use crate::notes::Notes;
use crate::plan::{GRACE, ServerFault, THRESHOLD};
use crate::worker::{DATABASE, connect};
use postgres::Client;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// Milliseconds between sweeps, and until a heartbeat is written, when nothing else is said.
pub const CHECK_INTERVAL: u64 = 300;
pub const FLUSH_INTERVAL: u64 = 300;

pub struct Servers<'a> {
    notes: &'a Notes,
    directory: PathBuf,
    primary: Cluster,
    standby: Cluster,
    /// Primaries of old; their logs are still of interest.
    retired: Vec<Cluster>,
    /// What is killed.
    random: StdRng,
}

/// Jobs, and a trigger that notes each change of their status in the transaction that makes it.
const TABLES: &str = "
    CREATE TABLE job_changes (seq bigserial PRIMARY KEY, job bigint NOT NULL, at timestamptz NOT NULL,
        worker text, claimed_under bigint, old text NOT NULL, new text NOT NULL);
    CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public.job_changes (job, at, worker, claimed_under, old, new)
        VALUES (NEW.id, pg_catalog.clock_timestamp(), NEW.worker_id, NEW.batch_index, OLD.status, NEW.status);
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_change AFTER UPDATE OF status ON executions FOR EACH ROW EXECUTE FUNCTION note_change();
    INSERT INTO executions (execution_id, runtime, code, args, env_vars, input_files, status, output_truncated,
        cost_micros, priority, timeout_seconds, retry_count, max_retries, created_at)
    SELECT n, 'python:3.11', '', '[]', '{}', '[]', 'queued', false, 0, 0, 300, 0, 0, now()
    FROM generate_series(1, $jobs) AS n";

impl<'a> Servers<'a> {
    /// A primary with its standby, and more jobs than are worked off in these seconds.
    pub fn start(notes: &'a Notes, directory: PathBuf, seed: u64, seconds: u64) -> Self {
        let primary = Cluster::builder()
            .setting("rgrid_heartbeat.stale_threshold", &format!("{THRESHOLD}ms"))
            .setting("rgrid_heartbeat.disconnect_grace", &format!("{GRACE}ms"))
            .setting("rgrid_heartbeat.check_interval", &format!("{CHECK_INTERVAL}ms"))
            .setting("rgrid_heartbeat.flush_interval", &format!("{FLUSH_INTERVAL}ms"))
            // All twelve workers may be silent after an outage, and each death has its time.
            .setting("rgrid_heartbeat.max_dead_fraction", "1")
            .setting("wal_retrieve_retry_interval", "100ms")
            .setting("restart_after_crash", "on")
            .start();
        let database = primary.database(DATABASE);
        let mut client = database.connect();
        run(&mut client, &TABLES.replace("$jobs", &(seconds * 60).to_string()));
        // It is not to be dropped before the server.
        std::mem::forget(database);
        let standby = primary.standby();
        let random = StdRng::seed_from_u64(seed);
        let servers = Self { notes, directory, primary, standby, retired: Vec::new(), random };
        servers.wait_for_the_standby();
        announce(&servers.directory, &servers.primary);
        servers.fence();
        servers
    }

    /// What was given up stays so, also when a worker writes its result without looking.
    fn fence(&self) {
        run(&mut self.client(), "SELECT rgrid_fence('executions')");
    }

    /// A session on the primary.
    pub fn client(&self) -> Client {
        connect(&self.directory)
    }

    /// From here on commits wait for the standby.
    fn wait_for_the_standby(&self) {
        self.primary.set("synchronous_standby_names", "*");
        let mut client = self.primary.connect(DATABASE);
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        wait_until("a synchronous standby", || ask::<i64>(&mut client, sql, &[]) == 1);
    }

    /// Does the faults when they are due.
    pub fn suffer(&mut self, faults: &[(u64, ServerFault)]) {
        let started = Instant::now();
        for (at, fault) in faults {
            thread::sleep(Duration::from_millis(*at).saturating_sub(started.elapsed()));
            self.apply(fault);
        }
    }

    fn apply(&mut self, fault: &ServerFault) {
        match fault {
            ServerFault::StopFast { down } => self.stop_for_a_while("fast", *down),
            ServerFault::StopImmediate { down } => self.stop_for_a_while("immediate", *down),
            ServerFault::KillBackend => self.kill_a_backend(),
            ServerFault::Promote => self.promote(),
            ServerFault::TerminateLauncher => self.notes.during("terminate the launcher", || {
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = $1";
                self.client().execute(sql, &[&LAUNCHER]).expect("it is told, if it is there");
            }),
            ServerFault::TerminateAttached => self.notes.during("terminate the attached sessions", || {
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT rgrid_attach%'";
                let _ = self.client().execute(sql, &[]);
            }),
            ServerFault::CheckInterval { length } => self.set("check_interval", *length),
            ServerFault::FlushInterval { length } => self.set("flush_interval", *length),
            ServerFault::SweepByHand => self.notes.during("sweep by hand", || {
                run(&mut self.client(), "SELECT count(*) FROM rgrid_sweep()");
            }),
        }
    }

    fn set(&self, setting: &str, milliseconds: u64) {
        self.notes.during(&format!("{setting} = {milliseconds} ms"), || {
            self.primary.set(&format!("rgrid_heartbeat.{setting}"), &format!("{milliseconds}ms"));
        });
    }

    fn stop_for_a_while(&self, mode: &str, down: u64) {
        self.notes.outage(&format!("stop -m {mode}, down for {down} ms"), || {
            self.primary.stop(mode);
            thread::sleep(Duration::from_millis(down));
            self.primary.start();
        });
    }

    /// The launcher, or a session that nobody else can end first.
    fn kill_a_backend(&mut self) {
        let mut client = self.client();
        let launcher = self.primary.pids(LAUNCHER).first().copied().filter(|_| self.random.random_bool(0.5));
        let pid = launcher.unwrap_or_else(|| ask(&mut client, "SELECT pg_backend_pid()", &[]));
        let text = if launcher.is_some() { "kill -9 the launcher" } else { "kill -9 a backend" };
        self.notes.outage(text, || self.primary.crash_backend(pid));
    }

    /// The standby takes over, and gets a standby of its own.
    fn promote(&mut self) {
        self.notes.during("wait for the standby to have everything", || {
            self.wait_for_the_standby();
            self.standby.catch_up_with(&self.primary);
        });
        self.notes.outage("stop the primary for good, promote the standby", || {
            self.primary.stop("immediate");
            self.standby.promote();
            announce(&self.directory, &self.standby);
        });
        self.notes.during("make a standby of the new primary", || {
            let standby = self.standby.standby();
            let primary = std::mem::replace(&mut self.standby, standby);
            self.retired.push(std::mem::replace(&mut self.primary, primary));
            self.wait_for_the_standby();
        });
    }

    /// The settings of the beginning again.
    pub fn calm(&self) {
        self.set("check_interval", CHECK_INTERVAL);
        self.set("flush_interval", FLUSH_INTERVAL);
    }

    /// The worker of each line of a log that tells of a death.
    pub fn deaths_in_the_logs(&self) -> Vec<String> {
        let servers = self.retired.iter().chain([&self.primary]);
        let logs: Vec<String> = servers.map(Cluster::log).collect();
        logs.iter().flat_map(|log| deaths_in(log)).collect()
    }
}

/// Tells the workers where the primary is.
fn announce(directory: &Path, primary: &Cluster) {
    let draft = directory.join("draft");
    fs::write(&draft, primary.socket_directory().to_string_lossy().as_bytes()).expect("a file is written");
    fs::rename(draft, directory.join("primary")).expect("a file is renamed");
}
