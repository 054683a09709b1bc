//! Waking the idle workers of a queue: a notification on its channel when jobs have gone back to it.

use super::table::{JobTable, SettledJobs};
use crate::error::Result;
use crate::pg::notifications;

/// Notifies the channel that the table's watch names, if it does and jobs were requeued. Delivered at the commit, once
/// however often this is called before. Without room in PostgreSQL's queue nothing is sent: the workers find the jobs
/// when they look by themselves.
pub(super) fn wake(table: &JobTable, settled: &[SettledJobs]) -> Result<()> {
    let Some(channel) = &table.mapping.wake_channel else { return Ok(()) };
    if settled.iter().all(|jobs| jobs.requeued == 0) || !notifications::has_room()? {
        return Ok(());
    }
    notifications::send(channel, std::slice::from_ref(&table.mapping.wake_payload))
}
