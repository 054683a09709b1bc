//! The inheritance tree of a table: the table and what is below it, as partitions or by inheritance. Looked up before a
//! table that may have another owner is used.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::catalog::{self, Relation};
use crate::pg::sql;

/// A table and all that is below it.
pub fn tree(relation: &Relation) -> Result<Vec<Relation>> {
    if !relation.has_children {
        return Ok(vec![*relation]);
    }
    let statement = sql::SavedPlan::new(
        "WITH RECURSIVE tree AS ( \
             SELECT $1 AS oid \
             UNION \
             SELECT i.inhrelid FROM pg_catalog.pg_inherits i \
             JOIN tree t ON i.inhparent OPERATOR(pg_catalog.=) t.oid) \
         SELECT t.oid FROM tree t ORDER BY t.oid"
            .into(),
    );
    let oids: Vec<pg_sys::Oid> = statement.read(&[relation.oid.into()], |row| row.required(1, "table"))?;
    Ok(oids.into_iter().filter_map(catalog::relation).collect())
}

/// Checks that the owner of each part of a table has the rights of the table's owner. A part's owner can put triggers
/// on it, and they run as the table's owner.
///
/// # Errors
///
/// `insufficient_privilege` when another role owns a part.
pub fn check_owners(relation: &Relation, name: &str) -> Result<()> {
    let others = |part: &Relation| !catalog::has_rights_of(part.owner, relation.owner);
    match tree(relation)?.into_iter().find(others) {
        Some(part) => Err(Error::PartOfAnother {
            table: name.to_owned(),
            part: catalog::qualified_name(part.oid).unwrap_or_default(),
        }),
        None => Ok(()),
    }
}
