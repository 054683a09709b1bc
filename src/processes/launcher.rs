//! The launcher: one process that starts a sweeper in each database when it is due.
//!
//! The postmaster starts it when recovery has finished, so never on a standby and at once after a promotion, and
//! restarts it a second after it ended. It is connected to no database and runs no SQL. Each round compares the
//! databases with what is due in them. It remembers which sweepers it started and which conditions it has logged. It
//! sleeps only in its main loop, and never ends by itself. All that it remembers is private to this file.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pgrx::prelude::*;

use super::sweeper;
use crate::error::Error;
use crate::pg::databases::{self as pg_databases, Database};
use crate::pg::{self, process, process::Worker, report, scope, subscriptions, version};
use crate::rules::liveness::silence;
use crate::rules::schedule::{Intervals, Task, Visit};
use crate::settings;
use crate::shmem;
use crate::shmem::problems::{self, Place, Problem};
use crate::shmem::quarantine::{self, AtWork};
use crate::shmem::{buffer, connections, databases, launcher, observation};

const KIND: &str = "rgrid_heartbeat launcher";

/// Sweepers that run at once. One takes milliseconds when there is nothing to do, and worker slots are scarce.
const SWEEPERS_AT_ONCE: usize = 3;

/// A sweeper that takes longer than this does not count: it must not delay the other databases. Most likely it hangs in
/// code of a table's owner, or is in a delay between the batches of a large flush.
const HANGING: Duration = Duration::from_secs(5);

/// Sweepers that run at once when some of them hang.
const SWEEPERS_AT_MOST: usize = 16;

/// How often in a threshold it is looked whether clients can connect.
const LOOKS_PER_THRESHOLD: u32 = 10;

/// Registers the launcher with the postmaster, which starts it. Only while the library is being preloaded.
pub fn register() {
    process::register_launcher(KIND, "rgrid_heartbeat_launcher_main");
}

/// Where the launcher's process begins.
#[pg_guard]
#[unsafe(no_mangle)]
#[allow(unsafe_code, reason = "the entry point is called by name")]
pub extern "C-unwind" fn rgrid_heartbeat_launcher_main(_argument: pg_sys::Datum) {
    process::accept_signals();
    process::connect(pg_sys::InvalidOid);
    process::reset_session_settings();
    process::report_name(c"rgrid_heartbeat launcher");
    launcher::announce();
    report::log("rgrid_heartbeat launcher started");
    let idle = version::wait_event(c"RgridHeartbeatLauncherMain");
    let mut launcher = Launcher::new();
    loop {
        let next = launcher.round();
        process::report_idle();
        launcher::set_wakes_at(Some(pg::monotonic() + next));
        process::wait(next, idle);
    }
}

/// What the launcher remembers from one round to the next.
struct Launcher {
    /// Zero of the monotonic clock.
    started: Instant,
    /// When the last round began.
    last_round: DateTime<Utc>,
    /// Whether sweeping was on at the last round.
    was_enabled: bool,
    /// Sweepers that have not been seen to end.
    sweepers: HashMap<pg_sys::Oid, Sweeper>,
    /// The tables at which sweepers of these databases have ended without a word since the last that did not.
    suspects: HashMap<pg_sys::Oid, HashSet<pg_sys::Oid>>,
    /// When it was last looked whether clients can connect.
    last_look: Option<Duration>,
    /// When the last sweepers of each database were started.
    visits: HashMap<pg_sys::Oid, LastVisits>,
    /// What was logged last about listing databases.
    listing_problem: Option<String>,
    /// Whether the lack of worker slots has been logged and has not ended.
    out_of_slots: bool,
    /// How often a heartbeat had found no entry in shared memory at the last round.
    refused: u64,
    /// Whether there were more databases than fit at the last round.
    too_many_databases: bool,
}

/// When sweepers of a database were started.
#[derive(Clone, Copy)]
struct LastVisits {
    /// The last one that was to flush or to sweep.
    any: Duration,
    /// The last one that was to sweep.
    sweep: Option<Duration>,
}

/// A sweeper at work.
struct Sweeper {
    worker: Worker,
    /// When it was started.
    started: Duration,
    /// Rounds that the database had seen then.
    rounds: u64,
    /// It was terminated because it took too long with a table.
    is_overdue: bool,
}

impl Launcher {
    fn new() -> Self {
        let started = Instant::now();
        Self {
            started,
            last_round: pg::now(),
            was_enabled: settings::enabled(),
            sweepers: HashMap::new(),
            suspects: HashMap::new(),
            last_look: None,
            visits: HashMap::new(),
            listing_problem: None,
            out_of_slots: false,
            refused: 0,
            too_many_databases: false,
        }
    }

    /// Does what is due. Returns the time until something is due again.
    fn round(&mut self) -> Duration {
        process::reload_if_requested();
        self.watch_clocks();
        self.watch_pause();
        self.watch_buffer();
        self.watch_connections();
        self.collect_ended();
        let overdue_in = self.end_overdue();
        let next = match self.list_databases() {
            Some(databases) => {
                self.track_databases(&databases);
                self.start_due(&databases)
            }
            None => Duration::from_secs(1),
        };
        next.min(overdue_in).min(settings::stale_threshold() / LOOKS_PER_THRESHOLD)
    }

    /// After an interruption, silence before it does not count.
    fn watch_clocks(&mut self) {
        self.last_round = observation::watch_clocks().wall;
        launcher::set_wakes_at(None);
    }

    /// After a pause, silence counts from its end.
    fn watch_pause(&mut self) {
        let enabled = settings::enabled();
        if enabled != self.was_enabled {
            report::log(&format!("sweeping is {}", if enabled { "enabled" } else { "disabled" }));
            observation::observe_all_from(self.last_round);
        }
        self.was_enabled = enabled;
    }

    /// Warns, once, when heartbeats no longer fit in shared memory.
    fn watch_buffer(&mut self) {
        let refused = buffer::refused();
        if self.refused == 0 && refused > 0 {
            let (places, id_length) = (settings::max_workers(), buffer::table::ID_LENGTH);
            report::warn(Error::DoNotFit { places, id_length });
        }
        self.refused = refused;
    }

    /// Looks whether clients can connect, ten times in a threshold.
    fn watch_connections(&mut self) {
        let (now, pause) = (self.started.elapsed(), settings::stale_threshold() / LOOKS_PER_THRESHOLD);
        if self.last_look.is_none_or(|last| now >= last + pause) {
            self.last_look = Some(now);
            connections::look(self.last_round);
        }
    }

    /// Forgets sweepers that have ended. One that did not count its round has failed.
    fn collect_ended(&mut self) {
        let ended = self.sweepers.extract_if(|_, sweeper| sweeper.worker.has_ended());
        for (oid, sweeper) in ended {
            let failure = databases::change(oid, |state| {
                let at_work = state.at_work.take();
                state.is_being_filled = false;
                let has_failed = state.rounds == sweeper.rounds;
                if has_failed {
                    state.failures = state.failures.saturating_add(1);
                    state.counters.errors += 1;
                }
                has_failed.then_some(at_work).flatten()
            });
            let Some(AtWork { table, .. }) = failure.flatten() else {
                self.suspects.remove(&oid);
                continue;
            };
            // An operator may have terminated it once.
            if !self.suspects.entry(oid).or_default().insert(table) || sweeper.is_overdue {
                quarantine::add(oid, table);
            }
        }
    }

    /// Ends sweepers that code of a table's owner has kept beyond their deadline. Returns the time until the next
    /// deadline.
    fn end_overdue(&mut self) -> Duration {
        let now = pg::monotonic();
        let mut next = Duration::MAX;
        for (oid, sweeper) in &mut self.sweepers {
            let Some(at_work) = databases::state(*oid).and_then(|state| state.at_work) else { continue };
            match at_work.deadline.checked_sub(now).filter(|left| !left.is_zero()) {
                Some(left) => next = next.min(left),
                None => {
                    sweeper.is_overdue = true;
                    sweeper.worker.terminate();
                }
            }
        }
        next
    }

    /// The databases that can be swept; `None` when they cannot be listed. Then the next round tries again.
    fn list_databases(&mut self) -> Option<Vec<Database>> {
        process::report_activity("listing databases");
        let list = || Ok((pg_databases::databases(), subscriptions::enabled()));
        match scope::transaction(list) {
            Ok((databases, subscriptions)) => {
                self.listing_problem = None;
                if let Some(subscriptions) = subscriptions {
                    let subscribed =
                        subscriptions.iter().filter(|one| one.is_a_superusers).map(|one| one.database);
                    let subscribed = subscribed.collect();
                    shmem::subscriptions::note(&subscribed);
                }
                Some(databases)
            }
            Err(error) => {
                let problem = error.message();
                if self.listing_problem.as_ref() != Some(&problem) {
                    report::warn(Problem::new(Place::Round, "list databases", &error));
                }
                self.listing_problem = Some(problem);
                None
            }
        }
    }

    /// Forgets databases that were dropped. Warns, once, when there begin to be too many.
    fn track_databases(&mut self, databases: &[Database]) {
        let too_many = databases.len() > databases::CAPACITY;
        if too_many && !self.too_many_databases {
            let (databases, places) = (databases.len(), databases::CAPACITY);
            report::warn(Error::TooManyDatabases { databases, places });
        }
        self.too_many_databases = too_many;
        let oids: Vec<pg_sys::Oid> = databases.iter().map(|database| database.oid).collect();
        if databases::keep(&oids, self.last_round) {
            buffer::retain(&oids);
            problems::retain(&oids);
            quarantine::retain(&oids);
        }
        self.visits.retain(|oid, _| oids.contains(oid));
    }

    /// Starts the sweepers that are due, the most overdue first. Returns the time until the next one is due.
    fn start_due(&mut self, databases: &[Database]) -> Duration {
        let intervals = Intervals {
            check: settings::enabled().then(settings::check_interval),
            flush: settings::flush_interval(),
        };
        let now = self.started.elapsed();
        let mut next = intervals.longest_sleep();
        for (at, task, database) in self.agenda(databases, &intervals) {
            let due_in = at.saturating_sub(now);
            if !due_in.is_zero() {
                return next.min(due_in);
            }
            // The end of a sweeper wakes this process.
            if self.is_busy() {
                return next;
            }
            if !self.start(database, task) {
                next = next.min(Duration::from_secs(1));
            }
        }
        next
    }

    /// Whether no more sweepers are to be started: enough are at work, or too many hang.
    fn is_busy(&self) -> bool {
        let now = self.started.elapsed();
        let at_work = self.sweepers.values().filter(|sweeper| now.saturating_sub(sweeper.started) < HANGING);
        at_work.count() >= SWEEPERS_AT_ONCE || self.sweepers.len() >= SWEEPERS_AT_MOST
    }

    /// The tasks of all databases, and when each is due, the earliest first.
    fn agenda<'a>(
        &self,
        databases: &'a [Database],
        intervals: &Intervals,
    ) -> Vec<(Duration, Task, &'a Database)> {
        let unwritten = buffer::unwritten_databases();
        databases::looked(&unwritten, self.last_round);
        let mut agenda: Vec<_> = databases
            .iter()
            .filter(|database| !self.sweepers.contains_key(&database.oid))
            .filter_map(|database| {
                let state = databases::state(database.oid)?;
                let last = self.visits.get(&database.oid);
                let visit = Visit {
                    presence: state.presence,
                    last_started: last.map(|last| last.any),
                    last_sweep: last.and_then(|last| last.sweep),
                    failures: state.failures,
                    requested: state.requested,
                    unwritten: unwritten.contains(&database.oid),
                    judge_at: state.judge_at().map(|at| self.moment(at)),
                };
                visit.due(intervals).map(|(at, task)| (at, task, database))
            })
            .collect();
        agenda.sort_by_key(|(at, ..)| *at);
        agenda
    }

    /// A time of the wall clock as one of the monotonic clock.
    fn moment(&self, at: DateTime<Utc>) -> Duration {
        let elapsed = self.started.elapsed();
        let now = pg::now();
        (elapsed + silence(at, now)).saturating_sub(silence(now, at))
    }

    /// Starts a sweeper; false when there is no worker slot for it.
    fn start(&mut self, database: &Database, task: Task) -> bool {
        // Read before the sweeper is started, because it may end before the next line runs.
        let before = databases::change(database.oid, |state| {
            let requested = state.requested;
            state.requested &= task != Task::Sweep && settings::enabled();
            let judge_at = if task == Task::Flush { None } else { state.forget_judge_at() };
            (state.rounds, requested, judge_at)
        });
        let (rounds, requested, judge_at) = before.unwrap_or_default();
        let worker = sweeper::start(database, task);
        self.note_slots(worker.is_some());
        let Some(worker) = worker else {
            databases::change(database.oid, |state| {
                state.requested |= requested;
                judge_at.into_iter().for_each(|at| _ = state.judge_by(at));
            });
            return false;
        };
        let started = self.started.elapsed();
        self.note_visit(database.oid, task, started);
        self.sweepers.insert(database.oid, Sweeper { worker, started, rounds, is_overdue: false });
        true
    }

    /// Judging alone delays no flush and no sweep.
    fn note_visit(&mut self, database: pg_sys::Oid, task: Task, now: Duration) {
        if task == Task::Judge {
            return;
        }
        let last = self.visits.entry(database).or_insert(LastVisits { any: now, sweep: None });
        last.any = now;
        if task == Task::Sweep {
            last.sweep = Some(now);
        }
    }

    /// Warns, once, when worker slots run out.
    fn note_slots(&mut self, has_slot: bool) {
        launcher::set_out_of_slots(!has_slot);
        if !has_slot && !self.out_of_slots {
            report::warn(Error::OutOfWorkerSlots);
        }
        self.out_of_slots = !has_slot;
    }
}
