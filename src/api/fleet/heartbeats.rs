//! Heartbeats of many workers: those in memory one by one, the others by their rows.

use super::{Answer, Rows, Work, checked, tell, told_to};
use crate::api::memory;
use crate::api::worker::{Call, beat_in_row, client_address};
use crate::error::Result;
use crate::shmem::{buffer, counters, databases};
use crate::sweep::requests;
use crate::tables::unsettled_calls;

/// The heartbeats of these workers. Returns their incarnations.
pub fn beat_all(worker_ids: &[Option<&str>], hostname: Option<&str>) -> Result<Vec<i64>> {
    let ids = checked(worker_ids, hostname)?;
    let mut incarnations = vec![None; ids.len()];
    memory::beat_all(&ids, &mut incarnations, hostname);
    let unknown = ids.iter().zip(&incarnations).filter(|(_, known)| known.is_none());
    let unknown = unknown.map(|(id, _)| *id).collect();
    let told = tell(unknown, &mut Heartbeats { hostname })?;
    let told = |id: &str| told_to(&told, id);
    ids.into_iter().zip(incarnations).map(|(id, known)| known.map_or_else(|| told(id), Ok)).collect()
}

struct Heartbeats<'h> {
    hostname: Option<&'h str>,
}

impl<'a> Work<'a> for Heartbeats<'_> {
    fn of_many(&mut self, ids: &[&'a str], call: Call) -> Result<Vec<Answer>> {
        let rows = Rows::open(ids)?;
        let new = rows.heartbeats.beat_all(ids, self.hostname, client_address)?;
        databases::count(|state| state.heartbeats_in_row += counters::number(ids.len()));
        let mut entries = Vec::with_capacity(ids.len());
        let answers = rows.tell(&new, |_| false, &mut entries)?;
        for entry in entries {
            buffer::add_at_commit(entry.id, self.hostname, entry.owner, entry.incarnation);
        }
        // Their jobs would be taken for those of earlier ones, which left.
        for id in unsettled_calls::among(&rows.installation, &new)? {
            requests::settle_by_sweeper(&rows.installation, &id, call.deadline())?;
        }
        Ok(answers)
    }

    fn of_one(&mut self, id: &'a str, _: bool, call: Call) -> Result<i64> {
        beat_in_row(Some(id), self.hostname, call)
    }
}
