//! Workers that are heard again after their session was lost: within the grace they live, and after it they are told.

use super::*;

fn server() -> Shared {
    Shared::of(patient_server)
}

#[test]
fn a_worker_that_is_heard_within_the_grace_in_any_way_lives() {
    let cluster = server();
    let database = cluster.database("heard");
    set_in(&cluster, "heard", "disconnect_grace", "1h");
    let mut client = database.connect();
    let ways = ["attaches", "beats", "beats in a list", "registers", "writes its row"];
    ClientProcess::kill_all(ways.map(|worker| attached(&database, worker)));
    for worker in ways {
        await_tie(&mut client, worker, "lost");
    }
    let _again = attached(&database, "attaches");
    assert_eq!(beat(&mut client, "beats"), 1);
    run(&mut client, "SELECT rgrid_heartbeat(ARRAY['beats in a list']), rgrid_register('registers')");
    let write = "UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp() WHERE worker_id = 'writes its row'";
    run(&mut client, write);
    let ties = ways[..4].iter().map(|worker| tie(&mut client, worker));
    assert_eq!(ties.collect::<Vec<_>>(), ["tied", "none", "none", "none"]);
    set_in(&cluster, "heard", "disconnect_grace", "500ms");
    await_judgement(&database, &mut client);
    let lost = "SELECT string_agg(worker_id, ', ') FROM rgrid_worker_deaths WHERE reason = 'disconnected'";
    assert_eq!(ask::<String>(&mut client, lost, &[]), WITNESS);
}

#[test]
fn a_worker_that_comes_back_after_its_death_is_told_and_counted() {
    let cluster = server();
    let database = cluster.database("late");
    let mut client = database.connect();
    attached(&database, "late").kill();
    await_death(&mut client, "late");
    let mut again = ClientProcess::start(&database);
    assert_eq!(again.attach("late"), 2);
    assert_eq!(ledger(&mut client, "late"), ["1 disconnected 0 returned"]);
    assert_eq!(counter(&mut client, "false_deaths"), 1);
    again.kill();
    wait_until("its second death", || deaths(&mut client, "late") == 2);
}

#[test]
fn a_session_that_was_lost_before_sweeping_was_paused_proves_nothing() {
    let cluster = patient_server().start();
    let database = cluster.database("paused");
    set_in(&cluster, "paused", "disconnect_grace", "1h");
    let mut client = database.connect();
    attached(&database, "early").kill();
    await_tie(&mut client, "early", "lost");
    for (value, line) in [("off", "sweeping is disabled"), ("on", "sweeping is enabled")] {
        cluster.set("rgrid_heartbeat.enabled", value);
        wait_until(line, || !cluster.log_lines_with(&[line]).is_empty());
    }
    set_in(&cluster, "paused", "disconnect_grace", "500ms");
    await_judgement(&database, &mut client);
    assert_eq!(dead(&mut client), [WITNESS]);
}

#[test]
fn workers_that_lose_their_sessions_and_come_back_again_and_again_are_reported() {
    let cluster = patient_server().setting("rgrid_heartbeat.disconnect_grace", "1h").start();
    let database = cluster.database("flapping");
    let mut client = database.connect();
    let check = "SELECT status || ': ' || detail FROM rgrid_health() WHERE check_name = 'attached workers'";
    let mut process = attached(&database, "worker");
    for times in 1..=10 {
        assert!(ask::<String>(&mut client, check, &[]).starts_with("ok"), "after {} times", times - 1);
        process.kill();
        await_tie(&mut client, "worker", "lost");
        process = attached(&database, "worker");
    }
    let found: String = ask(&mut client, check, &[]);
    assert!(
        found.starts_with("warning: 1 workers are attached")
            && found.contains("10 times in the last two hours"),
        "{found}"
    );
}
