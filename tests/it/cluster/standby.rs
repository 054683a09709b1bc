//! Copies of a running server by pg_basebackup: a standby that streams from it, and a backup that goes on from an
//! archive.

use super::database::ask;
use super::server::{SUPERUSER, next_number};
use super::{Cluster, programs, run, wait_until};
use std::fs;
use std::path::{Path, PathBuf};

/// A directory for a server's archive.
pub fn archive() -> PathBuf {
    programs::new_empty_directory(next_number())
}

impl Cluster {
    /// A hot standby of this server, with the same settings.
    pub fn standby(&self) -> Self {
        let standby = self.base_backup();
        standby.append_line(&format!("primary_conninfo = 'host={} user={SUPERUSER}'", self.dir.display()));
        standby.signal("standby.signal");
        standby.start();
        standby
    }

    /// A copy of this server's files, with the same settings. It is not started.
    pub fn base_backup(&self) -> Self {
        let dir = programs::new_empty_directory(next_number());
        let backup = Self { dir, bindir: self.bindir.clone(), interposed: None };
        let mut copy = programs::server_program("pg_basebackup");
        copy.args(["--checkpoint=fast", "--no-sync", "-U", SUPERUSER, "-h"]);
        programs::run_program(copy.arg(&self.dir).arg("-D").arg(backup.data()));
        backup.append_line(&format!("unix_socket_directories = '{}'", backup.dir.display()));
        backup
    }

    /// Starts a base backup, which goes on from an archive to a restore point and no further, and is a primary then.
    pub fn recover_to(&self, archive: &Path, restore_point: &str) {
        self.append_line(&format!("restore_command = 'cp {}/%f %p'", archive.display()));
        self.append_line(&format!("recovery_target_name = '{restore_point}'"));
        self.append_line("recovery_target_action = promote");
        self.signal("recovery.signal");
        self.start();
        let is_over = "SELECT NOT pg_is_in_recovery()";
        wait_until("the recovery to end", || ask(&mut self.connect("postgres"), is_over, &[]));
    }

    /// An empty file that tells the server what to do at its start.
    fn signal(&self, name: &str) {
        fs::write(self.data().join(name), "").expect("the copy can be written");
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
