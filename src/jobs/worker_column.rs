//! How a job names its worker: by the value of a column, or by the last element of an array or of a JSON array, where
//! queues keep all workers that have tried the job.

use pgrx::pg_sys;

use super::columns::ColumnRef;
use crate::pg::catalog::Column;

/// What the worker's column has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// The id.
    Id,
    /// An array, whose last element is the id.
    Array,
    /// A JSON array, likewise; of type json or jsonb.
    Json,
}

impl Holds {
    /// What a column of this type has.
    pub fn of(column: &Column) -> Self {
        match column.element() {
            Some(_) => Self::Array,
            None if column.is_json() => Self::Json,
            None => Self::Id,
        }
    }

    /// The type of the id, as that of a column.
    pub fn id(self, column: &Column) -> Column {
        let text = Column {
            type_oid: pg_sys::TEXTOID,
            type_modifier: -1,
            collation: pg_sys::DEFAULT_COLLATION_OID,
            not_null: false,
            is_generated: false,
        };
        match self {
            Self::Id => *column,
            Self::Array => column.element().unwrap_or(*column),
            Self::Json => text,
        }
    }

    /// The id, of a row whose name comes with a dot, or of the row that an index is on.
    pub fn expression(self, ColumnRef { name, column, .. }: &ColumnRef, row: &str) -> String {
        let value = match column.base().filter(|_| self != Self::Id) {
            Some(base) => format!("CAST({row}{name} AS {})", base.type_name()),
            None => format!("{row}{name}"),
        };
        match self {
            Self::Id => value,
            Self::Array => format!("({value})[pg_catalog.array_upper({value}, 1)]"),
            Self::Json => format!("({value} OPERATOR(pg_catalog.->>) (-1))"),
        }
    }

    /// The value of a column that names this worker alone.
    pub fn made_of(self, id: &str, column: &Column) -> String {
        match self {
            Self::Id => id.to_owned(),
            Self::Array => format!("CAST(ARRAY[{id}] AS {})", column.type_name()),
            Self::Json => format!("CAST(pg_catalog.json_build_array({id}) AS {})", column.type_name()),
        }
    }
}
