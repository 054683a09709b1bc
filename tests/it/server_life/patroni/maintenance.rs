//! What an operator does by hand: a pause, and a node that is made anew.

use super::*;

#[test]
fn a_pause_is_one_of_patroni_and_not_of_sweeps() {
    let patroni = started_with("4s");
    let mut client = patroni.primary();
    let _steady = Beating::reconnecting(config(&patroni.of_all_nodes()), "steady");
    claim_jobs(&mut client, "steady", 1);

    patroni.ctl(&["pause", "--wait", "rgrid"]);
    run(&mut client, "SELECT rgrid_heartbeat('doomed')");
    await_death(&mut client, "doomed");
    patroni.kill_server(0);
    stays(
        Duration::from_secs(6),
        "a server that crashes in a pause stays down, and no other is promoted",
        || {
            patroni.postmaster(0).is_none()
                && [1, 2].iter().all(|index| patroni.status_of(*index, "/primary") != 200)
        },
    );
    patroni.ctl(&["resume", "--wait", "rgrid"]);
    let primary = patroni.await_any_primary();
    let mut client = patroni.node(primary);
    await_heartbeat(&mut client, "steady");
    await_sweep(&mut client, "witness");
    assert_eq!(dead(&mut client), ["doomed", "witness"]);
    assert_eq!((beat(&mut client, "steady"), jobs(&mut client, "steady", "running")), (1, 1));

    patroni.await_followers();
    let other = (primary + 1) % 3;
    patroni.reinitialize(other);
    patroni.switch_over_to(other);
    let mut client = patroni.primary();
    await_heartbeat(&mut client, "steady");
    assert_eq!(dead(&mut client), ["doomed", "witness"]);
    assert!(beat(&mut client, "doomed") > 1, "its death is known to a node that was made anew");
    await_sweep(&mut client, "later witness");
    assert_eq!((deaths(&mut client, "steady"), jobs(&mut client, "steady", "running")), (0, 1));
}
