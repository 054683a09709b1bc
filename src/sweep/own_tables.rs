//! Taking back what others have attached to the extension's tables, or were granted on them. By each sweeper before it
//! uses the tables, and by a sweep by hand.
//!
//! Each thing is taken back in a subtransaction of its own. Locks: as of the ALTER TABLE that it takes, awaited for a
//! second; none while all is as it was made.

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::attached::Use;
use crate::pg::{self, scope, timer};
use crate::rules::text::printable;
use crate::shmem::problems::{Place, Problem};
use crate::shmem::{databases, is_preloaded};
use crate::tables::own::{Foreign, OwnTables};

/// Things that are named in a report.
const NAMED: usize = 10;

/// Takes back what is not the extension's own. Returns what is to be told of it.
pub fn take_back(installation: &Installation) -> Option<Problem> {
    let tables = OwnTables::of(installation);
    // To look at all expressions takes a while. A sweep with nobody dead evaluates few of them.
    let was_refused = databases::current().map_or(!is_preloaded(), |state| state.was_refused);
    let usage = if was_refused { Use::Changing } else { Use::Reading };
    if tables.try_lock() && tables.are_as_made(usage) {
        forget_refusal(was_refused);
        return None;
    }
    let look = || timer::waiting_at_most(c"1s", || take_back_all(&tables));
    match scope::subtransaction(look) {
        Ok((taken, None)) => {
            forget_refusal(was_refused);
            let what = list(&taken);
            (!taken.is_empty()).then(|| Problem::with_advice(Place::OwnTables, &Error::TakenBack { what }))
        }
        Ok((_, Some((foreign, error)))) => {
            let attempt = format!("take back {}", printable(&foreign.what));
            Some(Problem::new(Place::OwnTables, attempt, &error))
        }
        Err(error) => Some(Problem::new(Place::OwnTables, "look after the extension's own tables", &error)),
    }
}

fn forget_refusal(was_refused: bool) {
    if was_refused && is_preloaded() {
        databases::change(pg::current_database(), |state| state.was_refused = false);
    }
}

/// What was taken back, and the first thing that could not be.
type Outcome = (Vec<Foreign>, Option<(Foreign, Error)>);

fn take_back_all(tables: &OwnTables<'_>) -> Result<Outcome> {
    let all = tables.foreign()?;
    // With a table, all that was attached to it is taken back, or nothing.
    let is_whole = all.iter().any(|foreign| foreign.is_owner);
    let (mut taken, mut left) = (Vec::new(), None);
    for foreign in all {
        match scope::subtransaction(|| tables.take_back(&foreign)) {
            Ok(()) => taken.push(foreign),
            Err(error) if is_whole => return Err(error),
            Err(error) => left = left.or(Some((foreign, error))),
        }
    }
    Ok((taken, left))
}

/// The names of things, at least of the first ones.
pub fn list(foreign: &[Foreign]) -> String {
    let names: Vec<String> = foreign.iter().take(NAMED).map(|foreign| printable(&foreign.what)).collect();
    match foreign.len().saturating_sub(NAMED) {
        0 => names.join("; "),
        more => format!("{}; and {more} more", names.join("; ")),
    }
}
