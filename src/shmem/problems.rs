//! What sweepers could not do, each problem by itself: what it is about, its SQLSTATE, its text, since when and how
//! often.
//!
//! Written by sweepers at the end of their rounds, read by `rgrid_health()` and the views, under a lock of its own. It
//! decides for each problem whether that is worth a line in the log.
#![allow(unsafe_code, reason = "shared memory of our own")]

use chrono::{DateTime, Utc};
use pgrx::lwlock::PgLwLock;
use pgrx::pg_sys;
use pgrx::shmem::PGRXSharedMemory;
use pgrx::{PgSqlErrorCode, pg_guard};

use super::is_preloaded;
use crate::pg;
use crate::rules::news::LastReport;
use crate::rules::schedule;

mod problem;

pub use problem::{Place, Problem};

/// Problems that are kept, over all databases.
const CAPACITY: usize = 1_024;

/// Problems that are kept of one database, so that one tenant leaves room for the others.
const LIMIT: usize = 256;

/// Bytes of a problem's text that are kept.
const TEXT: usize = 448;

/// A problem as it is remembered.
#[derive(Clone, Copy)]
pub struct KnownProblem {
    /// The database it was met in.
    pub database: pg_sys::Oid,
    /// What it is about.
    pub place: Place,
    /// Rounds in a row that met it.
    pub rounds: u64,
    /// The last round that looked for it did not meet it.
    pub is_over: bool,
    /// A statement took too long.
    is_overdue: bool,
    /// When it was first met since it was last over, and when it was last met, in Postgres' microseconds.
    since: i64,
    last: i64,
    last_report: LastReport,
    /// The beginning of its text, in bytes, and where in it the reason begins.
    length: usize,
    reason_at: usize,
    text: [u8; TEXT],
}

impl KnownProblem {
    const NONE: Self = Self {
        database: pg_sys::InvalidOid,
        place: Place::Others,
        rounds: 0,
        is_over: true,
        is_overdue: false,
        since: 0,
        last: 0,
        last_report: LastReport { code: 0, words: 0, at: 0 },
        length: 0,
        reason_at: 0,
        text: [0; TEXT],
    };

    fn new(database: pg_sys::Oid, problem: &Problem, last_report: LastReport) -> Self {
        // Over until `meet` is called.
        Self { database, place: problem.place, last_report, ..Self::NONE }
    }

    /// When it was first met since it was last over.
    pub fn since(&self) -> DateTime<Utc> {
        pg::from_postgres(self.since)
    }

    /// When it was last met.
    pub fn last(&self) -> DateTime<Utc> {
        pg::from_postgres(self.last)
    }

    /// Its SQLSTATE.
    pub fn code(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::from(self.last_report.code)
    }

    /// Its text as in the log, as far as it is kept.
    pub fn message(&self) -> String {
        String::from_utf8_lossy(&self.text[..self.length]).into_owned()
    }

    /// What was in the way, as far as it is kept.
    pub fn reason(&self) -> String {
        String::from_utf8_lossy(&self.text[self.reason_at..self.length]).into_owned()
    }

    /// Records that the problem is met. Returns whether that is news.
    fn meet(&mut self, text: &str, reason_at: usize, now: LastReport) -> bool {
        let begins = self.is_over;
        let is_news = begins || self.last_report.is_out_of_date(&now);
        if begins {
            (self.since, self.rounds) = (now.at, 0);
        }
        (self.rounds, self.last, self.is_over) = (self.rounds + 1, now.at, false);
        // The last report stays until there is another one: words that change in between are compared with what was
        // reported.
        self.last_report = if is_news { now } else { LastReport { code: now.code, ..self.last_report } };
        self.length = text.floor_char_boundary(TEXT);
        self.reason_at = reason_at.min(self.length);
        self.text[..self.length].copy_from_slice(&text.as_bytes()[..self.length]);
        is_news
    }
}

/// The table in shared memory; entries are in no order, the first `used` are valid.
#[derive(Clone, Copy)]
struct ProblemTable {
    used: usize,
    known: [KnownProblem; CAPACITY],
}

impl Default for ProblemTable {
    fn default() -> Self {
        Self { used: 0, known: [KnownProblem::NONE; CAPACITY] }
    }
}

// SAFETY: plain values.
unsafe impl PGRXSharedMemory for ProblemTable {}

impl ProblemTable {
    fn of(&mut self, database: pg_sys::Oid) -> impl Iterator<Item = &mut KnownProblem> {
        let used = self.used;
        self.known[..used].iter_mut().filter(move |known| known.database == database)
    }

    /// Problems whose place was looked at without meeting them are over.
    fn end(&mut self, database: pg_sys::Oid, met: &[Problem], was_looked_at: impl Fn(Place) -> bool) {
        let is_met = |place| met.iter().any(|problem| problem.place == place);
        self.of(database)
            .filter(|known| was_looked_at(known.place) && !is_met(known.place))
            .for_each(|known| known.is_over = true);
    }

    /// Records a problem. Returns whether that is news; `None` when there is no room for it.
    fn meet(&mut self, database: pg_sys::Oid, problem: &Problem, now: i64) -> Option<bool> {
        let (beginning, reason) = (problem.beginning(), &problem.reason);
        let report = LastReport::new(problem.code as i32, &format!("{beginning}{reason}"), now);
        let place = problem.place;
        if self.of(database).all(|known| known.place != place) {
            *self.room(database, place)? = KnownProblem::new(database, problem, report);
        }
        let known = self.of(database).find(|known| known.place == place)?;
        known.is_overdue = problem.is_overdue;
        Some(known.meet(&problem.message(), beginning.len(), report))
    }

    /// A place for another problem of a database: one that was never used, or that of a problem that is over.
    fn room(&mut self, database: pg_sys::Oid, place: Place) -> Option<&mut KnownProblem> {
        let limit = if place == Place::Others { LIMIT } else { LIMIT - 1 };
        let is_full = self.of(database).count() >= limit;
        if !is_full && self.used < CAPACITY {
            self.used += 1;
            return self.known.get_mut(self.used - 1);
        }
        let used = self.used;
        self.known[..used]
            .iter_mut()
            .filter(|known| known.is_over && (!is_full || known.database == database))
            .min_by_key(|known| known.last)
    }

    fn retain(&mut self, is_kept: impl Fn(pg_sys::Oid) -> bool) {
        self.used = super::retain(&mut self.known, self.used, |known| is_kept(known.database));
    }
}

// SAFETY: the name is this extension's own.
static PROBLEMS: PgLwLock<ProblemTable> = unsafe { PgLwLock::new(c"rgrid_heartbeat_problems") };

/// Asks for the shared memory. Only while the library is being preloaded.
pub fn request() {
    pgrx::pg_shmem_init!(PROBLEMS);
}

/// Records the problems that a round in a database has met. A problem that was looked for and not met is over. Returns
/// the problems that are news, worth a line in the log.
pub fn note(
    database: pg_sys::Oid,
    mut met: Vec<Problem>,
    was_looked_at: impl Fn(Place) -> bool,
    now: DateTime<Utc>,
) -> Vec<Problem> {
    let now = pg::to_postgres(now);
    let mut shared = PROBLEMS.exclusive();
    shared.end(database, &met, was_looked_at);
    let mut left_out = 0;
    met.retain(|problem| !problem.is_standing);
    met.retain(|problem| {
        let is_news = shared.meet(database, problem, now);
        left_out += u64::from(is_news.is_none());
        is_news.unwrap_or(false)
    });
    if left_out > 0 {
        let others = Problem::of_others(left_out);
        if shared.meet(database, &others, now).unwrap_or(true) {
            met.push(others);
        }
    }
    met
}

/// What is known of the problems of all databases, those that are over included, the latest first.
pub fn all() -> Vec<KnownProblem> {
    if !is_preloaded() {
        return Vec::new();
    }
    let mut all = {
        let shared = PROBLEMS.share();
        shared.known[..shared.used].to_vec()
    };
    all.sort_by_key(|known| std::cmp::Reverse((known.last, !known.is_over)));
    all
}

/// What is known of the problems of the current database, as [`all`] has it.
pub fn current() -> Vec<KnownProblem> {
    let database = pg::current_database();
    all().into_iter().filter(|known| known.database == database).collect()
}

/// Whether a problem of the current database lasts, and it is too early to try again.
pub fn is_standing(place: Place, now: DateTime<Utc>) -> bool {
    has(place, |known| !schedule::is_tried_again(known.since(), known.last(), now))
}

/// Whether a problem of the current database lasts, and it is that a statement takes too long.
pub fn is_overdue(place: Place) -> bool {
    has(place, |known| known.is_overdue)
}

fn has(place: Place, is_so: impl Fn(&KnownProblem) -> bool) -> bool {
    if !is_preloaded() {
        return false;
    }
    let database = pg::current_database();
    let shared = PROBLEMS.share();
    let mut known = shared.known[..shared.used].iter();
    known.any(|known| known.database == database && known.place == place && !known.is_over && is_so(known))
}

/// Forgets the problems of all databases but these.
pub fn retain(databases: &[pg_sys::Oid]) {
    PROBLEMS.exclusive().retain(|database| databases.contains(&database));
}

/// Forgets the problems of a database.
pub fn forget(database: pg_sys::Oid) {
    if is_preloaded() {
        PROBLEMS.exclusive().retain(|other| other != database);
    }
}

#[cfg(test)]
mod tests;
