//! The check of workers that are attached to sessions.

use std::collections::HashSet;

use super::Finding;
use super::workers::REPORTED_FOR;
use crate::error::Result;
use crate::installation::Installation;
use crate::pg;
use crate::rules::losses;
use crate::rules::text::printable;
use crate::settings;
use crate::shmem::buffer::ties;
use crate::shmem::databases;
use crate::tables::deaths::{self, Reason};

pub const CHECK: &str = "attached workers";

/// What is known of the workers that are attached to sessions.
struct Census {
    workers: usize,
    sessions: usize,
    /// Those that lost their sessions together and were not heard since.
    spared: usize,
    /// How often a worker came back lately.
    came_back: u64,
    /// How many were declared dead for it and returned, and one of them.
    false_deaths: (i64, Option<String>),
}

impl Census {
    fn take(installation: &Installation) -> Result<Self> {
        let (now, database) = (pg::now(), pg::current_database());
        let tied = ties::tied_sessions(database);
        let lost = ties::disconnected(database);
        let reason = Reason::Disconnected { at: now };
        let (count, example) = deaths::views::false_deaths_since(installation, reason, now - REPORTED_FOR)?;
        Ok(Self {
            workers: tied.len(),
            sessions: tied.iter().map(|tied| tied.session.number).collect::<HashSet<_>>().len(),
            spared: lost.iter().filter(|lost| lost.is_spared && !lost.is_heard).count(),
            came_back: databases::current().map_or(0, |state| state.came_back.recent(now)),
            false_deaths: (count, example.map(|(worker, _)| worker)),
        })
    }
}

/// How many are attached, and whether their sessions get lost although they live.
pub fn finding(installation: &Installation) -> Result<Finding> {
    let census = Census::take(installation)?;
    let found = format!("{} workers are attached to {} sessions.", census.workers, census.sessions);
    Ok(match census {
        Census { spared: 1.., .. } => lost_together(&found, census.spared),
        Census { false_deaths: (count, Some(example)), .. } => returned(&found, count, &example),
        Census { workers, came_back, .. } if losses::is_flapping(came_back, workers as u64) => {
            flapping(&found, came_back)
        }
        Census { workers: 0, .. } => Finding::good(CHECK, "No worker is attached to a session."),
        _ if settings::disconnect_grace().is_none() => {
            Finding::good(CHECK, format!("{found} rgrid_heartbeat.disconnect_grace is -1: it has no effect."))
        }
        _ => Finding::good(CHECK, found),
    })
}

fn lost_together(found: &str, workers: usize) -> Finding {
    Finding::warning(
        CHECK,
        format!(
            "{found} {workers} workers lost their sessions together and are judged by their silence alone."
        ),
        "Look at the network between workers and server, and at connection poolers. Workers should attach themselves by \
         direct connections.",
    )
}

fn returned(found: &str, count: i64, example: &str) -> Finding {
    let worker = printable(example);
    Finding::warning(
        CHECK,
        format!(
            "{found} {count} workers that were declared dead in the last day because they lost their sessions have \
             returned, the last one is \"{worker}\"."
        ),
        "Workers must notice at once that their connection is cut, and attach themselves again. If they cannot, raise \
         rgrid_heartbeat.disconnect_grace.",
    )
}

fn flapping(found: &str, came_back: u64) -> Finding {
    Finding::warning(
        CHECK,
        format!("{found} {came_back} times in the last two hours a worker lost its session and came back."),
        "Something between workers and server cuts connections, most likely idle ones. Lower tcp_keepalives_idle, \
         tcp_keepalives_interval and client_connection_check_interval to less than its limit, or the keepalives of the \
         clients.",
    )
}
