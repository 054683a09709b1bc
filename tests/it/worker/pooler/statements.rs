//! Statements that a driver names, and their names in transaction mode: psycopg, as Debian ships it.

use super::*;
use std::process::Command;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/worker/pooler/statements.py");

/// What the program says: `own` when all heartbeats were answered as such, `another's` when one ran a statement of
/// another client.
fn outcome(pooler: &Pooler, database: &str, what: &str, prepare_threshold: &str) -> String {
    let dsn = pooler.connection_string(database);
    let mut program = Command::new("/usr/bin/python3");
    let output = program.args(["-B", PROGRAM, &dsn, what, prepare_threshold]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Two connections of the server, so that a client can be given another one than before.
const TWO: &str = "pool_mode = transaction\ndefault_pool_size = 2";

#[test]
fn a_statement_without_a_name_is_the_clients_own() {
    let cluster = server();
    let _database = cluster.database("unnamed");
    let pooler = Pooler::start(&cluster, TWO);
    assert_eq!(outcome(&pooler, "unnamed", "two clients", "none"), "own");
    assert_eq!(outcome(&pooler, "unnamed", "many clients", "none"), "own");
}

#[test]
fn a_statement_with_a_name_may_be_another_clients_without_an_error() {
    let cluster = server();
    // Zero is also what a PgBouncer does that knows no such setting.
    let settings = if Pooler::carries_prepared_statements() { "max_prepared_statements = 0" } else { "" };
    let _database = cluster.database("named");
    let pooler = Pooler::start(&cluster, &format!("{TWO}\n{settings}"));
    assert_eq!(
        outcome(&pooler, "named", "two clients", "5"),
        "another's",
        "then docs/poolers.md is out of date"
    );
}

#[test]
fn a_pooler_that_carries_names_keeps_them_apart() {
    if !Pooler::carries_prepared_statements() {
        return;
    }
    let cluster = server();
    let _database = cluster.database("carried");
    let pooler = Pooler::start(&cluster, &format!("{TWO}\nmax_prepared_statements = 100"));
    assert_eq!(outcome(&pooler, "carried", "two clients", "5"), "own");
    assert_eq!(outcome(&pooler, "carried", "many clients", "5"), "own");
}
