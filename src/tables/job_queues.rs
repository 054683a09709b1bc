//! The registry of queues whose jobs are settled by a call, `rgrid_job_queues`: its rows, and how they are changed.
//! What they mean is decided in `jobs/settler.rs`.

use crate::error::Result;
use crate::installation::Installation;
use crate::pg::sql;

/// Which queue it is: the key of a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueueName {
    /// The name of a known queue; or the signature of the function that settles.
    pub queue: String,
    /// The schema of a known queue; empty for a function.
    pub schema: String,
}

impl QueueName {
    /// A function by its signature.
    pub fn of_function(signature: String) -> Self {
        Self { queue: signature, schema: String::new() }
    }

    /// Whether it is a function.
    pub fn is_function(&self) -> bool {
        self.schema.is_empty()
    }
}

/// A row of the registry.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Which queue it is.
    pub name: QueueName,
    /// The signature of the function that says what is running.
    pub running: Option<String>,
    /// Its workers are those whose id begins with this.
    pub prefix: String,
    /// The role that watched it, by its name.
    pub watched_by: String,
}

impl Watch {
    /// Of these workers, those of the queue.
    pub fn workers<'a>(&self, ids: &'a [String]) -> Vec<&'a str> {
        ids.iter().map(String::as_str).filter(|id| self.bare(id).is_some()).collect()
    }

    /// What the queue calls a worker.
    pub fn bare<'a>(&self, id: &'a str) -> Option<&'a str> {
        id.strip_prefix(self.prefix.as_str())
    }
}

/// All rows, in the order of the names.
pub fn all(installation: &Installation) -> Result<Vec<Watch>> {
    let statement = sql::SavedPlan::new(installation.sql(
        "SELECT q.queue, q.queue_schema, q.running, q.worker_prefix, q.watched_by::text \
         FROM @extschema@.rgrid_job_queues q ORDER BY q.queue, q.queue_schema",
    ));
    installation.as_owner(|| {
        statement.read(&[], |row| {
            Ok(Watch {
                name: QueueName { queue: row.required(1, "queue")?, schema: row.required(2, "schema")? },
                running: row.optional(3)?,
                prefix: row.required(4, "prefix")?,
                watched_by: row.required(5, "role")?,
            })
        })
    })
}

/// Enters a watch, or changes its row.
pub fn put(installation: &Installation, watch: &Watch) -> Result<()> {
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_job_queues AS q (queue, queue_schema, running, worker_prefix, watched_by) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (queue, queue_schema) DO UPDATE \
             SET (running, worker_prefix, watched_by) = \
                 ROW (EXCLUDED.running, EXCLUDED.worker_prefix, EXCLUDED.watched_by)",
    );
    let arguments = [
        watch.name.queue.as_str().into(),
        watch.name.schema.as_str().into(),
        watch.running.as_deref().into(),
        watch.prefix.as_str().into(),
        watch.watched_by.as_str().into(),
    ];
    installation.as_owner(|| sql::write(&statement, &arguments))?;
    Ok(())
}

/// Removes a row. Returns whether there was one.
pub fn remove(installation: &Installation, name: &QueueName) -> Result<bool> {
    let statement = installation
        .sql("DELETE FROM @extschema@.rgrid_job_queues q WHERE q.queue = $1 AND q.queue_schema = $2");
    let arguments = [name.queue.as_str().into(), name.schema.as_str().into()];
    Ok(installation.as_owner(|| sql::write(&statement, &arguments))? > 0)
}
