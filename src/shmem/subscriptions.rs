//! Which databases have an enabled subscription of logical replication that belongs to a superuser, as the launcher
//! last saw. Kept under the lock of [`super::databases`].

use std::collections::HashSet;

use pgrx::pg_sys;

use super::databases::{self, DATABASES};
use crate::error::Result;
use crate::pg::subscriptions::Targets;

/// Notes which databases have one. One whose subscriptions came or went is looked at by a sweeper, which knows the
/// tables.
pub fn note(subscribed: &HashSet<pg_sys::Oid>) {
    let mut shared = DATABASES.exclusive();
    let used = shared.used;
    for state in &mut shared.states[..used] {
        let is_subscribed = subscribed.contains(&state.oid);
        state.requested |= state.is_subscribed != is_subscribed;
        state.is_subscribed = is_subscribed;
    }
}

/// The tables of the current database that subscriptions write to. While one is being dropped, in whatever database,
/// any table where the launcher has seen one, and no table elsewhere.
pub fn targets() -> Result<Targets> {
    let unknown = || match databases::current() {
        Some(state) if !state.is_subscribed => Targets::Known(Vec::new()),
        _ => Targets::Any,
    };
    Ok(Targets::find()?.unwrap_or_else(unknown))
}
