//! A database for one test, and the few ways in which tests talk to it.

use super::Cluster;
use super::server::SUPERUSER;
use postgres::types::{FromSqlOwned, ToSql};
use postgres::{Client, Config};
use std::thread;

/// A database that a test has for itself.
///
/// Dropped with the handle, so that a shared server has few databases to sweep; make it before the sessions
/// that use it, so that they end first.
pub struct Database<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Database<'a> {
    pub(super) fn create(cluster: &'a Cluster, name: &str) -> Self {
        run(&mut cluster.connect("postgres"), &format!("CREATE DATABASE {name}"));
        Self { cluster, name: name.into() }
    }

    pub fn connect(&self) -> Client {
        self.connect_as(SUPERUSER)
    }

    pub fn connect_as(&self, role: &str) -> Client {
        self.cluster.connect_as(&self.name, role)
    }

    /// How to connect, in the words of libpq.
    pub fn connection_string(&self) -> String {
        let directory = self.cluster.socket_directory().display();
        format!("host={directory} user={SUPERUSER} dbname={}", self.name)
    }

    /// How to connect, for a worker that has to do so again after a crash.
    pub fn config(&self) -> Config {
        self.cluster.config(&self.name, SUPERUSER)
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        // A failed test leaves its database as it was; the server goes soon enough.
        if !thread::panicking() {
            let dropped = self.cluster.try_connect("postgres", SUPERUSER);
            let _ =
                dropped.and_then(|mut client| client.batch_execute(&format!("DROP DATABASE {}", self.name)));
        }
    }
}

/// Runs statements whose answers do not matter.
///
/// # Panics
/// With the statements and the server's error.
pub fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The one value that a query answers.
///
/// # Panics
/// With the query and the server's error, also when there is not exactly one row.
pub fn ask<T: FromSqlOwned>(client: &mut Client, sql: &str, params: &[&(dyn ToSql + Sync)]) -> T {
    let row = client.query_one(sql, params).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    row.get(0)
}

/// Whether an extension can be created here: builds of PostgreSQL without its contrib modules lack most.
pub fn has_available(client: &mut Client, extension: &str) -> bool {
    let sql = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = $1)";
    ask(client, sql, &[&extension])
}

/// The SQLSTATE with which the server refuses a statement.
///
/// # Panics
/// When it does not.
pub fn sqlstate(client: &mut Client, sql: &str) -> String {
    let refusal = client.batch_execute(sql).expect_err(&format!("the server should have refused: {sql}"));
    refusal.code().unwrap_or_else(|| panic!("{sql}: {refusal:?}")).code().to_owned()
}
