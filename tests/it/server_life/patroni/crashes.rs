//! A switchover, a server that crashes, and a node that loses its power, one after the other.

use super::*;

/// Longer than a failover with its `ttl` of 20 seconds and the way of the workers to the next primary.
const THRESHOLD: &str = "1min";

#[test]
fn whoever_lives_goes_on_through_a_switchover_and_crashes() {
    let mut patroni = started_with(THRESHOLD);
    let mut client = patroni.primary();
    queue_jobs(&mut client, "anybody", 2_000);
    let [through_haproxy, of_all_nodes] = [patroni.through_haproxy(), patroni.of_all_nodes()];
    let steady = ExampleWorker::start(&through_haproxy, "steady", 0.5);
    let busy = ExampleWorker::start(&of_all_nodes, "busy", 3600.0);
    let victim = ExampleWorker::start(&through_haproxy, "victim", 3600.0);
    for worker in [&steady, &busy, &victim] {
        wait_until(&format!("{} to run a job", worker.name), || worker.running(&mut client) == 1);
    }
    let [steady_id, busy_id, victim_id] = [&steady, &busy, &victim].map(|worker| worker.id(&mut client));
    let all_go_on = |client: &mut Client, ids: &[&String]| {
        for id in ids {
            await_heartbeat(client, id);
        }
        assert_eq!(dead(client), [""; 0]);
    };

    patroni.switch_over_to(1);
    all_go_on(&mut patroni.primary(), &[&steady_id, &busy_id, &victim_id]);

    patroni.kill_server(1);
    patroni.await_primary(1);
    all_go_on(&mut patroni.primary(), &[&steady_id, &busy_id, &victim_id]);

    // A standby that is a whole segment of WAL behind is not promoted.
    patroni.await_replay();
    patroni.kill_node(1);
    drop(victim);
    let next = patroni.await_other_primary(1);
    all_go_on(&mut patroni.node(next), &[&steady_id, &busy_id]);
    let rewound = |patroni: &Patroni| patroni.log(1).matches("pg_rewind exit code=0").count();
    let before = rewound(&patroni);
    patroni.start_agent(1);
    patroni.await_followers();
    assert!(rewound(&patroni) > before, "what only the killed node had was taken back");

    // Only now is the victim's silence longer than the threshold.
    set_threshold(&patroni, "5s");
    await_death(&mut patroni.primary(), &victim_id);
    set_threshold(&patroni, THRESHOLD);
    patroni.switch_over_to(1);
    let mut client = patroni.primary();
    for id in [&steady_id, &busy_id] {
        await_heartbeat(&mut client, id);
        assert_eq!((beat(&mut client, id), jobs(&mut client, id, "failed")), (1, 0), "{id}");
    }
    assert_eq!(ledger(&mut client, &victim_id), ["1 stale 1 gone"]);
    assert_eq!((dead(&mut client), jobs(&mut client, &victim_id, "failed")), (vec![victim_id], 1));
    assert_eq!(busy.running(&mut client), 1, "it runs the job that it ran before all this");
}
