//! What the ledger tells people. With the caller's snapshot: nothing is decided by it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::Reason;
use crate::error::Result;
use crate::installation::Installation;
use crate::pg::{self, sql};

/// A worker's number, and when it died if it is dead.
type Standing = (i64, Option<DateTime<Utc>>);

/// What the ledger, and the numbers that outlive it, say of every worker.
pub struct Standings {
    /// The numbers of those who have died or are written down, and when they died if they are dead.
    known: HashMap<String, Standing>,
    /// The number of all others.
    common: i64,
}

impl Standings {
    /// A worker's number, and when it died if it is dead.
    pub fn of(&self, worker: &str) -> Standing {
        self.known.get(worker).copied().unwrap_or((self.common, None))
    }
}

/// Reads what is known of every worker.
pub fn standings(installation: &Installation) -> Result<Standings> {
    let statement = installation.sql(
        "SELECT d.worker_id, pg_catalog.max(d.incarnation) + 1, \
                pg_catalog.max(d.declared_dead_at) FILTER (WHERE d.returned_at IS NULL) \
         FROM @extschema@.rgrid_worker_deaths d GROUP BY d.worker_id \
         UNION ALL \
         SELECT n.worker_id, n.incarnation, NULL FROM @extschema@.rgrid_incarnations n \
         WHERE NOT EXISTS (SELECT FROM @extschema@.rgrid_worker_deaths d WHERE d.worker_id = n.worker_id)",
    );
    let rows: Vec<(String, Standing)> = installation.as_owner(|| {
        sql::read(&statement, &[], |row| {
            let died_at = row.optional(3)?.map(pg::time_of);
            Ok((row.required(1, "worker id")?, (row.required(2, "incarnation")?, died_at)))
        })
    })?;
    let mut known: HashMap<_, _> = rows.into_iter().collect();
    let common = known.remove("").map_or(1, |(incarnation, _)| incarnation);
    Ok(Standings { known, common })
}

/// How many workers that were declared dead for silence since this time have returned, and the one that died last
/// with the seconds that it had been silent for.
pub fn false_deaths_since(
    installation: &Installation,
    time: DateTime<Utc>,
) -> Result<(i64, Option<(String, f64)>)> {
    let statement = installation.sql(
        "SELECT pg_catalog.count(*) OVER (), d.worker_id, \
                pg_catalog.date_part('epoch', d.declared_dead_at - d.last_heartbeat_at) \
         FROM @extschema@.rgrid_worker_deaths d \
         WHERE d.declared_dead_at > $1 AND d.reason = $2 AND d.returned_at IS NOT NULL \
         ORDER BY d.declared_dead_at DESC, d.worker_id LIMIT 1",
    );
    let arguments = [pg::timestamptz(time).into(), Reason::Stale.as_str().into()];
    let found = installation.as_owner(|| {
        sql::read(&statement, &arguments, |row| {
            let silence = row.optional(3)?.unwrap_or(0.0);
            Ok((row.required(1, "count")?, Some((row.required(2, "worker id")?, silence))))
        })
    })?;
    Ok(found.into_iter().next().unwrap_or((0, None)))
}
