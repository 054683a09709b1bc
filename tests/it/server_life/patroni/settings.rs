//! Settings that Patroni keeps for all nodes.

use super::*;

#[test]
fn the_dynamic_configuration_sets_all_nodes_and_the_next_primary() {
    let patroni = Patroni::start_bare();
    patroni.apply_documented_configuration();
    run(&mut patroni.primary(), "CREATE EXTENSION rgrid_heartbeat");
    for index in 0..3 {
        let sql = "SELECT setting || unit FROM pg_settings WHERE name = 'rgrid_heartbeat.stale_threshold'";
        assert_eq!(ask::<String>(&mut patroni.node(index), sql, &[]), "120000ms");
    }

    patroni.configure(&[
        "--pg",
        "rgrid_heartbeat.stale_threshold=3s",
        "--pg",
        "rgrid_heartbeat.check_interval=200ms",
    ]);
    for index in 0..3 {
        let mut client = patroni.node(index);
        wait_until("a node to have the settings without a restart", || {
            ask::<String>(&mut client, "SHOW rgrid_heartbeat.stale_threshold", &[]) == "3s"
        });
    }
    let unlike = "SELECT rgrid_heartbeat('doomed')";
    assert_eq!(sqlstate(&mut patroni.node(2), unlike), "25006", "a standby takes no heartbeats");

    patroni.switch_over_to(2);
    let mut client = patroni.primary();
    run(&mut client, "SELECT rgrid_heartbeat('doomed')");
    await_death(&mut client, "doomed");
}
