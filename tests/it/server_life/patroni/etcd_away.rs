//! etcd goes away for longer than the threshold.

use super::*;

#[test]
fn while_etcd_is_away_nobody_who_lives_is_declared_dead() {
    let mut patroni = started_with("5s");
    let _steady = Beating::reconnecting(config(&patroni.through_haproxy()), "steady");
    let mut client = patroni.primary();
    claim_jobs(&mut client, "steady", 1);

    patroni.stop_etcd();
    // As a standby it is started anew, so it may be away for a moment.
    let takes_heartbeats = |index| {
        patroni
            .try_node(index)
            .is_ok_and(|mut client| client.execute("SELECT rgrid_heartbeat('steady')", &[]).is_ok())
    };
    wait_within(Duration::from_secs(60), "the primary to become a standby", || !takes_heartbeats(0));
    stays(Duration::from_secs(6), "no node takes heartbeats", || !(0..3).any(takes_heartbeats));
    patroni.start_etcd();
    let primary = patroni.await_any_primary();
    let mut client = patroni.node(primary);
    await_heartbeat(&mut client, "steady");
    await_sweep(&mut client, "witness");
    assert_eq!((dead(&mut client), beat(&mut client, "steady")), (vec!["witness".to_owned()], 1));
    assert_eq!(jobs(&mut client, "steady", "running"), 1);

    // With Patroni's failsafe mode the primary stays one, as long as it reaches all nodes.
    patroni.await_followers();
    patroni.configure(&["--set", "failsafe_mode=true"]);
    wait_until("all nodes to be ready for it", || {
        (0..3).all(|index| patroni.status_of(index, "/failsafe") == 200)
    });
    beat(&mut client, "doomed");
    patroni.stop_etcd();
    await_death(&mut client, "doomed");
    stays(Duration::from_secs(6), "the primary takes heartbeats", || beat(&mut client, "steady") == 1);
    patroni.start_etcd();
    await_sweep(&mut client, "later witness");
    assert_eq!(dead(&mut client), ["doomed", "later witness", "witness"]);
}
