//! A pooler that is reloaded, paused, killed and started again.

use super::*;

/// Three workers at work through a pooler, and a session that looks at them.
struct Site<'a> {
    client: Client,
    _workers: [ExampleWorker; 3],
    ids: [String; 3],
    pooler: Pooler,
    _database: Database<'a>,
}

impl<'a> Site<'a> {
    fn open(cluster: &'a Cluster, database: &str) -> Self {
        let pooler = Pooler::start(cluster, TRANSACTION_MODE);
        let owned = cluster.database(database);
        let mut client = owned.connect();
        queue_jobs(&mut client, "anybody", 10_000);
        let workers = ["first", "second", "third"].map(|host| example(&pooler, database, host, 0.1));
        let ids = workers.each_ref().map(|worker| at_work(worker, &mut client));
        Self { client, _workers: workers, ids, pooler, _database: owned }
    }

    /// All workers do jobs again, and nobody has been declared dead.
    fn all_live(&mut self, after: &str) {
        for id in &self.ids {
            let before = jobs(&mut self.client, id, "completed");
            wait_until(&format!("{id} to do a job after {after}"), || {
                jobs(&mut self.client, id, "completed") > before
            });
        }
        assert_eq!(
            ask::<i64>(&mut self.client, "SELECT count(*) FROM rgrid_worker_deaths", &[]),
            0,
            "{after}"
        );
    }

    /// Waits while heartbeats do not arrive, but for less than the threshold of ten seconds.
    fn silence(&mut self) {
        let sql = "SELECT min(seconds_since_heartbeat) FROM rgrid_workers";
        wait_until("all to be silent", || ask::<f64>(&mut self.client, sql, &[]) > 1.5);
    }
}

#[test]
fn a_reload_a_pause_and_a_kill_of_the_pooler_end_no_life() {
    let cluster = server();
    let mut site = Site::open(&cluster, "outages");
    site.pooler.reload("pool_mode = transaction\ndefault_pool_size = 2");
    site.all_live("a reload");

    site.pooler.command("PAUSE");
    site.silence();
    site.pooler.command("RESUME");
    site.all_live("a pause");

    site.pooler.command("RECONNECT");
    site.all_live("all server connections were replaced");

    site.pooler.kill();
    site.silence();
    site.pooler.restart();
    site.all_live("kill -9");
}

#[test]
fn workers_come_back_from_an_outage_longer_than_the_threshold() {
    let cluster = server();
    let mut site = Site::open(&cluster, "long_outage");
    site.pooler.kill();
    let dead = "SELECT count(*) FROM rgrid_worker_deaths WHERE returned_at IS NULL";
    wait_until("all to be dead", || ask::<i64>(&mut site.client, dead, &[]) == 3);
    site.pooler.restart();
    wait_until("all to return", || ask::<i64>(&mut site.client, dead, &[]) == 0);
    for id in &site.ids {
        await_another_job(&mut site.client);
        assert_eq!(beat(&mut site.client, id), 2, "{id}");
    }
}
