//! A failover as it is in production: pg_auto_failover promotes the standby after the primary was killed, while
//! workers, real processes with a connection string that names both servers, beat and claim jobs.

use crate::cluster::*;
use postgres::Client;

/// What the documents say to set, and a threshold that a failover takes about as long as.
const SETTINGS: &str = "
shared_preload_libraries = 'pg_stat_statements,rgrid_heartbeat'
rgrid_heartbeat.check_interval = '200ms'
rgrid_heartbeat.flush_interval = '500ms'
rgrid_heartbeat.stale_threshold = '8s'
";

#[test]
fn a_failover_kills_only_the_worker_that_dies_with_the_primary() {
    let mut formation = Formation::start(SETTINGS);
    let mut client = formation.primary("postgres");
    run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
    executions_table(&mut client);
    some_who_died_before(&mut client);
    queue_jobs(&mut client, "anybody", 2_000);
    let workers = [("steady", 0.5), ("busy", 3600.0), ("victim", 3600.0)].map(|(name, job_seconds)| {
        ExampleWorker::start(&formation.connection_string("postgres"), name, job_seconds)
    });
    for worker in &workers {
        wait_until(&format!("{} to run a job", worker.name), || worker.running(&mut client) == 1);
    }
    let [steady, busy, victim] = workers;
    let victim_id = victim.id(&mut client);

    formation.kill(0);
    drop(victim);
    formation.await_primary(1);

    let mut client = formation.primary("postgres");
    await_death(&mut client, &victim_id);
    let sql = "SELECT d.declared_dead_at - a.backend_start >= interval '8 seconds'
               FROM rgrid_worker_deaths d, pg_stat_activity a WHERE d.worker_id = $1 AND a.backend_type = $2";
    assert!(ask::<bool>(&mut client, sql, &[&victim_id, &LAUNCHER]), "silence counts from the promotion");
    assert_eq!(failed_jobs(&mut client, &victim_id), 1);
    nobody_else_has_died(&mut client, &victim_id);
    let before = completed(&mut client);
    wait_until("jobs to be completed", || completed(&mut client) > before);
    numbers_go_on(&mut client);

    formation.restart(0);
    formation.await_states(["secondary", "primary"]);
    the_old_primary_does_no_harm(&mut formation.node(0, "postgres"));
    await_sweep(&mut client, "a-later-victim");
    nobody_else_has_died(&mut client, &victim_id);
    assert_eq!(busy.running(&mut client), 1, "it runs the job that it ran before all this");
    for worker in [&steady, &busy] {
        let id = worker.id(&mut client);
        assert_eq!((beat(&mut client, &id), jobs(&mut client, &id, "failed")), (1, 0), "{}", worker.name);
    }
}

/// One worker that died and came back, one that died and stayed away.
fn some_who_died_before(client: &mut Client) {
    run(client, "SELECT rgrid_register('phoenix')");
    run(client, "SELECT rgrid_register('phoenix')");
    silent_worker(client, "gone");
    await_death(client, "gone");
    assert_eq!(ledger(client, "phoenix")[0], "1 restarted 0 returned");
    let sql = "SELECT hostname FROM worker_heartbeats WHERE worker_id = 'phoenix'";
    assert_eq!(
        ask::<String>(client, sql, &[]),
        "127.0.0.1",
        "who names no host has the address that it came from"
    );
}

/// The one who died and came back has fallen silent before the failover, so it may die a second time after it.
fn nobody_else_has_died(client: &mut Client, victim: &str) {
    let sql = "SELECT count(*) FROM rgrid_worker_deaths
               WHERE worker_id NOT IN ('phoenix', 'gone', 'a-later-victim', $1)";
    assert_eq!(ask::<i64>(client, sql, &[&victim]), 0);
}

fn numbers_go_on(client: &mut Client) {
    for worker in ["phoenix", "gone"] {
        let number = beat(client, worker);
        let last = "SELECT max(incarnation) FROM rgrid_worker_deaths WHERE worker_id = $1";
        assert!(number > ask(client, last, &[&worker]), "the ledger has lost a death of {worker}");
    }
}

/// It has come back as a standby: it has neither processes of ours nor ears.
fn the_old_primary_does_no_harm(client: &mut Client) {
    let sql = "SELECT pg_is_in_recovery() AND NOT EXISTS (
                   SELECT FROM pg_stat_activity WHERE backend_type LIKE 'rgrid_heartbeat%')";
    assert!(ask::<bool>(client, sql, &[]));
    assert_eq!(sqlstate(client, "SELECT rgrid_heartbeat('anybody')"), "25006");
}

fn completed(client: &mut Client) -> i64 {
    ask(client, "SELECT count(*) FROM executions WHERE status = 'completed'", &[])
}
