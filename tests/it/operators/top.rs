//! examples/top.sql: a screen of psql, and another one every so often.

use crate::cluster::*;

/// What a role that watches sees, by psql as a user would call it, who watches until so many lines are there.
fn screens(cluster: &Cluster, database: &str, lines: usize) -> String {
    let page = include_str!("../../../examples/top.sql");
    cluster.run_script(&format!(
        "export PGDATABASE={database} PGUSER=watcher
         {{ cat <<'END'\n{page}\\watch 0.1\nEND\n}} | psql -XAtq 2>&1 | head -n {lines}"
    ))
}

#[test]
fn the_status_page_shows_the_fleet_the_deaths_and_the_problems() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("top");
    let mut client = database.connect();
    run(&mut client, "CREATE ROLE watcher LOGIN IN ROLE pg_monitor");
    let healthy = Beating::calling(database.connect(), "healthy");
    let calm = screens(&cluster, "top", 4);
    assert!(calm.contains("DEATHS    last hour 0: jobs failed 0, requeued 0; came back 0"), "{calm}");

    claim_jobs(&mut client, "doomed", 2);
    slow_beat(&mut client, "doomed", "node-7");
    await_death(&mut client, "doomed");
    let mut screen = String::new();
    wait_until("the death on the screen", || {
        screen = screens(&cluster, "top", 12);
        screen.contains("doomed")
    });
    let shown = |part: &str| screen.lines().any(|line| part.split('*').all(|word| line.contains(word)));
    assert!(shown("top *sweeping is on, every "), "{screen}");
    assert!(shown("SWEEPS    *, last * s ago, took * s; rounds with an error 0"), "{screen}");
    assert!(shown("WORKERS   alive 1   stale 0   dead 1   attached 0"), "{screen}");
    assert!(shown("DEATHS    last hour 1: jobs failed 2, requeued 0; came back 0"), "{screen}");
    assert!(shown("  *doomed *node-7 *stale *jobs 2"), "{screen}");
    assert!(screen.matches("DEATHS").count() > 1, "it is shown again: {screen}");

    run(&mut client, "ALTER TABLE executions DROP COLUMN completed_at");
    wait_until("the problem on the screen", || {
        screens(&cluster, "top", 12).contains("  error    job table public.executions: ")
    });
    drop(healthy);
}
