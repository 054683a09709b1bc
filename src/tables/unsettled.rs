//! What returning workers have left behind, in `rgrid_unsettled_jobs`: for each worker and watched table the moment
//! since when its jobs must not have changed if a sweeper is to settle them for the worker's earlier life.
//!
//! Dumps leave it out: the ids of transactions mean nothing on another server.

use pgrx::pg_sys;

use crate::error::Result;
use crate::installation::Installation;
use crate::pg::{arrays, sql};

/// An entry of the table.
#[derive(Clone, Debug)]
pub struct Noted {
    /// The worker.
    pub worker: String,
    /// The incarnation that ran the jobs; 0 where no death of the worker is known.
    pub incarnation: i64,
    /// The watched table.
    pub table: pg_sys::Oid,
    /// The moment, a `pg_snapshot`.
    pub snapshot: String,
    /// The primary keys of the jobs, as far as they are known.
    pub keys: Vec<String>,
}

/// Notes what each of these workers has left behind in a table, for the last of its incarnations that ended.
pub fn note(
    installation: &Installation,
    workers: &[&str],
    table: pg_sys::Oid,
    snapshot: &str,
    keys: &[String],
    reason: &str,
) -> Result<()> {
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_unsettled_jobs AS u \
             (worker_id, incarnation, job_table, row_versions, job_keys, reason) \
         SELECT w.id, coalesce((SELECT pg_catalog.max(d.incarnation) FROM @extschema@.rgrid_worker_deaths d \
                                WHERE d.worker_id = w.id), 0), $2, $3::text::pg_snapshot, $4, $5 \
         FROM unnest($1::text[]) AS w (id) \
         ON CONFLICT (worker_id, incarnation, job_table) DO UPDATE \
             SET job_keys = pg_catalog.array_cat(u.job_keys, EXCLUDED.job_keys)",
    );
    let workers = arrays::texts(workers.iter().copied());
    let arguments = [workers, table.into(), snapshot.into(), arrays::of(keys), reason.into()];
    installation.as_owner(|| sql::write(&statement, &arguments))?;
    Ok(())
}

/// Everything that is noted, in the order of the tables.
pub fn all(installation: &Installation) -> Result<Vec<Noted>> {
    let statement = sql::SavedPlan::new(installation.sql(
        "SELECT u.worker_id, u.incarnation, u.job_table, u.row_versions::text, u.job_keys \
         FROM @extschema@.rgrid_unsettled_jobs u ORDER BY u.job_table, u.worker_id, u.incarnation",
    ));
    installation.as_owner(|| {
        statement.read(&[], |row| {
            Ok(Noted {
                worker: row.required(1, "worker id")?,
                incarnation: row.required(2, "incarnation")?,
                table: row.required(3, "table")?,
                snapshot: row.required(4, "row versions")?,
                keys: row.required(5, "keys")?,
            })
        })
    })
}

/// Removes what is done with.
pub fn forget(installation: &Installation, done: &[&Noted]) -> Result<()> {
    let statement = installation.sql(
        "DELETE FROM @extschema@.rgrid_unsettled_jobs u \
         USING unnest($1::text[], $2::bigint[], $3::oid[]) AS n (worker_id, incarnation, job_table) \
         WHERE u.worker_id = n.worker_id AND u.incarnation = n.incarnation AND u.job_table = n.job_table",
    );
    let incarnations: Vec<i64> = done.iter().map(|one| one.incarnation).collect();
    let tables: Vec<pg_sys::Oid> = done.iter().map(|one| one.table).collect();
    let workers = arrays::texts(done.iter().map(|one| one.worker.as_str()));
    installation.as_owner(|| sql::write(&statement, &[workers, incarnations.into(), tables.into()]))?;
    Ok(())
}

/// How many workers have left something behind, since when, and one table with the reason, if there are any.
pub fn summary(installation: &Installation) -> Result<Option<(i64, String, String)>> {
    let statement = installation.sql(
        "SELECT pg_catalog.count(DISTINCT u.worker_id), pg_catalog.min(u.noted_at)::text, \
                (pg_catalog.array_agg(u.job_table::regclass::text || ': ' || u.reason ORDER BY u.noted_at))[1] \
         FROM @extschema@.rgrid_unsettled_jobs u HAVING pg_catalog.count(*) > 0",
    );
    let found = installation.as_owner(|| {
        sql::read(&statement, &[], |row| {
            Ok((row.required(1, "count")?, row.required(2, "time")?, row.required(3, "reason")?))
        })
    })?;
    Ok(found.into_iter().next())
}
