//! Functions of users, as the catalog has them.

use pgrx::pg_sys;

use super::sql;
use crate::error::Result;

/// A function.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// The role that owns it.
    pub owner: pg_sys::Oid,
    /// Its name with its schema, quoted where SQL needs it.
    pub name: String,
    /// The same with the types of its arguments, as `regprocedure` reads it.
    pub signature: String,
    /// The types of its arguments, in their order, by OID.
    pub arguments: Vec<pg_sys::Oid>,
    /// Whether it returns rows with columns of its own.
    pub columns: Option<Vec<pg_sys::Oid>>,
    /// Whether it returns nothing.
    pub is_void: bool,
}

/// The function with this OID; `None` when there is none, or it is a procedure, an aggregate or a window function.
pub fn by_oid(oid: pg_sys::Oid) -> Result<Option<Function>> {
    find("$1::pg_catalog.oid", oid.into())
}

/// The function with this signature. Without a schema it is one of pg_catalog.
pub fn by_signature(signature: &str) -> Result<Option<Function>> {
    find("pg_catalog.to_regprocedure($1)", signature.into())
}

/// Its qualified name, for messages; empty when there is none.
pub fn qualified_name(oid: pg_sys::Oid) -> String {
    by_oid(oid).ok().flatten().map_or(String::new(), |function| function.name)
}

fn find(which: &str, argument: pgrx::datum::DatumWithOid<'_>) -> Result<Option<Function>> {
    let statement = format!(
        "SELECT p.oid, p.proowner, \
                pg_catalog.format('%I.%I', n.nspname, p.proname), \
                pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, ( \
                    SELECT pg_catalog.string_agg(pg_catalog.format_type(a.type, NULL), ', ' ORDER BY a.n) \
                    FROM pg_catalog.unnest(p.proargtypes) WITH ORDINALITY AS a (type, n))), \
                p.proargtypes::pg_catalog.oid[], \
                CASE WHEN p.proretset THEN ARRAY( \
                    SELECT p.proallargtypes[a.n] FROM pg_catalog.generate_subscripts(p.proargmodes, 1) AS a (n) \
                    WHERE p.proargmodes[a.n] OPERATOR(pg_catalog.=) ANY ('{{o,b,t}}'::pg_catalog.\"char\"[]) \
                    ORDER BY a.n) END, \
                p.prorettype OPERATOR(pg_catalog.=) 'pg_catalog.void'::pg_catalog.regtype \
         FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
         WHERE p.oid OPERATOR(pg_catalog.=) {which} AND p.prokind OPERATOR(pg_catalog.=) 'f'"
    );
    let functions = sql::read(&statement, &[argument], |row| {
        Ok(Function {
            oid: row.required(1, "function")?,
            owner: row.required(2, "owner")?,
            name: row.required(3, "name")?,
            signature: row.required(4, "signature")?,
            arguments: row.required(5, "arguments")?,
            columns: row.optional(6)?,
            is_void: row.required(7, "result")?,
        })
    })?;
    Ok(functions.into_iter().next())
}
