//! Databases that move: dumped and restored, or upgraded to the next major version.

use super::database::ask;
use super::server::{Builder, SUPERUSER, next_number};
use super::{Cluster, programs};
use postgres::Client;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

impl Cluster {
    /// One of the server's programs that are clients, as the superuser.
    fn client_program(&self, name: &str) -> Command {
        let mut program = programs::as_server_user(&self.bindir.join(name));
        program.args(["-U", SUPERUSER, "-h"]).arg(&self.dir);
        program
    }

    /// `pg_dump` in the custom format. Returns the file.
    pub fn dump(&self, database: &str) -> PathBuf {
        let file = self.dir.join(format!("{database}.dump"));
        programs::run_program(self.client_program("pg_dump").args(["-Fc", "-d", database, "-f"]).arg(&file));
        file
    }

    /// `pg_restore` into a database that is there and empty.
    pub fn restore(&self, dump: &Path, database: &str) {
        let mut restore = self.client_program("pg_restore");
        programs::run_program(restore.args(["--exit-on-error", "-d", database]).arg(dump));
    }

    /// Runs a shell script of the documents in the server's directory, as its superuser. Returns what it said.
    pub fn run_script(&self, script: &str) -> String {
        let mut shell = programs::as_server_user("env".as_ref());
        shell.arg(format!("PATH={}:/usr/bin:/bin", self.bindir.display()));
        shell.arg(format!("PGHOST={}", self.dir.display())).arg(format!("PGUSER={SUPERUSER}"));
        programs::run_program(shell.args(["sh", "-ec", script]).current_dir(&self.dir))
    }

    /// `pg_dumpall`, and all of it into another server. Only roles that are there already are in its way.
    pub fn dump_all_into(&self, other: &Self) {
        let file = self.dir.join("all.sql");
        programs::run_program(self.client_program("pg_dumpall").arg("-f").arg(&file));
        programs::run_program(
            other.client_program("psql").args(["-X", "-q", "-d", "postgres", "-f"]).arg(file),
        );
    }

    /// `pg_upgrade` of this server, which is stopped, into a new and empty one of a later version, stopped, too.
    /// Returns what the servers logged meanwhile.
    pub fn upgrade_into(&self, new: &Self) -> String {
        let mut upgrade = programs::as_server_user(&new.bindir.join("pg_upgrade"));
        upgrade.args(["--retain", "-U", SUPERUSER, "-b"]).arg(&self.bindir).arg("-B").arg(&new.bindir);
        upgrade.arg("-d").arg(self.data()).arg("-D").arg(new.data()).arg("-s").arg(&new.dir);
        let mut answer = String::new();
        let upgraded = programs::try_program(upgrade.current_dir(&new.dir), &mut answer);
        let logs = new.data().join("pg_upgrade_output.d");
        let logs = programs::run_program(Command::new("grep").args(["-rh", "--include=*.log", ""]).arg(logs));
        assert!(upgraded, "pg_upgrade failed: {answer}\n{logs}");
        logs
    }
}

impl Builder {
    /// A server of the version to upgrade from, that of `OLD_PG_CONFIG`, as compatible with `new` as it must be.
    pub fn start_older_than(self, new: &Cluster) -> Cluster {
        let checksums: String = ask(&mut new.connect("postgres"), "SHOW data_checksums", &[]);
        let pg_config = env::var("OLD_PG_CONFIG").expect("OLD_PG_CONFIG says what to upgrade from");
        let (dir, bindir) = (programs::new_empty_directory(next_number()), programs::bindir_of(&pg_config));
        let old = Cluster { dir, bindir, interposed: None };
        let mut initdb = programs::as_server_user(&old.bindir.join("initdb"));
        initdb.args(["-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        initdb.args((checksums == "on").then_some("--data-checksums")).arg("-D").arg(old.data());
        programs::run_program(&mut initdb);
        self.start_in(old)
    }
}

/// The rows of a table as they are, for a comparison.
pub fn rows(client: &mut Client, table: &str) -> Vec<String> {
    let rows = client.query(&format!("SELECT t::text FROM {table} t ORDER BY 1"), &[]);
    rows.expect("the table can be read").iter().map(|row| row.get(0)).collect()
}
