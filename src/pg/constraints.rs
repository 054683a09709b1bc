//! Constraints and constraint triggers that are deferred to the end of the transaction.

use super::{scope, sql};
use crate::error::Result;

/// Has them checked at the end of each statement, until the (sub)transaction ends. Those that wait already are checked
/// now, with the rights that they would have at the commit, whichever function this is called from.
pub fn set_immediate() -> Result<()> {
    scope::as_outer_role(|| sql::write("SET CONSTRAINTS ALL IMMEDIATE", &[]))?;
    Ok(())
}
