//! Sessions that are lost together: a network that fails, or a pooler that is killed, is no death.

use super::*;
use chrono::DateTime;
use serde_json::json;

/// More than half of the sessions, and more than two, are the network. All are lost before the first is judged.
fn together() -> Builder {
    patient_server()
        .setting("rgrid_heartbeat.mass_death_minimum", "2")
        .setting("rgrid_heartbeat.disconnect_grace", "3s")
}

fn server() -> Shared {
    Shared::of(together)
}

fn fleet(database: &Database<'_>, name: &str, size: usize) -> Vec<ClientProcess> {
    (0..size).map(|number| attached(database, &format!("{name}-{number}"))).collect()
}

#[test]
fn more_than_half_of_the_sessions_are_left_to_silence_and_it_is_said() {
    // Nobody else is spared in its log.
    let cluster = together().start();
    let database = cluster.database("network");
    let (mut client, mut listener) = (database.connect(), database.connect());
    run(&mut listener, "LISTEN rgrid_worker_deaths");
    let (lost, _kept) = (fleet(&database, "lost", 4), fleet(&database, "kept", 3));
    let attached_at = server_time(&mut client);
    ClientProcess::kill_all(lost);
    wait_until("all to be spared", || lost_together(&mut client) == 4);
    let notice = next_notice(&mut listener);
    assert_eq!(
        (&notice["event"], &notice["workers"]),
        (&json!("sessions_lost_together"), &json!(4)),
        "{notice}"
    );
    let lost_at = DateTime::parse_from_rfc3339(notice["lost_at"].as_str().unwrap()).unwrap();
    assert!((attached_at..=server_time(&mut client)).contains(&lost_at.to_utc()), "{notice}");
    let check = "SELECT status || ': ' || detail FROM rgrid_health() WHERE check_name = 'attached workers'";
    let found: String = ask(&mut client, check, &[]);
    assert!(
        found.starts_with("warning: 3 workers are attached")
            && found.contains("4 workers lost their sessions together"),
        "{found}"
    );
    assert_eq!(dead(&mut client), [""; 0]);
    assert_eq!(cluster.log_lines_with(&["4 workers lost their sessions together"]).len(), 1);
    assert_eq!(tie(&mut client, "lost-0"), "lost");
    let _again = attached(&database, "lost-0");
    assert_eq!(tie(&mut client, "lost-0"), "tied");
}

#[test]
fn workers_that_came_back_were_tied_before_and_are_not_counted_twice() {
    let cluster = server();
    let database = cluster.database("came_back");
    set_in(&cluster, "came_back", "disconnect_grace", "1h");
    let mut client = database.connect();
    let (lost, _kept) = (fleet(&database, "lost", 4), fleet(&database, "kept", 3));
    ClientProcess::kill_all(lost);
    for number in 0..4 {
        await_tie(&mut client, &format!("lost-{number}"), "lost");
    }
    let _back = fleet(&database, "lost", 3);
    // Four of seven were lost; of ten, they would be fewer than half.
    run(&mut client, "SET rgrid_heartbeat.disconnect_grace = 0; SELECT rgrid_sweep()");
    assert_eq!((lost_together(&mut client), dead(&mut client)), (1, Vec::new()));
}

#[test]
fn all_sessions_are_a_few_that_die_when_they_are_no_more_than_the_minimum() {
    let cluster = server();
    let database = cluster.database("few");
    let mut client = database.connect();
    ClientProcess::kill_all(fleet(&database, "lost", 2));
    wait_until("two deaths", || dead(&mut client) == ["lost-0", "lost-1"]);
    assert_eq!(lost_together(&mut client), 0);
}

#[test]
fn half_of_the_sessions_die() {
    let cluster = server();
    let database = cluster.database("half");
    let mut client = database.connect();
    let (lost, _kept) = (fleet(&database, "lost", 3), fleet(&database, "kept", 3));
    ClientProcess::kill_all(lost);
    wait_until("three deaths", || dead(&mut client) == ["lost-0", "lost-1", "lost-2"]);
    assert_eq!(lost_together(&mut client), 0);
}

#[test]
fn a_share_of_one_spares_nobody() {
    let cluster = server();
    let database = cluster.database("ruthless");
    set_in(&cluster, "ruthless", "max_disconnected_fraction", "1");
    let mut client = database.connect();
    ClientProcess::kill_all(fleet(&database, "lost", 4));
    wait_until("four deaths", || dead(&mut client).len() == 4);
}

#[test]
fn workers_of_other_hosts_at_one_address_are_behind_a_pooler_that_was_killed() {
    let cluster = server();
    let database = cluster.database("pooler");
    let mut client = database.connect();
    let _kept = fleet(&database, "kept", 5);
    for other in [Some("two.example"), None] {
        let before = lost_together(&mut client);
        ClientProcess::kill_all([attached(&database, "one"), attached_on(&database, "other", other)]);
        wait_until("both to be spared", || lost_together(&mut client) == before + 2);
    }
    assert_eq!(dead(&mut client), [""; 0]);
}
