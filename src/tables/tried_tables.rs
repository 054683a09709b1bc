//! The watched tables that were tried, in `rgrid_tried_tables`: a death, or a rehearsal, has settled a job of theirs.
//! It is no part of a dump: a restored table was not tried where it is now.

use pgrx::pg_sys;

use crate::error::Result;
use crate::installation::Installation;
use crate::pg::{scope, sql, timer};

/// Whether a job of the table was ever settled.
pub fn contains(installation: &Installation, relation: pg_sys::Oid) -> Result<bool> {
    let statement = sql::SavedPlan::new(installation.sql(
        "SELECT EXISTS (SELECT FROM @extschema@.rgrid_tried_tables t \
                        WHERE t.job_table OPERATOR(pg_catalog.=) $1::pg_catalog.oid)",
    ));
    let read = || statement.read_latest(&[relation.into()], |row| row.required::<bool>(1, "existence"));
    Ok(installation.as_owner(read)? == [true])
}

/// A job of the table was settled. An error is ignored: this is for people, and stops no death. So it is while the open
/// transaction of another session says the same: if that is rolled back, the next job that is settled says it.
pub fn add(installation: &Installation, relation: pg_sys::Oid) {
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_tried_tables (job_table, tried_at) \
         VALUES ($1::pg_catalog.oid, pg_catalog.clock_timestamp()) ON CONFLICT DO NOTHING",
    );
    let insert = || installation.as_owner(|| sql::write(&statement, &[relation.into()]));
    let _ = scope::subtransaction(|| match contains(installation, relation)? {
        true => Ok(0),
        false => timer::waiting_at_most(c"50ms", insert),
    });
}

/// The table is watched in another way, which was not tried.
pub fn remove(installation: &Installation, relation: pg_sys::Oid) -> Result<()> {
    let statement = installation.sql(
        "DELETE FROM @extschema@.rgrid_tried_tables t \
         WHERE t.job_table OPERATOR(pg_catalog.=) $1::pg_catalog.oid",
    );
    installation.as_owner(|| sql::write(&statement, &[relation.into()]))?;
    Ok(())
}

/// Forgets tables that were dropped.
pub fn forget_dropped(installation: &Installation) -> Result<()> {
    let statement = sql::SavedPlan::new(installation.sql(
        "DELETE FROM @extschema@.rgrid_tried_tables t WHERE NOT EXISTS ( \
             SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) t.job_table)",
    ));
    installation.as_owner(|| statement.write(&[]))?;
    Ok(())
}
