//! Logical replication: a server that another one copies row by row.

use super::database::ask;
use super::{Cluster, run, wait_until};
use postgres::Client;

impl Cluster {
    /// A server as [`Cluster::quick`] has it, which can publish.
    pub fn publishing() -> super::Builder {
        Self::quick().setting("wal_level", "logical")
    }

    /// The connection string of a subscription to a database of this server.
    pub fn conninfo(&self, database: &str) -> String {
        format!("host={} port=5432 user=postgres dbname={database}", self.socket_directory().display())
    }
}

/// Publishes what `what` names, and subscribes to it as `sub`. Returns when all tables are copied.
pub fn subscribe(publisher: (&Cluster, &mut Client), subscriber: &mut Client, what: &str) {
    let (server, client) = publisher;
    let database: String = ask(client, "SELECT current_database()::text", &[]);
    run(client, &format!("CREATE PUBLICATION pub {what}"));
    let conninfo = server.conninfo(&database);
    run(subscriber, &format!("CREATE SUBSCRIPTION sub CONNECTION '{conninfo}' PUBLICATION pub"));
    await_copies(subscriber);
}

/// Returns when the subscriptions of a database have copied all tables.
pub fn await_copies(subscriber: &mut Client) {
    let sql =
        "SELECT count(*) FILTER (WHERE srsubstate <> 'r') = 0 AND count(*) > 0 FROM pg_subscription_rel";
    wait_until("the tables to be copied", || ask(subscriber, sql, &[]));
}

/// Returns when subscribers have applied what the publisher has written until now.
pub fn await_apply(publisher: &mut Client) {
    let written: String = ask(publisher, "SELECT pg_current_wal_lsn()::text", &[]);
    let sql = "SELECT coalesce(bool_and(confirmed_flush_lsn >= $1::text::pg_lsn), false)
               FROM pg_replication_slots WHERE slot_type = 'logical' AND NOT temporary";
    wait_until("the subscription to catch up", || ask(publisher, sql, &[&written]));
}
