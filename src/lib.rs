//! Finds dead workers and settles their jobs, inside PostgreSQL.
//!
//! Workers call `rgrid_heartbeat()`. Background workers of this library look for workers that have fallen silent, mark
//! their running jobs as failed or give them back to the queue, and write each death into a ledger.
//!
//! # Layout
//!
//! Layers, the lowest first. Each imports only what is above it in this list; a test holds them to that.
//!
//! - [`rules`]: the rules in plain Rust: which worker is dead when, when to look again, what is news
//! - [`mod@error`]: every SQLSTATE, message, detail and hint
//! - [`pg`]: the calls into PostgreSQL, each behind a safe name
//! - [`settings`]: the settings, with typed getters
//! - [`shmem`]: what processes share: heartbeats, databases, the launcher, problems
//! - [`installation`]: where the extension is in a database
//! - [`tables`]: the extension's tables, a module each: heartbeats, deaths, incarnations, owners of ids, job tables
//! - [`jobs`]: the watched tables of jobs, and settling them
//! - [`sweep`]: what a round does; what a death and a return are
//! - [`processes`]: the launcher and the sweeper
//! - [`api`]: the SQL functions

use pgrx::prelude::*;

pub mod api;
pub mod error;
pub mod installation;
pub mod jobs;
pub mod pg;
pub mod processes;
pub mod rules;
pub mod settings;
pub mod shmem;
pub mod sweep;
pub mod tables;

/// The version of this library, and of the SQL objects that it works with.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pgrx::pg_module_magic!(name, version);

// One after the other: pgrx writes what is not ordered here in an order that changes from run to run.
extension_sql_file!("../sql/prerequisites.sql", bootstrap);
extension_sql_file!("../sql/heartbeats.sql", requires = ["prerequisites"]);
extension_sql_file!("../sql/ledger.sql", requires = ["heartbeats"]);
extension_sql_file!("../sql/incarnations.sql", requires = ["ledger"]);
extension_sql_file!("../sql/worker_owners.sql", requires = ["incarnations"]);
extension_sql_file!("../sql/job_tables.sql", requires = ["worker_owners"]);
extension_sql_file!("../sql/unsettled.sql", requires = ["job_tables"]);
extension_sql_file!("../sql/job_queues.sql", requires = ["unsettled"]);
extension_sql_file!("../sql/replicated.sql", requires = ["job_queues"]);
extension_sql_file!("../sql/fence.sql", requires = ["replicated"]);
extension_sql_file!(
    "../sql/views.sql",
    requires = [
        "fence",
        api::views::workers::rgrid_worker_states,
        api::views::attached::rgrid_stat_attached,
        api::views::statistics::rgrid_stat_databases_0_3,
        api::views::statistics::rgrid_stat_reset,
        api::views::problems::rgrid_stat_problems,
        api::health::rgrid_health
    ]
);
extension_sql_file!("../sql/functions.sql", finalize);

/// Called by Postgres when the library is loaded.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    pg::names::install(shmem::databases::note_foreign_code);
    if pg::is_binary_upgrade() || !pg::is_preloading() {
        return;
    }
    shmem::request();
    pg::databases::at_drop(shmem::forget);
    processes::launcher::register();
}

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
