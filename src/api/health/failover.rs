//! Jobs whose end may be lost: they were running when the database went on from an earlier moment, by a failover or a
//! restore.

use chrono::{DateTime, Utc};
use pgrx::spi::quote_literal;

use super::database::time;
use super::jobs::{TableCheck, not_checked};
use super::{Finding, idle};
use crate::error::Result;
use crate::pg::{self, row_versions};
use crate::rules::liveness;
use crate::rules::text::printable;
use crate::settings;
use crate::tables::heartbeats::HeartbeatTable;
use crate::tables::incarnations;

impl TableCheck<'_> {
    /// Running jobs of living workers that were not written since the database went on from an earlier moment. Their
    /// end may be what was lost.
    pub(super) fn before_failover(&self, check: String) -> Result<Finding> {
        let Some((since, transaction)) = incarnations::last_raised(self.installation)? else {
            return Ok(Finding::good(check, idle::NONE_IS_FROM_BEFORE));
        };
        if pg::now() - since < liveness::delta(settings::stale_threshold()) {
            return Ok(Finding::good(
                check,
                "Not checked yet: workers get a threshold to take up their jobs.",
            ));
        }
        if !row_versions::is_comparable(transaction) {
            return Ok(Finding::good(check, "Not checked: the last failover or restore was very long ago."));
        }
        let is_earlier = format!("NOT ({})", row_versions::is_since("j", transaction));
        let Some(mut running) = self.running_by_worker(&is_earlier)? else { return Ok(not_checked(check)) };
        let ids: Vec<String> = running.iter().map(|(worker, _)| worker.clone()).collect();
        let living = HeartbeatTable::open(self.installation)?.existing(&ids)?;
        let dead = self.dead()?;
        running.retain(|(worker, _)| living.contains(worker) && !dead.contains(worker));
        Ok(failed_over(check, &running, since))
    }
}

fn failed_over(check: String, running: &[(String, i64)], since: DateTime<Utc>) -> Finding {
    let Some((worker, _)) = running.first() else {
        return Finding::good(check, idle::NONE_IS_FROM_BEFORE);
    };
    let worker = quote_literal(printable(worker));
    Finding::warning(
        check,
        format!(
            "The database went on from a copy or an earlier moment at {}. {} running jobs of {} living workers were \
             claimed before that and not written since, such as those of {worker}. A job that its worker has already \
             completed keeps its status for ever.",
            time(since),
            running.iter().map(|(_, count)| count).sum::<i64>(),
            running.len()
        ),
        format!("If a worker does not run them, settle them: SELECT rgrid_register({worker});"),
    )
}
