//! Workers whose clients write the time of their own zone into an adopted table whose times are UTC. By their rows they
//! are silent for hours. They are alive while their rows are renewed, which the rows' transactions tell, and are
//! reported.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};

use crate::error::{Error, Result};
use crate::rules::local_time::{Mark, zone_behind};
use crate::rules::text::printable;
use crate::tables::heartbeats::{HeartbeatTable, Worker};

/// Of these silent workers, the ones whose rows were renewed since the mark with the time of a zone that is behind UTC.
/// They come as what is to be said of them.
pub fn writers(
    table: &HeartbeatTable,
    silent: &[Worker],
    mark: Mark,
    now: DateTime<Utc>,
) -> Result<Option<(HashSet<String>, Error)>> {
    let behind = |worker: &Worker| zone_behind(worker.last_heartbeat_at, mark.at, now);
    let likely: Vec<(&str, TimeDelta)> =
        silent.iter().filter_map(|worker| Some((worker.id.as_str(), behind(worker)?))).collect();
    if table.has_time_zone || likely.is_empty() {
        return Ok(None);
    }
    let ids: Vec<String> = likely.iter().map(|(id, _)| (*id).to_owned()).collect();
    let renewed = table.written_since(&ids, mark.transaction)?;
    let example = likely.into_iter().find(|(id, _)| renewed.contains(*id));
    Ok(example.map(|(example, behind)| {
        let error = Error::LocalTime {
            table: table.name.clone(),
            workers: renewed.len(),
            example: printable(example),
            behind: behind.to_std().unwrap_or_default(),
        };
        (renewed, error)
    }))
}
