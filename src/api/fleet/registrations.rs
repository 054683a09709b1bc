//! Registrations of many workers: the new ones by one statement. Those who have a row, running jobs or jobs that a
//! queue has yet to settle are dealt with alone, and so are the dead.

use std::collections::HashSet;

use super::{Answer, Entry, Rows, Work, checked, tell, told_to};
use crate::api::worker::{Call, Caller, client_address, register_in_row, register_row};
use crate::error::Result;
use crate::jobs::session;
use crate::shmem::{buffer, buffer::ties};
use crate::sweep::death;
use crate::tables::unsettled_calls;

/// Registers these workers. Returns each id, in the same order, with its incarnation.
pub fn register_all(worker_ids: &[Option<&str>], hostname: Option<&str>) -> Result<Vec<(String, i64)>> {
    let ids = checked(worker_ids, hostname)?;
    let mut work = Registrations { hostname, entries: Vec::with_capacity(ids.len()) };
    let told = tell(ids.clone(), &mut work)?;
    // Not before: each worker that is closed keeps out the entries of its partition that wait for the commit.
    for entry in work.entries {
        buffer::add_at_commit(entry.id, hostname, entry.owner, entry.incarnation);
    }
    ids.into_iter().map(|id| Ok((id.to_owned(), told_to(&told, id)?))).collect()
}

struct Registrations<'a, 'h> {
    hostname: Option<&'h str>,
    entries: Vec<Entry<'a>>,
}

impl<'a> Work<'a> for Registrations<'a, '_> {
    fn of_many(&mut self, ids: &[&'a str], call: Call) -> Result<Vec<Answer>> {
        let rows = Rows::open(ids)?;
        let new = rows.heartbeats.insert_all(ids, self.hostname, client_address)?;
        let called = unsettled_calls::among(&rows.installation, &new)?;
        let found = session::busy(&rows.installation, &new, call.deadline())?;
        let busy: HashSet<&str> = found.workers.iter().chain(&called).map(String::as_str).collect();
        let begin = self.entries.len();
        let is_alone = |id: &str| !new.contains(id) || busy.contains(id);
        let answers = rows.tell(&new, is_alone, &mut self.entries)?;
        let told: Vec<&str> = self.entries.iter().skip(begin).map(|entry| entry.id).collect();
        for id in &told {
            buffer::close(id);
            ties::untie(id);
        }
        death::note_left(&rows.installation, &told, &found.left)?;
        Ok(answers)
    }

    fn of_one(&mut self, id: &'a str, is_new: bool, call: Call) -> Result<i64> {
        let caller = Caller::new(Some(id), self.hostname)?;
        let (incarnation, owner) = match is_new {
            true => register_in_row(&caller, true, call)?,
            false => register_row(&caller, call)?,
        };
        self.entries.push(Entry { id, owner, incarnation });
        Ok(incarnation)
    }
}
