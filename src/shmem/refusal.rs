//! The last call of a worker in a database that was refused because of its owner; kept in [`super::databases`].

use chrono::{DateTime, Utc};
use pgrx::pg_sys;

use super::buffer::table::ID_LENGTH;
use crate::pg;

/// A worker's call that was refused because the id belongs to another role.
#[derive(Clone, Copy)]
pub struct Refusal {
    /// The role that called.
    pub role: pg_sys::Oid,
    /// When, in Postgres' microseconds.
    at: i64,
    /// The beginning of the id, in bytes.
    length: usize,
    id: [u8; ID_LENGTH],
}

impl Refusal {
    pub(super) fn new(id: &str, role: pg_sys::Oid) -> Self {
        let length = id.floor_char_boundary(ID_LENGTH);
        let mut refusal = Self { role, at: pg::clock(), length, id: [0; ID_LENGTH] };
        refusal.id[..length].copy_from_slice(&id.as_bytes()[..length]);
        refusal
    }

    /// The beginning of the worker's id.
    pub fn worker(&self) -> String {
        String::from_utf8_lossy(&self.id[..self.length]).into_owned()
    }

    /// When it was.
    pub fn at(&self) -> DateTime<Utc> {
        pg::from_postgres(self.at)
    }
}
