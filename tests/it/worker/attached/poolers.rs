//! Workers that attach themselves through PgBouncer: nobody is found early, and nobody dies early.

use super::*;

fn server() -> Shared {
    Shared::of(patient_server)
}

/// A pooler that closes its connections to the server, and clients that leave it, in one mode.
fn an_orderly_pooler_kills_nobody(mode: &str) {
    let cluster = server();
    let database = cluster.database(&format!("orderly_{mode}"));
    let mut client = database.connect();
    let quick = format!("pool_mode = {mode}\nserver_lifetime = 1\nserver_idle_timeout = 1");
    let pooler = Pooler::start(&cluster, &quick);
    let mut idle = pooler.connect(&format!("orderly_{mode}"));
    attach(&mut idle, "idle");
    drop(idle);
    await_tie(&mut client, "idle", "none");

    let calm = format!("pool_mode = {mode}");
    pooler.reload(&calm);
    let mut worker = pooler.connect(&format!("orderly_{mode}"));
    attach(&mut worker, "worker");
    pooler.reload(&format!("{calm}\ndefault_pool_size = 5"));
    assert_eq!(tie(&mut client, "worker"), "tied", "RELOAD");
    pooler.command("RECONNECT");
    // In session mode a connection is closed when its client has left.
    drop(worker);
    await_tie(&mut client, "worker", "none");

    // The client is killed; the pooler keeps its connection to the server, or ends it with a word.
    let mut process = ClientProcess::start_with(&pooler.connection_string(&format!("orderly_{mode}")));
    process.attach("killed");
    process.ask("BEGIN");
    process.kill();
    await_tie(&mut client, "killed", "none");
    await_judgement(&database, &mut client);
    assert_eq!(dead(&mut client), [WITNESS]);
}

#[test]
fn a_pooler_in_session_mode_that_closes_connections_kills_nobody() {
    an_orderly_pooler_kills_nobody("session");
}

#[test]
fn a_pooler_in_transaction_mode_that_closes_connections_kills_nobody() {
    an_orderly_pooler_kills_nobody("transaction");
}

#[test]
fn a_pooler_that_is_killed_kills_nobody() {
    let cluster = server();
    for mode in ["session", "transaction"] {
        let name = format!("killed_{mode}");
        let database = cluster.database(&name);
        let mut client = database.connect();
        let mut pooler = Pooler::start(&cluster, &format!("pool_mode = {mode}\ndefault_pool_size = 4"));
        let mut workers: Vec<Client> = (0..3).map(|_| pooler.connect(&name)).collect();
        for (number, worker) in workers.iter_mut().enumerate() {
            attach_on(worker, &format!("w{number}"), &format!("host-{number}.example"));
        }
        pooler.kill();
        // That is final: after it only silence counts.
        wait_until("all to be left to silence", || lost_together(&mut client) == 3);
        assert_eq!(dead(&mut client), [""; 0], "{mode}");
    }
}
