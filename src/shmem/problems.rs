//! What sweepers could not do, each thing kept apart from all others: what it is about, its SQLSTATE, its text, since
//! when and how often.
//!
//! Written by sweepers at the end of their rounds, read by `rgrid_health()` and the views, under a lock of its own. It
//! is what decides whether a problem is worth a line in the log, which each problem is by itself.
#![allow(unsafe_code, reason = "shared memory of our own")]

use chrono::{DateTime, Utc};
use pgrx::lwlock::PgLwLock;
use pgrx::pg_sys;
use pgrx::shmem::PGRXSharedMemory;
use pgrx::{PgSqlErrorCode, pg_guard};

use super::is_preloaded;
use crate::pg;
use crate::rules::news::Said;

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
pub struct Known {
    /// The database it was met in.
    pub database: pg_sys::Oid,
    /// What it is about.
    pub place: Place,
    /// Rounds in a row that met it.
    pub rounds: u64,
    /// The last round that looked for it did not meet it.
    pub is_over: bool,
    /// When it was first and last met, in Postgres' microseconds.
    since: i64,
    last: i64,
    said: Said,
    /// The beginning of its text, in bytes, and where in it the reason begins.
    length: usize,
    reason_at: usize,
    text: [u8; TEXT],
}

impl Known {
    const NONE: Self = Self {
        database: pg_sys::InvalidOid,
        place: Place::Others,
        rounds: 0,
        is_over: true,
        since: 0,
        last: 0,
        said: Said { code: 0, words: 0, at: 0 },
        length: 0,
        reason_at: 0,
        text: [0; TEXT],
    };

    fn new(database: pg_sys::Oid, problem: &Problem, said: Said) -> Self {
        // Over until it is met.
        Self { database, place: problem.place, said, ..Self::NONE }
    }

    /// When it was first met.
    pub fn since(&self) -> DateTime<Utc> {
        pg::from_postgres(self.since)
    }

    /// When it was last met.
    pub fn last(&self) -> DateTime<Utc> {
        pg::from_postgres(self.last)
    }

    /// Its SQLSTATE.
    pub fn code(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::from(self.said.code)
    }

    /// The whole of its text, as in the log.
    pub fn message(&self) -> String {
        String::from_utf8_lossy(&self.text[..self.length]).into_owned()
    }

    /// What was in the way.
    pub fn reason(&self) -> String {
        String::from_utf8_lossy(&self.text[self.reason_at..self.length]).into_owned()
    }

    /// The problem is met. Whether that is news.
    fn meet(&mut self, text: &str, reason_at: usize, now: Said) -> bool {
        let begins = self.is_over;
        let is_news = begins || self.said.is_out_of_date(&now);
        if begins {
            (self.since, self.rounds) = (now.at, 0);
        }
        (self.rounds, self.last, self.is_over) = (self.rounds + 1, now.at, false);
        // What was said stays until something else is: other words in between are not news of news.
        self.said = if is_news { now } else { Said { code: now.code, ..self.said } };
        self.length = text.floor_char_boundary(TEXT);
        self.reason_at = reason_at.min(self.length);
        self.text[..self.length].copy_from_slice(&text.as_bytes()[..self.length]);
        is_news
    }
}

/// The table in shared memory; entries are in no order, the first `used` are valid.
#[derive(Clone, Copy)]
struct Shared {
    used: usize,
    known: [Known; CAPACITY],
}

impl Default for Shared {
    fn default() -> Self {
        Self { used: 0, known: [Known::NONE; CAPACITY] }
    }
}

// SAFETY: plain values.
unsafe impl PGRXSharedMemory for Shared {}

impl Shared {
    fn of(&mut self, database: pg_sys::Oid) -> impl Iterator<Item = &mut Known> {
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

    /// Takes note of a problem. Whether that is news; `None` when there is no room for it.
    fn meet(&mut self, database: pg_sys::Oid, problem: &Problem, now: i64) -> Option<bool> {
        let (beginning, reason) = (problem.beginning(), &problem.reason);
        let said = Said::new(problem.code as i32, &format!("{beginning}{reason}"), now);
        let place = problem.place;
        if self.of(database).all(|known| known.place != place) {
            *self.room(database, place)? = Known::new(database, problem, said);
        }
        let known = self.of(database).find(|known| known.place == place)?;
        Some(known.meet(&problem.message(), beginning.len(), said))
    }

    /// A place for another problem of a database: one that was never used, or that of a problem that is over.
    fn room(&mut self, database: pg_sys::Oid, place: Place) -> Option<&mut Known> {
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
        let mut kept = 0;
        for index in 0..self.used {
            if is_kept(self.known[index].database) {
                self.known[kept] = self.known[index];
                kept += 1;
            }
        }
        self.used = kept;
    }
}

// SAFETY: the name is this extension's own.
static PROBLEMS: PgLwLock<Shared> = unsafe { PgLwLock::new(c"rgrid_heartbeat_problems") };

/// Asks for the shared memory. Only while the library is being preloaded.
pub fn request() {
    pgrx::pg_shmem_init!(PROBLEMS);
}

/// Takes note of what a round in a database has met; what was looked at without being met is over. Returns the
/// problems that are news, worth a line in the log.
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

/// What is known of the problems of all databases, those that are over included, the last one first.
pub fn all() -> Vec<Known> {
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
pub fn current() -> Vec<Known> {
    let database = pg::current_database();
    all().into_iter().filter(|known| known.database == database).collect()
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
