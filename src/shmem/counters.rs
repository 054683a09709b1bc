//! What is counted in each database, for `pg_stat_rgrid_heartbeat`. In shared memory and lost in a crash, like the
//! server's own statistics; nothing decides by it.
//!
//! Nothing is counted at a heartbeat that stays in memory: a counter that every session writes would cost more than
//! the heartbeat itself. What is counted is what is written, by the flush, and what takes a transaction anyway.

/// The numbers of one database since the last reset.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// When counting began, in Postgres' microseconds.
    pub since: i64,
    /// Sweeps that sweepers have finished.
    pub sweeps: u64,
    /// Heartbeats that had to go to their rows at once, rolled back or not.
    pub heartbeats_in_row: u64,
    /// Calls of workers that were refused because the id belongs to another role.
    pub calls_refused: u64,
    /// Flushes that wrote something.
    pub flushes: u64,
    /// Rows that flushes wrote.
    pub rows_flushed: u64,
    /// Deaths in the ledger, for any reason.
    pub deaths: u64,
    /// Workers that returned after they had been declared dead for being silent or disconnected.
    pub false_deaths: u64,
    /// Sessions of attached workers whose client vanished.
    pub sessions_lost: u64,
    /// Workers that were left to their silence because so many sessions were lost together.
    pub spared: u64,
    /// Jobs that were marked as failed.
    pub jobs_failed: u64,
    /// Jobs that were given back to the queue.
    pub jobs_requeued: u64,
    /// Rows of dead workers that were pruned.
    pub workers_pruned: u64,
    /// Rows of the ledger that were pruned.
    pub deaths_pruned: u64,
    /// Rounds of sweepers with a problem.
    pub errors: u64,
}

impl Counters {
    /// Nothing counted yet.
    pub fn since(now: i64) -> Self {
        Self { since: now, ..Self::default() }
    }
}

/// A number that is never negative, to be added to a counter.
pub fn number(number: impl TryInto<u64>) -> u64 {
    number.try_into().unwrap_or(0)
}
