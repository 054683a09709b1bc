//! The checks of a table of very many partitions in which nothing runs. To plan their statements would take seconds.

use super::Finding;
use crate::jobs::quick_look::Idle;

/// An index serves.
pub const HAS_INDEX: &str = "An index finds the running jobs of a worker.";
/// None does, and none is needed.
pub const IS_SMALL: &str = "No index finds the running jobs of a worker, but the table is small.";
/// No job lacks a worker.
pub const ALL_HAVE_WORKERS: &str = "Every running job has a worker.";
/// No job is of an unknown worker.
pub const ALL_ARE_KNOWN: &str = "The worker of every running job is known.";
/// No job is locked.
pub const NONE_IS_LOCKED: &str = "No running job of a dead worker is locked.";
/// No job was running already when the database went on from an earlier moment.
pub const NONE_IS_FROM_BEFORE: &str =
    "No job has been running since before the last failover, restore or upgrade.";

/// What the checks of such a table find; `named` makes the name of a check.
pub fn findings(idle: Idle, named: impl Fn(&str) -> String) -> Vec<Finding> {
    let found = [
        ("job index", if idle.has_index { HAS_INDEX } else { IS_SMALL }),
        ("jobs without worker", ALL_HAVE_WORKERS),
        ("jobs of unknown workers", ALL_ARE_KNOWN),
        ("locked jobs", NONE_IS_LOCKED),
        ("jobs before failover", NONE_IS_FROM_BEFORE),
    ];
    found.into_iter().map(|(check, detail)| Finding::good(named(check), detail)).collect()
}
