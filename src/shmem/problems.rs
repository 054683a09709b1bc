//! What sweepers could not do, each thing kept apart from all others: what it is about, its SQLSTATE, its text, since
//! when and how often.
//!
//! Written by sweepers at the end of their rounds, read by `rgrid_health()` and the views, under a lock of its own. It
//! is what decides whether a problem is worth a line in the log, which each problem is by itself.
#![allow(unsafe_code, reason = "shared memory of our own")]

use chrono::{DateTime, Utc};
use pgrx::lwlock::PgLwLock;
use pgrx::pg_sys::{self, panic::ErrorReport};
use pgrx::shmem::PGRXSharedMemory;
use pgrx::{PgSqlErrorCode, pg_guard};

use super::is_preloaded;
use crate::error::{Error, Report};
use crate::pg;
use crate::rules::news::Said;

/// Problems that are kept, over all databases.
const CAPACITY: usize = 1_024;

/// Problems that are kept of one database, so that one tenant leaves room for the others.
const LIMIT: usize = 256;

/// Bytes of a problem's text that are kept.
const TEXT: usize = 448;

/// What a problem is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The round as a whole: the sweeper failed, or there is nothing that it can work with.
    Round,
    /// Writing heartbeats to their rows.
    Flush,
    /// Heartbeats that are ahead of the server's clock.
    FutureHeartbeats,
    /// Removing what is older than the retention.
    Pruning,
    /// Settling the jobs of a watched table, or of the part of it that is settled by itself.
    JobTable {
        /// The watched table.
        table: pg_sys::Oid,
        /// The part; the table itself where it is settled as a whole.
        part: pg_sys::Oid,
    },
    /// Running jobs of dead workers in a watched table that other sessions have locked.
    LockedJobs {
        /// The watched table.
        table: pg_sys::Oid,
    },
    /// Problems for which there was no room.
    Others,
}

impl Place {
    /// The watched table that it is about.
    pub fn job_table(self) -> Option<pg_sys::Oid> {
        match self {
            Self::JobTable { table, .. } | Self::LockedJobs { table } => Some(table),
            _ => None,
        }
    }

    /// What it is about, in a word or two, for the view.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Round => "sweeper",
            Self::Flush => "flush",
            Self::FutureHeartbeats => "future heartbeats",
            Self::Pruning => "pruning",
            Self::JobTable { .. } => "job table",
            Self::LockedJobs { .. } => "locked jobs",
            Self::Others => "others",
        }
    }
}

/// Something that a sweeper, or a sweep by hand, could not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it is about.
    pub place: Place,
    code: PgSqlErrorCode,
    /// What could not be done, to be read after "could not"; empty where the reason says it all.
    attempt: String,
    /// What was in the way.
    reason: String,
    /// How many of them there are, where that may change while the problem stays the same.
    count: Option<u64>,
    detail: Option<String>,
    hint: Option<String>,
}

impl From<Problem> for ErrorReport {
    fn from(problem: Problem) -> Self {
        let mut report = Self::new(problem.code, problem.message(), "rgrid_heartbeat");
        if let Some(detail) = problem.detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = problem.hint {
            report = report.set_hint(hint);
        }
        report
    }
}

impl Problem {
    /// What an error kept from being done.
    pub fn new(place: Place, attempt: impl Into<String>, error: &Error) -> Self {
        let Report { code, message, .. } = error.report();
        Self { place, code, attempt: attempt.into(), reason: message, count: None, detail: None, hint: None }
    }

    /// The same, in a part of what was attempted.
    #[must_use]
    pub fn in_part(self, part: &str) -> Self {
        Self { reason: format!("{part}: {}", self.reason), ..self }
    }

    /// Running jobs that stay as they are because other sessions have locked them.
    pub fn of_locked_jobs(table: pg_sys::Oid, name: &str, jobs: u64) -> Self {
        Self {
            place: Place::LockedJobs { table },
            code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            attempt: format!("settle jobs in table {name}"),
            reason: "rows skipped because they are locked by other sessions".into(),
            count: Some(jobs),
            detail: None,
            hint: None,
        }
    }

    /// An error that ended the round.
    pub fn of_round(error: &Error) -> Self {
        let Report { detail, hint, .. } = error.report();
        Self { detail, hint, ..Self::new(Place::Round, "", error) }
    }

    fn of_others(count: u64) -> Self {
        Self {
            place: Place::Others,
            code: PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            attempt: "keep apart all problems of this database".into(),
            reason: "there are too many; not listed".into(),
            count: Some(count),
            detail: None,
            hint: None,
        }
    }

    /// The problem as a line of the log.
    pub fn message(&self) -> String {
        let count = self.count.map_or(String::new(), |count| format!(": {count}"));
        format!("{}{}{count}", self.beginning(), self.reason)
    }

    fn beginning(&self) -> String {
        if self.attempt.is_empty() { String::new() } else { format!("could not {}: ", self.attempt) }
    }
}

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
mod tests {
    use super::*;

    fn problem(table: u32, text: &str) -> Problem {
        let table = pg_sys::Oid::from(table);
        let error = Error::MissingValue("value");
        let place = Place::JobTable { table, part: table };
        Problem { reason: text.into(), ..Problem::new(place, "settle jobs", &error) }
    }

    const DATABASE: pg_sys::Oid = pg_sys::Oid::INVALID;

    /// A boxed table, because it is large for a test's stack.
    fn empty() -> Box<Shared> {
        Box::default()
    }

    #[test]
    fn each_problem_is_news_by_itself_and_only_once() {
        let mut shared = empty();
        let met = |shared: &mut Shared, table, text| shared.meet(DATABASE, &problem(table, text), 1);
        assert_eq!(met(&mut shared, 1, "a"), Some(true));
        assert_eq!(met(&mut shared, 1, "a"), Some(false));
        assert_eq!(met(&mut shared, 2, "a"), Some(true));
        assert_eq!(met(&mut shared, 1, "a"), Some(false));
        assert_eq!(shared.of(DATABASE).map(|known| known.rounds).collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn a_problem_that_is_over_and_comes_back_is_news() {
        let mut shared = empty();
        shared.meet(DATABASE, &problem(1, "a"), 1);
        shared.end(DATABASE, &[], |place| place == Place::Flush);
        assert_eq!(shared.meet(DATABASE, &problem(1, "a"), 2), Some(false), "a flush did not look at it");
        shared.end(DATABASE, &[], |_| true);
        assert_eq!(shared.meet(DATABASE, &problem(1, "a"), 3), Some(true));
        assert_eq!(shared.of(DATABASE).next().map(|known| (known.since, known.rounds)), Some((3, 1)));
    }

    #[test]
    fn a_number_that_changes_is_no_news() {
        let mut shared = empty();
        let locked = |jobs| Problem::of_locked_jobs(pg_sys::Oid::from(1), "public.jobs", jobs);
        assert_eq!(shared.meet(DATABASE, &locked(3), 1), Some(true));
        assert_eq!(shared.meet(DATABASE, &locked(4), 600_000_000), Some(false));
        let text = shared.of(DATABASE).next().map(|known| known.message()).unwrap();
        assert!(text.ends_with("locked by other sessions: 4"), "{text}");
    }

    #[test]
    fn one_database_leaves_room_for_the_others() {
        let mut shared = empty();
        let told =
            (0..1_000).filter(|table| shared.meet(DATABASE, &problem(*table, "a"), 1).is_some()).count();
        assert_eq!(told, LIMIT - 1);
        assert_eq!(shared.meet(DATABASE, &Problem::of_others(745), 1), Some(true));
        assert_eq!(shared.meet(pg_sys::Oid::from(5), &problem(1, "a"), 1), Some(true));
        shared.end(DATABASE, &[], |_| true);
        assert_eq!(
            shared.meet(DATABASE, &problem(5_000, "a"), 2),
            Some(true),
            "in the place of one that is over"
        );
        assert_eq!(shared.of(DATABASE).count(), LIMIT);
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_its_reason_is_told_apart() {
        let mut shared = empty();
        shared.meet(DATABASE, &problem(1, &"ä".repeat(1_000)), 1);
        let known = shared.of(DATABASE).next().map(|known| *known).unwrap();
        assert!(known.message().starts_with("could not settle jobs: ä") && known.message().len() > TEXT - 2);
        assert!(known.reason().starts_with("ä") && !known.reason().contains('\u{fffd}'));
    }
}
