//! The search_path for code of a table's owner, such as its triggers: which names it has, and which of these schemas
//! the owner can trust.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

use super::sql;
use crate::error::Result;

/// The names in the search_path that is in force, as they were set: `$user` stays what it is, and a schema need not
/// exist. Names of temporary schemas are left out.
pub fn in_force() -> Vec<String> {
    let names = identifiers(&super::setting(c"search_path"), b',').unwrap_or_default();
    names.into_iter().filter(|name| !name.is_empty() && !is_temporary(name)).collect()
}

/// The identifiers in a text, as SQL reads them; `None` when it has something else between the separators.
pub(super) fn identifiers(text: &str, separator: u8) -> Option<Vec<String>> {
    let mut text = text.as_bytes().to_vec();
    text.push(0);
    let mut names: *mut pg_sys::List = std::ptr::null_mut();
    let pieces = text.as_mut_ptr().cast();
    // SAFETY: a terminated string of our own, which the call cuts into pieces.
    let is_list = unsafe { pg_sys::SplitIdentifierString(pieces, separator as c_char, &mut names) };
    // SAFETY: null, or a list that is valid until the memory context ends.
    let length = unsafe { names.as_ref() }.map_or(0, |list| list.length);
    // SAFETY: within the list, whose members are terminated strings in `text`.
    let name = |n| unsafe { CStr::from_ptr(pg_sys::list_nth(names, n).cast()) };
    is_list.then(|| (0..length).map(|n| name(n).to_string_lossy().into_owned()).collect())
}

/// `pg_temp` stands for the session's own; a name with a number is that of some session.
fn is_temporary(name: &str) -> bool {
    name == "pg_temp" || name.starts_with("pg_temp_")
}

/// The schemas of a search_path that exist, quoted where SQL needs it.
#[derive(Debug)]
pub struct OwnersPath {
    /// Those that the owner's code can trust, in their order.
    pub searched: Vec<String>,
    /// Those without which the owner's code runs.
    pub left_out: Vec<SharedSchema>,
}

/// A schema in which other roles may create objects.
#[derive(Debug)]
pub struct SharedSchema {
    /// Its name, quoted where SQL needs it.
    pub name: String,
    /// The roles that have the right, quoted likewise, with commas.
    pub creators: String,
}

impl OwnersPath {
    /// The path with these names for code of a relation's owner; without names, the schema of the relation. `$user` is
    /// the owner.
    ///
    /// A schema is trusted while no role may create objects in it but its owner, the relation's owner and superusers.
    pub fn of(relation: pg_sys::Oid, names: Option<&[String]>) -> Result<Self> {
        let statement = sql::SavedPlan::new(SCHEMAS.into());
        let names = names.map(<[String]>::to_vec);
        let mut path = Self { searched: Vec::new(), left_out: Vec::new() };
        statement.read(&[relation.into(), names.into()], |row| {
            let name = row.required(1, "schema")?;
            match row.optional(2)? {
                None => path.searched.push(name),
                Some(creators) => path.left_out.push(SharedSchema { name, creators }),
            }
            Ok(())
        })?;
        Ok(path)
    }

    /// The value of the setting. Temporary tables are searched last; without a name, they would be first.
    pub fn setting(&self) -> String {
        match self.searched.as_slice() {
            [] => "pg_catalog, pg_temp".into(),
            schemas => schemas.join(", ") + ", pg_temp",
        }
    }

    /// For people: the setting, and what is left out of it.
    pub fn describe(&self) -> String {
        let without = |SharedSchema { name, creators }: &SharedSchema| {
            format!(", without the schema {name}, in which {creators} may create objects")
        };
        self.setting() + &self.left_out.iter().map(without).collect::<String>()
    }

    /// The statement after which one of the schemas that are left out is trusted.
    pub fn revoke(&self) -> Option<String> {
        let SharedSchema { name, creators } = self.left_out.first()?;
        Some(format!("REVOKE CREATE ON SCHEMA {name} FROM {creators};"))
    }
}

/// The schemas of a path, each with the roles that make it untrustworthy; `$1` is the relation and `$2` the names.
const SCHEMAS: &str = "\
    SELECT pg_catalog.quote_ident(n.nspname), ( \
        SELECT pg_catalog.string_agg( \
            CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC' \
                 ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END, ', ') \
        FROM pg_catalog.aclexplode(coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) a \
        WHERE a.privilege_type OPERATOR(pg_catalog.=) 'CREATE' \
          AND a.grantee OPERATOR(pg_catalog.<>) n.nspowner AND a.grantee OPERATOR(pg_catalog.<>) c.relowner \
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r \
                          WHERE r.oid OPERATOR(pg_catalog.=) a.grantee AND r.rolsuper)) \
    FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace o ON o.oid OPERATOR(pg_catalog.=) c.relnamespace \
    CROSS JOIN LATERAL pg_catalog.unnest(coalesce($2, ARRAY[o.nspname::pg_catalog.text])) \
        WITH ORDINALITY AS p (name, place) \
    JOIN pg_catalog.pg_namespace n ON n.nspname OPERATOR(pg_catalog.=) \
        (CASE WHEN p.name OPERATOR(pg_catalog.=) '$user' THEN pg_catalog.pg_get_userbyid(c.relowner) \
              ELSE p.name::pg_catalog.name END) \
    WHERE c.oid OPERATOR(pg_catalog.=) $1 \
      AND NOT pg_catalog.starts_with(n.nspname::pg_catalog.text, 'pg_temp_') \
    ORDER BY p.place";
