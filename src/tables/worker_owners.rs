//! Which role a worker's id belongs to, in `rgrid_worker_owners`, by the role's name: an OID means nothing where a dump
//! is restored. Only for ids in the extension's own table of heartbeats.
//!
//! What is said of an id is changed only by a session that has the worker's row of that table locked.

use pgrx::pg_sys;

use crate::error::Result;
use crate::installation::Installation;
use crate::pg::{arrays, catalog, roles, scope, sql};
use crate::tables::heartbeats::HeartbeatTable;

/// The name of the role that an id belongs to, as it is at this moment. The role may have been dropped or renamed.
pub fn owner(installation: &Installation, id: &str) -> Result<Option<String>> {
    scope::with_latest_snapshot(|| noted(installation, id))
}

/// The same as the active snapshot sees it.
pub fn noted(installation: &Installation, id: &str) -> Result<Option<String>> {
    let owners = installation.stored("rgrid_worker_owners", (c"worker_id", id), |row| row.name(c"owner"))?;
    Ok(owners.into_iter().next())
}

/// Gives an id to a role.
pub fn put(installation: &Installation, id: &str, role: pg_sys::Oid) -> Result<()> {
    let statement = sql::SavedPlan::new(installation.sql(
        "INSERT INTO @extschema@.rgrid_worker_owners AS o (worker_id, owner) \
         VALUES ($1, pg_catalog.pg_get_userbyid($2)) \
         ON CONFLICT (worker_id) DO UPDATE SET owner = EXCLUDED.owner",
    ));
    installation.as_owner(|| statement.write(&[id.into(), role.into()]))?;
    Ok(())
}

/// Those of these ids that belong to other roles than this one, by its name, each with its owner; `None` for a role
/// that is gone.
pub fn of_others(
    installation: &Installation,
    ids: &[&str],
    role: pg_sys::Oid,
) -> Result<Vec<(String, Option<pg_sys::Oid>)>> {
    let statement = installation.sql(
        "SELECT o.worker_id, r.oid FROM unnest($1::text[]) AS u (id) \
         JOIN @extschema@.rgrid_worker_owners o ON o.worker_id = u.id \
         LEFT JOIN pg_catalog.pg_authid r ON r.rolname = o.owner \
         WHERE o.owner <> pg_catalog.pg_get_userbyid($2)",
    );
    let arguments = [arrays::texts(ids.iter().copied()), role.into()];
    let read = |row: sql::Row<'_>| Ok((row.required(1, "worker id")?, row.optional(2)?));
    installation.as_owner_by_keys(|| sql::read_latest(&statement, &arguments, read))
}

/// Gives ids of which nothing is noted to a role.
pub fn add_all(installation: &Installation, ids: &[&str], role: pg_sys::Oid) -> Result<()> {
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_worker_owners (worker_id, owner) \
         SELECT u.id, pg_catalog.pg_get_userbyid($2) FROM unnest($1::text[]) AS u (id)",
    );
    let arguments = [arrays::texts(ids.iter().copied()), role.into()];
    installation.as_owner(|| sql::write(&statement, &arguments))?;
    Ok(())
}

/// Gives ids that belong to no role, or to one that is gone, to a role.
pub fn put_all(installation: &Installation, ids: &[&str], role: pg_sys::Oid) -> Result<()> {
    let statement = installation.sql(
        "INSERT INTO @extschema@.rgrid_worker_owners AS o (worker_id, owner) \
         SELECT u.id, pg_catalog.pg_get_userbyid($2) FROM unnest($1::text[]) AS u (id) \
         ON CONFLICT (worker_id) DO UPDATE SET owner = EXCLUDED.owner",
    );
    let arguments = [arrays::texts(ids.iter().copied()), role.into()];
    installation.as_owner(|| sql::write(&statement, &arguments))?;
    Ok(())
}

/// Frees ids.
pub fn remove(installation: &Installation, ids: &[String]) -> Result<()> {
    let statement =
        installation.sql("DELETE FROM @extschema@.rgrid_worker_owners o WHERE o.worker_id = ANY ($1)");
    installation.as_owner(|| sql::write(&statement, &[ids.to_vec().into()]))?;
    Ok(())
}

/// Workers that have an owner and neither a row nor a death: rows that were deleted by hand, and ids in a dump that no
/// worker has used since. As many as `limit`.
pub fn unknown(
    installation: &Installation,
    heartbeats: &HeartbeatTable,
    limit: usize,
) -> Result<Vec<String>> {
    let statement = installation.sql(&format!(
        "SELECT o.worker_id FROM @extschema@.rgrid_worker_owners o \
         WHERE NOT EXISTS (SELECT FROM {} h WHERE h.worker_id = o.worker_id) \
           AND NOT EXISTS (SELECT FROM @extschema@.rgrid_worker_deaths d WHERE d.worker_id = o.worker_id) \
         LIMIT $1",
        heartbeats.name
    ));
    let limit = [i64::try_from(limit).unwrap_or(i64::MAX).into()];
    installation.as_owner_with(heartbeats.oid, || {
        sql::read_latest(&statement, &limit, |row| row.required(1, "worker id"))
    })
}

/// Whether a role has as many living workers as `limit`, not counting this one. Other sessions that ask this about the
/// same role wait until this transaction ends: what it adds counts for them.
pub fn reach(
    installation: &Installation,
    heartbeats: &HeartbeatTable,
    role: pg_sys::Oid,
    limit: usize,
    id: &str,
) -> Result<bool> {
    if let Some(table) = catalog::relation_named(installation.schema, "rgrid_worker_owners") {
        roles::lock_in(table.oid, role);
    }
    let statement = installation.sql(&format!(
        "SELECT pg_catalog.count(*) FROM ( \
             SELECT FROM @extschema@.rgrid_worker_owners o JOIN {} h ON h.worker_id = o.worker_id \
             WHERE o.owner = pg_catalog.pg_get_userbyid($1) AND o.worker_id <> $3 \
               AND NOT EXISTS (SELECT FROM @extschema@.rgrid_worker_deaths d \
                               WHERE d.worker_id = o.worker_id AND d.returned_at IS NULL) \
             LIMIT $2) AS living",
        heartbeats.name
    ));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let living: Vec<i64> = installation.as_owner_with(heartbeats.oid, || {
        sql::read_latest(&statement, &[role.into(), limit.into(), id.into()], |row| row.required(1, "count"))
    })?;
    Ok(living.into_iter().any(|living| living >= limit))
}
