//! The attempts of jobs whose tables have no counter, in `rgrid_job_attempts`: how often a job has gone back to the
//! queue because of a death. A job that was never requeued has no row. In dumps, by the names of the watched tables.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::installation::Installation;
use crate::pg::{arrays, sql, timer};

/// Of these jobs of a table, those that were requeued, and how often.
pub fn of(installation: &Installation, table: &str, keys: &[String]) -> Result<BTreeMap<String, i64>> {
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let statement = installation.sql(
        "SELECT a.job_key, a.attempts FROM @extschema@.rgrid_job_attempts a \
         WHERE a.job_table OPERATOR(pg_catalog.=) $1 AND a.job_key OPERATOR(pg_catalog.=) ANY ($2)",
    );
    let read = || {
        sql::read_latest(&statement, &[table.into(), arrays::of(keys)], |row| {
            Ok((row.required::<String>(1, "key")?, row.required::<i64>(2, "attempts")?))
        })
    };
    Ok(installation.as_owner(read)?.into_iter().collect())
}

/// Counts one more attempt of each of these jobs.
pub fn count(installation: &Installation, table: &str, keys: &[String]) -> Result<()> {
    change(
        installation,
        "INSERT INTO @extschema@.rgrid_job_attempts AS a (job_table, job_key, attempts) \
         SELECT $1, k.key, 1 FROM (SELECT DISTINCT u.key FROM pg_catalog.unnest($2) AS u (key)) AS k \
         ORDER BY k.key COLLATE pg_catalog.\"C\" \
         ON CONFLICT (job_table, job_key) DO UPDATE SET attempts = a.attempts OPERATOR(pg_catalog.+) 1",
        table,
        keys,
    )
}

/// Forgets these jobs: they have failed, or are no longer there.
pub fn forget(installation: &Installation, table: &str, keys: &[String]) -> Result<()> {
    change(
        installation,
        "DELETE FROM @extschema@.rgrid_job_attempts a \
         WHERE a.job_table OPERATOR(pg_catalog.=) $1 AND a.job_key OPERATOR(pg_catalog.=) ANY ($2)",
        table,
        keys,
    )
}

fn change(installation: &Installation, statement: &str, table: &str, keys: &[String]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let statement = installation.sql(statement);
    let write = || sql::write(&statement, &[table.into(), arrays::of(keys)]);
    timer::waiting_at_most(c"1s", || installation.as_owner(write))?;
    Ok(())
}

/// The jobs of a table that have a row, in the order of their keys: as many after a key as are asked for.
pub fn keys_after(installation: &Installation, table: &str, after: &str, limit: i64) -> Result<Vec<String>> {
    let statement = installation.sql(
        "SELECT a.job_key FROM @extschema@.rgrid_job_attempts a \
         WHERE a.job_table OPERATOR(pg_catalog.=) $1 AND a.job_key OPERATOR(pg_catalog.>) $2 \
         ORDER BY a.job_key LIMIT $3",
    );
    let read = || {
        sql::read_latest(&statement, &[table.into(), after.into(), limit.into()], |row| {
            row.required(1, "key")
        })
    };
    installation.as_owner(read)
}

/// Forgets all jobs of a table.
pub fn forget_table(installation: &Installation, table: &str) -> Result<()> {
    let statement = installation.sql(
        "DELETE FROM @extschema@.rgrid_job_attempts a WHERE a.job_table OPERATOR(pg_catalog.=) $1::pg_catalog.text",
    );
    installation.as_owner(|| sql::write(&statement, &[table.into()]))?;
    Ok(())
}

/// A table has another name.
pub fn rename_table(installation: &Installation, table: &str, new: &str) -> Result<()> {
    forget_table(installation, new)?;
    let statement = installation.sql(
        "UPDATE @extschema@.rgrid_job_attempts a SET job_table = $2 \
         WHERE a.job_table OPERATOR(pg_catalog.=) $1::pg_catalog.text",
    );
    installation.as_owner(|| sql::write(&statement, &[table.into(), new.into()]))?;
    Ok(())
}
