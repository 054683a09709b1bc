//! The primary's machine is suspended for longer than Patroni's `ttl`, and goes on later.

use super::*;
use std::process::{Command, Stdio};

#[test]
fn a_frozen_primary_holds_only_a_worker_whose_client_has_no_deadline() {
    let mut patroni = started_with("10s");
    let mut client = patroni.primary();
    let _through = Beating::reconnecting(config(&patroni.through_haproxy()), "through haproxy");
    let _held = Beating::reconnecting(config(&patroni.of_all_nodes()), "without deadline");
    let _deadline = with_deadline(&patroni.of_all_nodes(), "with deadline");
    let alive = ["through haproxy", "with deadline"];
    wait_until("all to be known", || alive.iter().all(|worker| last_heard(&mut client, worker).is_some()));
    for worker in ["through haproxy", "with deadline", "without deadline"] {
        claim_jobs(&mut client, worker, 1);
    }
    patroni.await_replay();

    let frozen = patroni.freeze(0);
    let next = patroni.await_other_primary(0);
    let mut client = patroni.node(next);
    for worker in alive {
        await_heartbeat(&mut client, worker);
    }
    await_death(&mut client, "without deadline");
    assert_eq!(dead(&mut client), ["without deadline"]);

    // An agent of Debian 12 may take the leader's lock back when it goes on: it is started anew.
    patroni.kill_agent(0);
    drop(frozen);
    patroni.start_agent(0);
    wait_within(Duration::from_secs(60), "the one that was held to come back", || {
        ledger(&mut client, "without deadline") == ["1 stale 1 returned"]
    });
    patroni.await_followers();
    await_sweep(&mut client, "witness");
    assert_eq!(dead(&mut client), ["without deadline", "witness"]);
    assert!(beat(&mut client, "without deadline") > 1);
    assert_eq!(jobs(&mut client, "without deadline", "failed"), 1);
    for worker in alive {
        assert_eq!((beat(&mut client, worker), jobs(&mut client, worker, "running")), (1, 1), "{worker}");
    }
}

/// A worker whose client gives up a heartbeat that is not answered within some seconds, and connects anew.
fn with_deadline(connection_string: &str, worker: &str) -> Leashed {
    let script = r#"while :; do
        timeout 5 "$0" -XAtq -d "$1" -c "SELECT rgrid_heartbeat('$2')"
        sleep 0.3
    done"#;
    let psql = bindir().join("psql").display().to_string();
    let program = ["sh", "-c", script, &psql, connection_string, worker];
    Leashed::start(Command::new("sh"), &program, Stdio::null())
}
