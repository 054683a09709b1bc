//! Standbys: a running server copied by pg_basebackup, streaming from it.

use super::database::ask;
use super::server::{SUPERUSER, next_number};
use super::{Cluster, programs, run, wait_until};

impl Cluster {
    /// A hot standby of this server, with the same settings.
    pub fn standby(&self) -> Self {
        let dir = programs::new_empty_directory(next_number());
        let standby = Self { dir, bindir: self.bindir.clone(), interposed: None };
        let mut copy = programs::server_program("pg_basebackup");
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-U", SUPERUSER, "-h"]);
        programs::run_program(copy.arg(&self.dir).arg("-D").arg(standby.data()));
        standby.append_line(&format!("unix_socket_directories = '{}'", standby.dir.display()));
        standby.start();
        standby
    }

    /// Returns when this standby has replayed what the primary has written until now.
    pub fn catch_up_with(&self, primary: &Self) {
        let written: String =
            ask(&mut primary.connect("postgres"), "SELECT pg_current_wal_insert_lsn()::text", &[]);
        run(&mut primary.connect("postgres"), "SELECT pg_switch_wal()");
        let mut client = self.connect("postgres");
        let sql = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
        wait_until("the standby to catch up", || ask(&mut client, sql, &[&written]));
    }

    /// Ends recovery: returns when the server is a primary.
    pub fn promote(&self) {
        let promoted: bool = ask(&mut self.connect("postgres"), "SELECT pg_promote()", &[]);
        assert!(promoted, "the standby is not promoted");
    }
}
