//! Heartbeats that memory takes. While a sweeper fills it after a start, they wait for their entries: to write their
//! rows would take the processors away from what spares them that.

use std::time::{Duration, Instant};

use crate::pg::{self, process, version};
use crate::shmem::{buffer, observation};

/// How long a heartbeat waits. Most entries are there sooner.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// A heartbeat of a worker; `None` when it has to be written to its row.
pub(super) fn beat(id: &str, hostname: Option<&str>) -> Option<i64> {
    let mut told = buffer::beat(id, hostname);
    if told.is_none() {
        while_filled(|| {
            told = buffer::beat(id, hostname);
            told.is_some()
        });
    }
    told
}

/// Heartbeats of many workers: takes those that are not taken yet.
pub(super) fn beat_all(ids: &[&str], told: &mut [Option<i64>], hostname: Option<&str>) {
    let mut beat_missing = || {
        for (id, told) in ids.iter().zip(told.iter_mut()).filter(|(_, told)| told.is_none()) {
            *told = buffer::beat(id, hostname);
            pg::check_for_interrupts();
        }
        told.iter().all(Option::is_some)
    };
    if !beat_missing() {
        while_filled(beat_missing);
    }
}

/// Looks again and again while memory is being filled, until `is_done`.
fn while_filled(mut is_done: impl FnMut() -> bool) {
    let began = Instant::now();
    while observation::is_being_filled() && began.elapsed() < PATIENCE {
        process::delay(PAUSE, version::wait_event(c"RgridHeartbeatFill"));
        pg::check_for_interrupts();
        if is_done() {
            return;
        }
    }
    if began.elapsed() > PAUSE {
        is_done();
    }
}
