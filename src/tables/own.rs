//! The extension's own tables as objects: their owner, the rights on them, and what others have attached to them.
//!
//! Sweepers look whether all is as it was made, without SQL. Only if it is not, the catalogs are read, and what is not
//! ours is taken back. The health check reads the catalogs, too.

use pgrx::pg_sys;
use pgrx::spi::quote_identifier;

use crate::error::Result;
use crate::installation::Installation;
use crate::pg::attached::{self, Use};
use crate::pg::catalog::Relation;
use crate::pg::referring::{self, ForeignKey};
use crate::pg::scope::Scope;
use crate::pg::{catalog, roles, sql};

/// Something at a table of the extension that is not its own.
pub struct Foreign {
    /// The statement that takes it back.
    pub statement: String,
    /// What it is, and at which table.
    pub what: String,
    /// Whether the table belongs to another role. What that has attached must not get a superuser as its owner.
    pub is_owner: bool,
}

/// The own tables of an installation. An adopted table of heartbeats is none of them.
pub struct OwnTables<'a> {
    installation: &'a Installation,
    all: Vec<pg_sys::Oid>,
    heartbeats: pg_sys::Oid,
}

impl<'a> OwnTables<'a> {
    /// Looks them up.
    pub fn of(installation: &'a Installation) -> Self {
        let heartbeats = catalog::relation_named(installation.schema, "worker_heartbeats")
            .map(|table| table.oid)
            .filter(|table| installation.has(*table));
        let all = installation.tables.iter().copied().chain(heartbeats).collect();
        Self { installation, all, heartbeats: heartbeats.unwrap_or(pg_sys::InvalidOid) }
    }

    /// Locks them against being altered until the transaction ends; false when that is being done.
    pub fn try_lock(&self) -> bool {
        self.all.iter().all(|table| catalog::try_lock_for_reading(*table))
    }

    /// Whether they seem to be as they were made, for statements that use them so. Some things that only an owner can
    /// do are not seen: but then the owner is another one, or a statement was refused.
    pub fn are_as_made(&self, usage: Use) -> bool {
        let owner = self.installation.owner;
        self.all.iter().all(|table| {
            let harmless = if *table == self.heartbeats { roles::CHANGING_ROWS } else { roles::READING };
            attached::foreign_code(*table, usage, owner).is_none()
                && !catalog::has_row_security(*table)
                && !roles::has_grants_beyond(harmless, *table, owner)
                && !referring::foreign_keys(*table).iter().any(|key| self.is_dropped(*table, key))
        })
    }

    /// Whether a foreign key is not left at a table of ours: job tables may refer to heartbeats, and superusers to all.
    fn is_dropped(&self, table: pg_sys::Oid, key: &ForeignKey) -> bool {
        let is_trusted =
            |table: Relation| table.owner == self.installation.owner || roles::is_superuser(table.owner);
        let may_refer = table == self.heartbeats && !key.is_disguised;
        key.refers || !may_refer && !catalog::relation(key.other).is_some_and(is_trusted)
    }

    /// What is not the extension's own, in the order in which it is taken back.
    pub fn foreign(&self) -> Result<Vec<Foreign>> {
        let (mut expressions, mut indexes) = (Vec::new(), Vec::new());
        // A table that was put in the place of another one is refused at its use, and is not ours to change.
        let ours: Vec<_> = self.all.iter().copied().filter(|table| self.installation.has(*table)).collect();
        for table in &ours {
            let Some(found) = attached::expressions(*table) else { continue };
            let name = catalog::qualified_name(*table).unwrap_or_default();
            let constraint = |constraint: &String| drop_constraint(&name, constraint);
            expressions.extend(found.constraints.iter().map(constraint));
            let column = |number: &i16| catalog::column_numbered(*table, *number);
            expressions
                .extend(found.columns.iter().filter_map(column).map(|column| drop_default(&name, &column)));
            indexes.extend(found.indexes);
        }
        let oids = |oids: &[pg_sys::Oid]| oids.iter().map(|oid| i64::from(oid.to_u32())).collect::<Vec<_>>();
        let owner = self.installation.owner;
        let arguments = [oids(&ours).into(), owner.into(), self.heartbeats.into(), oids(&indexes).into()];
        let found = self.scope().run(|| sql::read_latest(FOREIGN, &arguments, foreign))?;
        let (owners, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|foreign| foreign.is_owner);
        // Expressions before the types of columns: a change of a type evaluates them.
        Ok(owners.into_iter().chain(expressions).chain(others).collect())
    }

    /// Takes something back.
    pub fn take_back(&self, foreign: &Foreign) -> Result<()> {
        self.scope().lock_timeout(c"1s").run(|| sql::write(&foreign.statement, &[]))?;
        Ok(())
    }

    fn scope(&self) -> Scope<'_> {
        Scope::of(self.installation.owner, &self.all)
    }
}

fn foreign(row: sql::Row<'_>) -> Result<Foreign> {
    Ok(Foreign {
        statement: row.required(1, "statement")?,
        what: row.required(2, "name")?,
        is_owner: row.required(3, "kind")?,
    })
}

fn drop_constraint(table: &str, constraint: &str) -> Foreign {
    let constraint = quote_identifier(constraint);
    Foreign {
        statement: format!("ALTER TABLE {table} DROP CONSTRAINT {constraint}"),
        what: format!("constraint {constraint} of {table}"),
        is_owner: false,
    }
}

fn drop_default(table: &str, (column, is_generated): &(String, bool)) -> Foreign {
    let column = quote_identifier(column);
    let statement = match is_generated {
        true => format!("ALTER TABLE {table} DROP COLUMN {column}"),
        false => format!("ALTER TABLE {table} ALTER {column} DROP DEFAULT"),
    };
    Foreign { statement, what: format!("expression of column {column} of {table}"), is_owner: false }
}

/// $1 are the tables, $2 is their owner, $3 the table of heartbeats, $4 indexes with code of others. Rights to read are
/// harmless, and so are those that clients need which write their heartbeats themselves. A superuser, and the owner,
/// may have attached or granted anything: but who made a trigger is not recorded, only who owns a table with a foreign
/// key.
const FOREIGN: &str = include_str!("own.sql");
