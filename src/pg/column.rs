//! A column of a relation, and what its type is and does.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ffi::CStr;

use pgrx::pg_sys;

use super::syscache::SysCacheTuple;

/// A column as the catalog has it.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its type.
    pub type_oid: pg_sys::Oid,
    /// Its type modifier; -1 when there is none.
    pub type_modifier: i32,
    /// Its collation; `InvalidOid` for a type that has none.
    pub collation: pg_sys::Oid,
    /// Whether it is declared NOT NULL.
    pub not_null: bool,
    /// Whether PostgreSQL alone gives it its values: GENERATED ALWAYS, by an expression or as an identity.
    pub is_generated: bool,
}

impl Column {
    /// Characters that fit, for a `varchar(n)`; `None` when there is no limit.
    pub fn character_limit(&self) -> Option<usize> {
        if self.type_oid != pg_sys::VARCHAROID {
            return None;
        }
        usize::try_from(self.type_modifier).ok()?.checked_sub(pg_sys::VARHDRSZ)
    }

    /// Whether its collation may take different bytes for the same.
    pub fn is_nondeterministic(&self) -> bool {
        // SAFETY: a collation that a column has exists for as long as the column.
        self.collation != pg_sys::InvalidOid
            && !unsafe { pg_sys::get_collation_isdeterministic(self.collation) }
    }

    /// Its type, or the one below it when that is a domain.
    pub fn base_type(&self) -> pg_sys::Oid {
        // SAFETY: a type that a column has exists for as long as the column.
        unsafe { pg_sys::getBaseType(self.type_oid) }
    }

    /// The same column with the type below its domain; `None` when its type is no domain.
    pub fn base(&self) -> Option<Self> {
        let mut base = *self;
        // SAFETY: as above; the modifier becomes the domain's.
        base.type_oid = unsafe { pg_sys::getBaseTypeAndTypmod(self.type_oid, &mut base.type_modifier) };
        (base.type_oid != self.type_oid).then_some(base)
    }

    /// A column of the type of its elements; `None` where its type is no array.
    pub fn element(&self) -> Option<Self> {
        let array = self.base().unwrap_or(*self);
        // SAFETY: as above; InvalidOid for what is no array.
        let type_oid = unsafe { pg_sys::get_element_type(array.type_oid) };
        (type_oid != pg_sys::InvalidOid).then_some(Self { type_oid, ..array })
    }

    /// Whether it is of type json or jsonb, or a domain over one.
    pub fn is_json(&self) -> bool {
        [pg_sys::JSONOID, pg_sys::JSONBOID].contains(&self.base_type())
    }

    /// The letter of its type's category, one of Postgres' `TYPCATEGORY_` ones; a domain has that of its base.
    pub fn category(&self) -> u8 {
        let (mut category, mut preferred) = (0, false);
        // SAFETY: as above; both pointers are valid for the call.
        unsafe { pg_sys::get_type_category_preferred(self.type_oid, &mut category, &mut preferred) };
        category as u8
    }

    /// The operator that tells whether two of its values are the same, as SQL names it; `None` where its type has none.
    pub fn equality(&self) -> Option<String> {
        let operator = SysCacheTuple::of_operator(equality_of(self.base_type()))?;
        // SAFETY: the schema of an operator that is there; the result is palloc'd, or null.
        let schema = unsafe { pg_sys::get_namespace_name(operator.oprnamespace) };
        if schema.is_null() {
            return None;
        }
        // SAFETY: as above; the name is terminated.
        let (schema, name) =
            unsafe { (CStr::from_ptr(schema), CStr::from_ptr(operator.oprname.data.as_ptr())) };
        let schema = pgrx::spi::quote_identifier(schema.to_string_lossy());
        Some(format!("OPERATOR({schema}.{})", name.to_string_lossy()))
    }

    /// The same column without its type's modifier.
    #[must_use]
    pub fn unlimited(self) -> Self {
        Self { type_modifier: -1, ..self }
    }

    /// Its type as SQL names it, with its schema and its modifier.
    pub fn type_name(&self) -> String {
        let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
        // SAFETY: as above; the result is palloc'd and never null.
        let name = unsafe { pg_sys::format_type_extended(self.type_oid, self.type_modifier, flags as u16) };
        // SAFETY: as above.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }
}

/// The operator by which a type's default operator class compares, which only a superuser creates; `InvalidOid` where
/// it has none.
pub(super) fn equality_of(type_oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a type that exists; the entry is never null, and stays for the session.
    unsafe { (*pg_sys::lookup_type_cache(type_oid, pg_sys::TYPECACHE_EQ_OPR as i32)).eq_opr }
}
