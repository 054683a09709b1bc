//! Clients with other encodings than the server's.

use crate::cluster::*;

#[test]
fn a_name_that_a_client_cannot_be_sent_does_not_stop_the_server() {
    let cluster = Cluster::builder().setting("rgrid_heartbeat.check_interval", "1h").start();
    let database = cluster.database("encodings");
    let mut client = database.connect();
    let started: String = ask(&mut client, "SELECT pg_postmaster_start_time()::text", &[]);
    run(&mut client, "SET client_encoding = 'LATIN1'; SET client_min_messages = 'log'");
    for _ in 0..2 {
        run(&mut client, "SELECT length(id) FROM rgrid_register('w' || chr(28450))");
    }
    assert_eq!(ask::<String>(&mut client, "SELECT pg_postmaster_start_time()::text", &[]), started);
    let logged = cluster.log_lines_with(&["was registered again"]);
    assert_eq!(logged.len(), 1, "the death is in the server's log: {logged:?}");
}
