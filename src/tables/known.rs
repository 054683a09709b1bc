//! What the ledger, the numbers that outlive it, and the owners of ids say about many workers at once.

use pgrx::pg_sys;

use crate::error::Result;
use crate::installation::Installation;
use crate::pg::{arrays, roles, sql};
use crate::tables::incarnations::HIGHEST;

/// What is known of a worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// The number after its last death, or the one that was noted for it; `None` when it has never died.
    pub number: Option<i64>,
    /// Whether it is dead now.
    pub dead: bool,
    /// Whether its id belongs to a role.
    pub is_owned: bool,
    /// That role; `None` where it is gone.
    pub owner: Option<pg_sys::Oid>,
}

/// What is known of each of these workers at this moment, in the same order. It costs least where nothing is known but
/// that their ids belong to the `usual` role, or to none.
pub fn known(
    installation: &Installation,
    workers: &[&str],
    usual: Option<pg_sys::Oid>,
) -> Result<Vec<Known>> {
    let statement = installation.sql(&format!(
        "SELECT w.n, greatest(d.last + 1, i.incarnation), d.dead, o.owner IS NOT NULL, r.oid \
         FROM unnest($1::text[]) WITH ORDINALITY AS w (id, n) \
         LEFT JOIN (SELECT d.worker_id, least(pg_catalog.max(d.incarnation), {HIGHEST}) AS last, \
                           pg_catalog.bool_or(d.returned_at IS NULL) AS dead \
                    FROM @extschema@.rgrid_worker_deaths d WHERE d.worker_id = ANY ($1) GROUP BY 1) d \
             ON d.worker_id = w.id \
         LEFT JOIN @extschema@.rgrid_incarnations i ON i.worker_id = w.id \
         LEFT JOIN @extschema@.rgrid_worker_owners o ON o.worker_id = w.id \
         LEFT JOIN pg_catalog.pg_authid r ON r.rolname = o.owner \
         WHERE d.worker_id IS NOT NULL OR i.worker_id IS NOT NULL OR o.owner IS DISTINCT FROM $2::name"
    ));
    let name = usual.and_then(roles::name);
    let usual = Known { is_owned: name.is_some(), owner: name.as_ref().and(usual), ..Known::default() };
    let arguments = [arrays::texts(workers.iter().copied()), name.into()];
    let mut known = vec![usual; workers.len()];
    let read = |row: sql::Row<'_>| {
        let place: i64 = row.required(1, "place")?;
        let one = Known {
            number: row.optional(2)?,
            dead: row.optional(3)?.unwrap_or(false),
            is_owned: row.required(4, "owner")?,
            owner: row.optional(5)?,
        };
        if let Some(known) = usize::try_from(place - 1).ok().and_then(|place| known.get_mut(place)) {
            *known = one;
        }
        Ok(())
    };
    installation.as_owner_by_keys(|| sql::read_latest(&statement, &arguments, read))?;
    Ok(known)
}
