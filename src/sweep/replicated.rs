//! A database whose heartbeats or ledger come from another server, by a subscription of logical replication.
//!
//! There nobody is judged: silence only says that the subscription is late, and a death of our own would be a row in
//! the way of the publisher's. The publisher judges, and its deaths come with the rest. Looked up in each transaction
//! of a sweep, because a subscription can come at any time.

use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{self, catalog};
use crate::rules::text::printable;
use crate::shmem::observation::{self, Suspension};
use crate::shmem::problems::{Place, Problem};
use crate::shmem::{buffer, is_preloaded, subscriptions};

/// Why nobody is judged; `None` where no enabled subscription writes to the heartbeats or to the ledger.
pub fn reason(installation: &Installation) -> Result<Option<Error>> {
    let targets = subscriptions::targets()?;
    let tables = ["worker_heartbeats", "rgrid_worker_deaths"].into_iter();
    let found =
        tables.filter_map(|name| catalog::relation_named(installation.schema, name)).find_map(|table| {
            let subscription = printable(targets.writer(table.oid)?);
            Some(Error::Replicated { table: catalog::qualified_name(table.oid)?, subscription })
        });
    Ok(found)
}

/// As [`Installation::find`]; `None` also where nobody is judged.
pub fn judging() -> Result<Option<Installation>> {
    let Some(installation) = Installation::find()? else { return Ok(None) };
    Ok(if reason(&installation)?.is_some() { None } else { Some(installation) })
}

/// The same as a problem, which lasts as long as the subscription does.
pub fn problem(installation: &Installation) -> Result<Option<Problem>> {
    Ok(reason(installation)?.map(|error| Problem::with_advice(Place::Subscription, &error)))
}

/// The same in a sweeper: no silence counts from now on.
pub fn suspend(installation: &Installation) -> Result<Option<Problem>> {
    let problem = problem(installation)?;
    if problem.is_some() {
        observation::suspend(Suspension::Subscription);
    }
    Ok(problem)
}

/// Notes whether silence counts now. When a subscription is gone or disabled, it counts from this moment on. What
/// memory has of the workers is forgotten then: the publisher may have declared them dead since they were heard here.
pub fn observe(installation: &Installation) -> Result<()> {
    if !is_preloaded() {
        return Ok(());
    }
    if suspend(installation)?.is_none() && observation::resume(pg::now()) == Some(Suspension::Subscription) {
        buffer::forget(pg::current_database());
    }
    Ok(())
}
