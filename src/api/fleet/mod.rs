//! Calls of an agent for the many workers of a host: [`heartbeats`] and [`registrations`]. Rows are written in a few
//! statements for all of them. Whoever needs more than that is dealt with alone, as by the call for one worker.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::owner;
use super::worker::{Call, check_hostname, check_worker_id};
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pg::{self, roles};
use crate::settings;
use crate::tables::heartbeats::HeartbeatTable;
use crate::tables::known::{Known, known};
use crate::tables::{incarnations, worker_owners};

pub mod heartbeats;
pub mod registrations;

/// Workers whose rows are written in one statement.
const BATCH: usize = 10_000;

/// So few are dealt with alone, by plans that are kept.
const FEW: usize = 10;

/// A batch that takes no longer has not waited.
const SOON: Duration = Duration::from_secs(1);

/// The same for one worker alone.
const SOON_FOR_ONE: Duration = Duration::from_millis(100);

/// What a call does for its workers.
trait Work<'a> {
    /// Writes the rows of many workers.
    fn of_many(&mut self, ids: &[&'a str], call: Call) -> Result<Vec<Answer>>;

    /// Deals with one alone. `is_new` says whether its row is there since [`of_many`](Self::of_many).
    fn of_one(&mut self, id: &'a str, is_new: bool, call: Call) -> Result<i64>;
}

/// How long a call for many may still wait. What is done soon is not counted: that is work, of which there may be much.
struct Patience(Duration);

impl Patience {
    fn run<T>(&mut self, soon: Duration, work: impl FnOnce(Call) -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let done = Call::within(self.0).run(work)?;
        let took = began.elapsed();
        if took > soon {
            self.0 = self.0.saturating_sub(took);
        }
        Ok(done)
    }
}

/// What becomes of a worker in a statement for many.
enum Answer {
    /// It is told this incarnation.
    Told(i64),
    /// It has to be dealt with alone.
    Alone {
        /// Whether its row is there since this statement.
        is_new: bool,
    },
}

/// The ids of an array, each of which is checked before anything is done for one of them.
fn checked<'a>(worker_ids: &[Option<&'a str>], hostname: Option<&str>) -> Result<Vec<&'a str>> {
    let heartbeats = HeartbeatTable::open(&Installation::of_caller()?)?;
    let mut ids = Vec::with_capacity(worker_ids.len());
    for worker_id in worker_ids {
        let id = worker_id.ok_or(Error::NullArgument("worker id"))?;
        check_worker_id(id, heartbeats.id_limit)?;
        ids.push(id);
    }
    check_hostname(hostname)?;
    Ok(ids)
}

/// Does the work for each of these workers, of whom some may be there twice. Returns what they are told.
fn tell<'a>(mut ids: Vec<&'a str>, work: &mut impl Work<'a>) -> Result<HashMap<&'a str, i64>> {
    // Rows are locked in the order of their ids, so that two agents do not wait for each other.
    ids.sort_unstable();
    ids.dedup();
    let mut told = HashMap::with_capacity(ids.len());
    let mut patience = Patience(settings::call_timeout());
    let mut alone = Vec::new();
    if ids.len() <= FEW {
        alone.extend(ids.drain(..).map(|id| (id, false)));
    }
    for batch in ids.chunks(BATCH) {
        let answers = patience.run(SOON, |call| work.of_many(batch, call))?;
        for (id, answer) in batch.iter().zip(answers) {
            match answer {
                Answer::Told(incarnation) => _ = told.insert(*id, incarnation),
                Answer::Alone { is_new } => alone.push((*id, is_new)),
            }
        }
        pg::check_for_interrupts();
    }
    for (id, is_new) in alone {
        told.insert(id, patience.run(SOON_FOR_ONE, |call| work.of_one(id, is_new, call))?);
        pg::check_for_interrupts();
    }
    Ok(told)
}

/// The worker's number among those that were told.
fn told_to(told: &HashMap<&str, i64>, id: &str) -> Result<i64> {
    told.get(id).copied().ok_or(Error::MissingValue("incarnation"))
}

/// Many workers whose rows are written in one statement, and the tables that serve them.
struct Rows<'a, 'b> {
    installation: Installation,
    heartbeats: HeartbeatTable,
    ids: &'b [&'a str],
}

/// What memory is to have of a worker.
struct Entry<'a> {
    id: &'a str,
    owner: Option<pg_sys::Oid>,
    incarnation: i64,
}

impl<'a, 'b> Rows<'a, 'b> {
    /// Refuses ids of other roles before anything is waited for.
    fn open(ids: &'b [&'a str]) -> Result<Self> {
        let installation = Installation::of_caller()?;
        let heartbeats = HeartbeatTable::open(&installation)?;
        if heartbeats.is_own && settings::isolate_roles() && !roles::is_superuser(roles::current()) {
            let noted = worker_owners::of_others(&installation, ids, roles::current())?;
            let noted: HashMap<String, Option<pg_sys::Oid>> = noted.into_iter().collect();
            for id in ids {
                owner::check(id, owner::remembered(id).or_else(|| noted.get(*id).copied().flatten()))?;
            }
        }
        Ok(Self { installation, heartbeats, ids })
    }

    /// Reads what is known of the workers, whose rows are locked, so that it stays true until this commits. Those in
    /// `new` have had no row before. The dead, and those for whom `is_alone` says so, are left out of `entries`.
    fn tell(
        &self,
        new: &HashSet<String>,
        is_alone: impl Fn(&str) -> bool,
        entries: &mut Vec<Entry<'a>>,
    ) -> Result<Vec<Answer>> {
        let numbers = incarnations::base_and_floor(&self.installation)?;
        let (mut unnoted, mut unowned, mut first) = (Vec::new(), Vec::new(), None);
        let mut answers = Vec::with_capacity(self.ids.len());
        let usual = (self.heartbeats.is_own && new.len() < self.ids.len()).then(roles::current);
        for (id, known) in self.ids.iter().zip(known(&self.installation, self.ids, usual)?) {
            let owner = if self.heartbeats.is_own { owner_of(id, &known) } else { None };
            owner::check(id, owner)?;
            let is_new = new.contains(*id);
            if known.dead || is_alone(id) {
                answers.push(Answer::Alone { is_new });
                continue;
            }
            let incarnation = incarnations::told(known.number, known.is_owned || !is_new, numbers, id)?;
            if incarnation != known.number.unwrap_or(1) {
                unnoted.push((*id, incarnation));
            }
            if self.heartbeats.is_own && owner.is_none() {
                first = first.or(Some(*id));
            }
            let owner = self.heartbeats.is_own.then(|| owner.unwrap_or_else(roles::current));
            if owner != known.owner {
                unowned.push((owner, *id, known.is_owned));
            }
            entries.push(Entry { id, owner, incarnation });
            answers.push(Answer::Told(incarnation));
        }
        incarnations::note_all(&self.installation, &unnoted)?;
        put_owners(&self.installation, &unowned)?;
        // All of them count by now.
        first.map_or(Ok(()), |id| {
            owner::check_number_of(&self.installation, &self.heartbeats, roles::current(), id)
        })?;
        Ok(answers)
    }
}

/// The role that an id belongs to: memory knows one that was renamed.
fn owner_of(id: &str, known: &Known) -> Option<pg_sys::Oid> {
    owner::remembered(id).or(known.owner)
}

/// Notes the owners of ids that had none, or another one by the table: then there is a row.
fn put_owners(installation: &Installation, owned: &[(Option<pg_sys::Oid>, &str, bool)]) -> Result<()> {
    let mut by_role: HashMap<(pg_sys::Oid, bool), Vec<&str>> = HashMap::new();
    for (owner, id, is_noted) in owned {
        owner.iter().for_each(|owner| by_role.entry((*owner, *is_noted)).or_default().push(id));
    }
    by_role.iter().try_for_each(|((role, is_noted), ids)| match is_noted {
        true => worker_owners::put_all(installation, ids, *role),
        false => worker_owners::add_all(installation, ids, *role),
    })
}
