//! What a test can see of a server from outside: its processes and its log.

use super::database::ask;
use super::{Cluster, programs};
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use serde_json::Value;
use std::fs;
use std::time::Duration;

pub const LAUNCHER: &str = "rgrid_heartbeat launcher";
pub const SWEEPER: &str = "rgrid_heartbeat sweeper";

impl Cluster {
    /// The processes of one `backend_type`, oldest first.
    pub fn pids(&self, backend_type: &str) -> Vec<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = $1 ORDER BY backend_start";
        let rows =
            self.connect("postgres").query(sql, &[&backend_type]).expect("pg_stat_activity can be read");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Every process of the server but the postmaster.
    pub fn all_pids(&self) -> Vec<i32> {
        let rows = self.connect("postgres").query("SELECT pid FROM pg_stat_activity", &[]);
        rows.expect("pg_stat_activity can be read").iter().map(|row| row.get(0)).collect()
    }

    /// The sweeper that waits for a lock just now, if there is one.
    pub fn waiting_sweeper(&self) -> Option<i32> {
        let sql =
            "SELECT max(pid) FROM pg_stat_activity WHERE backend_type = $1 AND wait_event_type = 'Lock'";
        ask(&mut self.connect("postgres"), sql, &[&SWEEPER])
    }

    pub fn terminate(&self, pid: i32) {
        let told: bool = ask(&mut self.connect("postgres"), "SELECT pg_terminate_backend($1)", &[&pid]);
        assert!(told, "process {pid} was gone before it could be terminated");
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The lines of the server's log that contain every one of `parts`.
    pub fn log_lines_with(&self, parts: &[&str]) -> Vec<String> {
        let log = self.log();
        log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).map(String::from).collect()
    }

    /// What went wrong in the extension's own processes, as the log has it.
    ///
    /// A process on its way into a database that is dropped just then cannot but fail; so does autovacuum's.
    pub fn worker_errors(&self) -> Vec<String> {
        let mut lines = self.log_lines_with(&["rgrid_heartbeat "]);
        lines.retain(|line| {
            ["WARNING:", "ERROR:", "FATAL:", "PANIC:"].iter().any(|level| line.contains(level))
                && !(line.contains("FATAL:  database ") && line.ends_with(" does not exist"))
        });
        lines
    }

    pub(super) fn print_log_of_failure(&self) {
        programs::print_tail("the server", &self.log_path(), &[]);
    }
}

/// The next notification, as JSON.
pub fn next_notice(listener: &mut Client) -> Value {
    let mut notifications = listener.notifications();
    let notice = notifications.timeout_iter(Duration::from_secs(30)).next().expect("the server is there");
    let notice = notice.expect("a notification within the deadline");
    assert_eq!(notice.channel(), "rgrid_worker_deaths");
    serde_json::from_str(notice.payload()).expect("a notification is JSON")
}
