//! Dead workers whose jobs a queue has not settled yet, in `rgrid_unsettled_calls`. Dumps have it: what was not settled
//! is not settled where the dump is restored, either.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::job_queues::QueueName;
use crate::error::Result;
use crate::installation::Installation;
use crate::pg::{self, arrays, sql};

/// An entry of the table.
#[derive(Clone, Debug)]
pub struct Unsettled {
    /// The queue.
    pub queue: QueueName,
    /// The worker.
    pub worker: String,
    /// When it was given up.
    pub declared_dead_at: DateTime<Utc>,
}

/// Notes that a queue has yet to settle the jobs of these workers.
pub fn note(
    installation: &Installation,
    queue: &QueueName,
    workers: &[&str],
    declared_dead_at: DateTime<Utc>,
    reason: &str,
) -> Result<()> {
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_unsettled_calls AS u \
             (queue, queue_schema, worker_id, declared_dead_at, reason) \
         SELECT $1, $2, w.id, $4, $5 FROM unnest($3) AS w (id) \
         ON CONFLICT (queue, queue_schema, worker_id) DO UPDATE SET reason = EXCLUDED.reason",
    );
    let arguments = [
        queue.queue.as_str().into(),
        queue.schema.as_str().into(),
        arrays::texts(workers.iter().copied()),
        pg::timestamptz(declared_dead_at).into(),
        reason.into(),
    ];
    installation.as_owner(|| sql::write(&statement, &arguments))?;
    Ok(())
}

/// Everything that is noted, in the order of the queues.
pub fn all(installation: &Installation) -> Result<Vec<Unsettled>> {
    let statement = sql::SavedPlan::new(installation.sql(
        "SELECT u.queue, u.queue_schema, u.worker_id, u.declared_dead_at \
         FROM @extschema@.rgrid_unsettled_calls u ORDER BY u.queue, u.queue_schema, u.worker_id",
    ));
    installation.as_owner(|| {
        statement.read(&[], |row| {
            Ok(Unsettled {
                queue: QueueName { queue: row.required(1, "queue")?, schema: row.required(2, "schema")? },
                worker: row.required(3, "worker id")?,
                declared_dead_at: pg::time_of(row.required(4, "time")?),
            })
        })
    })
}

/// Of these workers, those whose jobs a queue has yet to settle.
pub fn among(installation: &Installation, workers: &HashSet<String>) -> Result<Vec<String>> {
    if workers.is_empty() {
        return Ok(Vec::new());
    }
    let statement = sql::SavedPlan::new(
        installation.sql("SELECT DISTINCT u.worker_id FROM @extschema@.rgrid_unsettled_calls u"),
    );
    let mut left: Vec<String> =
        installation.as_owner(|| statement.read_latest(&[], |row| row.required(1, "worker id")))?;
    left.retain(|worker| workers.contains(worker));
    Ok(left)
}

/// Removes what is done with.
pub fn forget(installation: &Installation, queue: &QueueName, workers: &[&str]) -> Result<()> {
    let statement = installation.sql(
        "DELETE FROM @extschema@.rgrid_unsettled_calls u \
         WHERE u.queue = $1 AND u.queue_schema = $2 AND u.worker_id = ANY ($3)",
    );
    let arguments =
        [queue.queue.as_str().into(), queue.schema.as_str().into(), arrays::texts(workers.iter().copied())];
    installation.as_owner(|| sql::write(&statement, &arguments))?;
    Ok(())
}

/// Removes all of a queue that is not watched any more.
pub fn forget_queue(installation: &Installation, queue: &QueueName) -> Result<()> {
    let statement = installation
        .sql("DELETE FROM @extschema@.rgrid_unsettled_calls u WHERE u.queue = $1 AND u.queue_schema = $2");
    let arguments = [queue.queue.as_str().into(), queue.schema.as_str().into()];
    installation.as_owner(|| sql::write(&statement, &arguments))?;
    Ok(())
}

/// How many workers a queue has yet to settle, since when, and the reason of the first, if there are any.
pub fn summary(installation: &Installation, queue: &QueueName) -> Result<Option<(i64, String, String)>> {
    let statement = installation.sql(
        "SELECT pg_catalog.count(*), pg_catalog.min(u.declared_dead_at)::text, \
                (pg_catalog.array_agg(u.reason ORDER BY u.declared_dead_at))[1] \
         FROM @extschema@.rgrid_unsettled_calls u WHERE u.queue = $1 AND u.queue_schema = $2 \
         HAVING pg_catalog.count(*) > 0",
    );
    let arguments = [queue.queue.as_str().into(), queue.schema.as_str().into()];
    let found = installation.as_owner(|| {
        sql::read(&statement, &arguments, |row| {
            Ok((row.required(1, "count")?, row.required(2, "time")?, row.required(3, "reason")?))
        })
    })?;
    Ok(found.into_iter().next())
}
