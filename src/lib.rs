//! Finds dead workers and settles their jobs, inside PostgreSQL.
//!
//! Workers call `rgrid_heartbeat()`; background workers of this library look for those that have fallen silent,
//! mark their running jobs as failed, and write each death into a ledger.
//!
//! # Layout
//!
//! - [`settings`]: the settings, with typed getters
//! - [`error`]: every SQLSTATE, message, detail and hint
//! - [`liveness`]: the rules about time, in plain Rust
//! - [`installation`]: where the extension is in a database
//! - [`workers`]: the rows of `worker_heartbeats`, the extension's own or an adopted table
//! - [`ledger`]: the deaths
//! - [`family`]: a table with its partitions and children, and whose they are
//! - [`jobs`]: the watched tables; [`watch`]: the functions by which their owners announce them
//! - [`settle`]: settling jobs over all watched tables
//! - [`sweep`]: declaring deaths
//! - [`mass_death`]: holding many deaths at once back for a while
//! - [`fence`]: keeping late results away from jobs that were given up
//! - [`notify`]: telling whoever listens
//! - [`heartbeat`]: the functions that a worker calls
//! - [`buffer`]: heartbeats in shared memory; [`flush`] writes them to their rows
//! - [`halving`]: batches that fail because of one of their parts; [`pace`]: work with rests between its parts
//! - [`incarnations`]: the workers' numbers that the ledger no longer tells; [`prune`] removes what is old
//! - [`stats`], [`health`]: what operators read; [`counters`] and [`gaps`] are where the numbers come from
//! - [`databases`]: what the processes tell one another, in shared memory
//! - [`launcher`], [`sweeper`]: the two processes
//! - [`pg`]: the calls into Postgres that need `unsafe`

use pgrx::prelude::*;

pub mod buffer;
pub mod counters;
pub mod databases;
pub mod error;
pub mod family;
pub mod fence;
pub mod flush;
pub mod gaps;
pub mod halving;
pub mod health;
pub mod heartbeat;
pub mod incarnations;
pub mod installation;
pub mod jobs;
pub mod launcher;
pub mod ledger;
pub mod liveness;
pub mod mass_death;
pub mod notify;
pub mod pace;
pub mod pg;
pub mod prune;
pub mod settings;
pub mod settle;
pub mod stats;
pub mod sweep;
pub mod sweeper;
pub mod watch;
pub mod workers;

pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/prerequisites.sql", bootstrap);
extension_sql_file!("../sql/heartbeats.sql", requires = ["prerequisites"]);
extension_sql_file!("../sql/ledger.sql", requires = ["heartbeats"]);
extension_sql_file!("../sql/incarnations.sql", requires = ["ledger"]);
extension_sql_file!("../sql/job_tables.sql", requires = ["incarnations"]);
extension_sql_file!(
    "../sql/views.sql",
    requires = [
        "job_tables",
        stats::workers::rgrid_worker_states,
        stats::databases::rgrid_stat_databases,
        stats::databases::rgrid_stat_reset,
        health::rgrid_health
    ]
);
extension_sql_file!("../sql/fence.sql", requires = ["job_tables", rgrid_fence_violated]);
extension_sql_file!("../sql/functions.sql", finalize);

/// Called by Postgres when the library is loaded.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    pg::names::install();
    if pg::is_binary_upgrade() || !pg::is_preloading() {
        return;
    }
    databases::request_shared_memory();
    buffer::request_shared_memory();
    launcher::register();
}

#[cfg(any(test, feature = "pg_test"))]
mod pg_tests;

/// What cargo-pgrx needs to start the server of the `#[pg_test]` functions.
#[cfg(test)]
pub mod pg_test {
    /// Called once before the tests.
    pub fn setup(_options: Vec<&str>) {}

    /// Settings of the tests' server.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'rgrid_heartbeat'"]
    }
}
