//! Servers with tables whose rows are elsewhere, as those of a distributed table are; see `elsewhere.c`.

use super::{Cluster, programs};
use std::env;
use std::process::Command;

impl Cluster {
    /// The library that serves the tables of schema `elsewhere`, compiled for this server.
    pub(super) fn library_of_tables_elsewhere(&self) -> String {
        let library = self.dir.join("elsewhere.so").display().to_string();
        let pg_config = env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".into());
        let headers = programs::run_program(Command::new(pg_config).arg("--includedir-server"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/cluster/elsewhere.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-I", &headers, "-o", &library, source]);
        programs::run_program(&mut compiler);
        library
    }
}
