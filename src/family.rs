//! A table and what is below it, as partitions or by inheritance. Looked up by whoever is about to use a table of
//! somebody else's.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::catalog::{self, Relation};
use crate::pg::sql;

/// A table and all that is below it.
pub fn of(relation: &Relation) -> Result<Vec<Relation>> {
    if !relation.has_children {
        return Ok(vec![*relation]);
    }
    let statement = sql::Kept::new(
        "WITH RECURSIVE family AS ( \
             SELECT $1 AS oid \
             UNION \
             SELECT i.inhrelid FROM pg_catalog.pg_inherits i \
             JOIN family f ON i.inhparent OPERATOR(pg_catalog.=) f.oid) \
         SELECT f.oid FROM family f ORDER BY f.oid"
            .into(),
        &[pg_sys::OIDOID],
    );
    let oids: Vec<pg_sys::Oid> = statement.select(&[relation.oid.into()], |row| row.required(1, "table"))?;
    Ok(oids.into_iter().filter_map(catalog::relation).collect())
}

/// Checks that whoever owns a part of a table has the rights of the table's owner: a part's owner can put triggers on
/// it, which run as the table's owner.
///
/// # Errors
///
/// `insufficient_privilege` for a part of somebody else's.
pub fn check_owners(relation: &Relation, name: &str) -> Result<()> {
    let others = |part: &Relation| !catalog::has_rights_of(part.owner, relation.owner);
    match of(relation)?.into_iter().find(others) {
        Some(part) => Err(Error::PartOfAnother {
            table: name.to_owned(),
            part: catalog::qualified_name(part.oid).unwrap_or_default(),
        }),
        None => Ok(()),
    }
}
