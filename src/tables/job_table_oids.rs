//! Which table each watched name meant when a sweeper last looked, in `rgrid_job_table_oids`. What follows from that is
//! decided in `jobs/entries.rs`. It is no part of a dump: OIDs mean nothing on another server.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use crate::error::Result;
use crate::installation::Installation;
use crate::pg::{self, sql};

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The table, which may have been dropped since.
    pub relation: pg_sys::Oid,
    /// The role that owned it.
    pub owner: pg_sys::Oid,
    /// Whether it had a fence, which nobody has taken down by `rgrid_unfence()`.
    pub is_fenced: bool,
    /// Since when neither the name nor the OID has meant a table.
    pub missing_since: Option<DateTime<Utc>>,
}

/// All rows, by the names.
pub fn all(installation: &Installation) -> Result<HashMap<String, Known>> {
    let statement = sql::SavedPlan::new(installation.sql(
        "SELECT o.job_table, o.relation, o.owner, o.fenced, o.missing_since FROM @extschema@.rgrid_job_table_oids o",
    ));
    let rows = installation.as_owner(|| {
        statement.read(&[], |row| {
            let known = Known {
                relation: row.required(2, "table")?,
                owner: row.required(3, "owner")?,
                is_fenced: row.required(4, "fence")?,
                missing_since: row.optional::<TimestampWithTimeZone>(5)?.map(pg::time_of),
            };
            Ok((row.required::<String>(1, "job table")?, known))
        })
    })?;
    Ok(rows.into_iter().collect())
}

/// Notes which table a name means.
pub fn put(installation: &Installation, name: &str, known: &Known) -> Result<()> {
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_job_table_oids (job_table, relation, owner, fenced, missing_since) \
         VALUES ($1, $2, $3::pg_catalog.oid, $4, $5) ON CONFLICT (job_table) DO UPDATE SET (relation, owner, fenced, missing_since) = \
             ROW (EXCLUDED.relation, EXCLUDED.owner, EXCLUDED.fenced, EXCLUDED.missing_since)",
    );
    let arguments = [
        name.into(),
        known.relation.into(),
        // An OID of 0, of a table that was dropped before an update, would be NULL.
        i64::from(known.owner.to_u32()).into(),
        known.is_fenced.into(),
        known.missing_since.and_then(pg::timestamptz).into(),
    ];
    installation.as_owner(|| sql::write(&statement, &arguments))?;
    Ok(())
}

/// Forgets what a name meant.
pub fn remove(installation: &Installation, name: &str) -> Result<()> {
    let statement = installation.sql(
        "DELETE FROM @extschema@.rgrid_job_table_oids o WHERE o.job_table OPERATOR(pg_catalog.=) $1::pg_catalog.text",
    );
    installation.as_owner(|| sql::write(&statement, &[name.into()]))?;
    Ok(())
}
