//! Checks of each queue whose jobs are settled by a call.

use super::{Finding, attempt};
use crate::error::Result;
use crate::installation::Installation;
use crate::jobs::settler::{Settler, label};
use crate::pg::scope;
use crate::rules::text::printable;
use crate::tables::job_queues::{self, Watch};
use crate::tables::unsettled_calls;

/// The check without the name of the queue.
const CHECK: &str = "job queue";

pub fn findings(installation: &Installation) -> Vec<Finding> {
    match scope::subtransaction(|| job_queues::all(installation)) {
        Ok(watches) => watches.iter().map(|watch| of(installation, watch)).collect(),
        Err(error) => vec![attempt(CHECK, || Err(error))],
    }
}

fn of(installation: &Installation, watch: &Watch) -> Finding {
    let check = format!("{CHECK} {}", label(&watch.name));
    attempt(&check, || finding(installation, watch, check.clone()))
}

fn finding(installation: &Installation, watch: &Watch, check: String) -> Result<Finding> {
    if let Err(error) = Settler::open(watch) {
        let report = error.report();
        return Ok(Finding::error(
            check,
            format!("Its jobs are not settled: {}. {}", report.message, report.detail.unwrap_or_default()),
            report.hint.unwrap_or_else(|| "Put it back, or stop watching it.".into()),
        ));
    }
    Ok(match unsettled_calls::summary(installation, &watch.name)? {
        None => Finding::good(
            check,
            format!("Settles the jobs of workers whose id begins with \"{}\".", printable(&watch.prefix)),
        ),
        Some((workers, since, reason)) => Finding::warning(
            check,
            format!("The jobs of {workers} workers are not settled yet, the first since {since}: {reason}."),
            "Each sweep tries again. Until then, these workers cannot come back. The cause is in pg_stat_rgrid_problems.",
        ),
    })
}
