//! Sessions that are lost together: a network that fails, or a pooler that is killed, is no death.

use super::*;

/// More than half of the sessions, and more than two, are the network.
fn server() -> Shared {
    Shared::of(|| patient_server().setting("rgrid_heartbeat.mass_death_minimum", "2"))
}

/// A worker on a host.
fn attached_on(database: &Database<'_>, worker: &str, host: &str) -> ClientProcess {
    let mut process = ClientProcess::start(database);
    process.ask(&format!("SELECT rgrid_attach('{worker}', {host})"));
    process
}

fn fleet(database: &Database<'_>, name: &str, size: usize) -> Vec<ClientProcess> {
    (0..size).map(|number| attached_on(database, &format!("{name}-{number}"), "'one.example'")).collect()
}

fn dead(client: &mut Client) -> i64 {
    ask(client, "SELECT count(*) FROM rgrid_worker_deaths", &[])
}

fn lost_together(client: &mut Client) -> i64 {
    let sql = "SELECT workers_lost_together FROM pg_stat_rgrid_heartbeat WHERE datname = current_database()";
    ask(client, sql, &[])
}

#[test]
fn more_than_half_of_the_sessions_are_left_to_silence_and_it_is_said() {
    let cluster = server();
    let database = cluster.database("network");
    let (mut client, mut listener) = (database.connect(), database.connect());
    run(&mut listener, "LISTEN rgrid_worker_deaths");
    let (lost, _kept) = (fleet(&database, "lost", 4), fleet(&database, "kept", 3));
    for process in lost {
        process.kill();
    }
    wait_until("all to be spared", || lost_together(&mut client) == 4);
    let notice = next_notice(&mut listener);
    assert_eq!(notice["event"], "sessions_lost_together", "{notice}");
    let check = "SELECT status || ': ' || detail FROM rgrid_health() WHERE check_name = 'attached workers'";
    let found: String = ask(&mut client, check, &[]);
    assert!(
        found.starts_with("warning: 3 workers are attached")
            && found.contains("4 workers lost theirs together"),
        "{found}"
    );
    assert_eq!(dead(&mut client), 0);
    assert!(!cluster.log_lines_with(&["lost their sessions together"]).is_empty());
    assert_eq!(tie(&mut client, "lost-0"), "lost");
    let _again = attached_on(&database, "lost-0", "'one.example'");
    assert_eq!(tie(&mut client, "lost-0"), "tied");
}

#[test]
fn half_of_the_sessions_die() {
    let cluster = server();
    let database = cluster.database("half");
    let mut client = database.connect();
    let (lost, _kept) = (fleet(&database, "lost", 3), fleet(&database, "kept", 3));
    for process in lost {
        process.kill();
    }
    wait_until("three deaths", || dead(&mut client) == 3);
    assert_eq!(lost_together(&mut client), 0);
}

#[test]
fn a_share_of_one_spares_nobody() {
    let cluster = server();
    let database = cluster.database("ruthless");
    let sql = "ALTER DATABASE ruthless SET rgrid_heartbeat.max_disconnected_fraction = 1";
    run(&mut cluster.connect("postgres"), sql);
    let mut client = database.connect();
    for process in fleet(&database, "lost", 4) {
        process.kill();
    }
    wait_until("four deaths", || dead(&mut client) == 4);
}

#[test]
fn workers_of_other_hosts_at_one_address_are_behind_a_pooler_that_was_killed() {
    let cluster = server();
    let database = cluster.database("pooler");
    let mut client = database.connect();
    let _kept = fleet(&database, "kept", 5);
    for (one, other) in [("'one.example'", "'two.example'"), ("'one.example'", "NULL")] {
        let before = lost_together(&mut client);
        let lost = [attached_on(&database, "one", one), attached_on(&database, "other", other)];
        for process in lost {
            process.kill();
        }
        wait_until("both to be spared", || lost_together(&mut client) == before + 2);
    }
    assert_eq!(dead(&mut client), 0);
}
