//! What a failover keeps: all with a synchronous standby, and without one no number is told twice.

use super::*;
use chrono::{DateTime, Utc};

#[test]
fn a_synchronous_standby_keeps_every_death_and_a_missing_one_holds_up_no_heartbeat() {
    let mut patroni = started_with("6s");
    patroni.configure(&["--set", "synchronous_mode=true", "--set", "synchronous_mode_strict=true"]);
    let mut client = patroni.primary();
    wait_until("a synchronous standby", || synchronous_standbys(&mut client) == 1);
    known_worker(&mut client, "steady");
    let steady = Beating::calling(patroni.primary(), "steady");
    run(&mut client, "SELECT rgrid_heartbeat('doomed')");
    claim_jobs(&mut client, "doomed", 1);

    let frozen = [1, 2].map(|index| patroni.freeze(index));
    let waiting =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = $1 AND wait_event = 'SyncRep')";
    wait_until("a sweeper to wait for a standby", || ask(&mut client, waiting, &[&SWEEPER]));
    assert_eq!(dead(&mut client), [""; 0], "what no standby has is not told");
    await_heartbeat(&mut client, "steady");
    drop(frozen);
    await_death(&mut client, "doomed");
    assert_eq!(dead(&mut client), ["doomed"]);

    drop(steady);
    wait_until("a synchronous standby", || synchronous_standbys(&mut client) == 1);
    assert_eq!(beat(&mut client, "doomed"), 2);
    patroni.kill_node(0);
    let next = patroni.await_other_primary(0);
    let mut client = patroni.node(next);
    assert_eq!(beat(&mut client, "doomed"), 2);
    assert_eq!(ledger(&mut client, "doomed"), ["1 stale 1 returned"]);
}

fn synchronous_standbys(client: &mut Client) -> i64 {
    ask(client, "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')", &[])
}

#[test]
fn a_number_that_an_asynchronous_failover_has_lost_is_not_told_again() {
    let mut patroni = started_with("6s");
    let mut client = patroni.primary();
    let beating = Beating::calling(patroni.primary(), "phoenix");
    patroni.await_replay();

    let _stopped = patroni.stop_replication(0);
    drop(beating);
    await_death(&mut client, "phoenix");
    let told = beat(&mut client, "phoenix");
    let first = died_at(&mut client);
    patroni.kill_node(0);
    let next = patroni.await_other_primary(0);
    let mut client = patroni.node(next);
    await_death(&mut client, "phoenix");
    assert!(died_at(&mut client) > first, "the first death is lost");
    assert_ne!(beat(&mut client, "phoenix"), told, "told before the failover, and again for a life after it");
}

fn died_at(client: &mut Client) -> DateTime<Utc> {
    ask(client, "SELECT declared_dead_at FROM rgrid_worker_deaths", &[])
}
