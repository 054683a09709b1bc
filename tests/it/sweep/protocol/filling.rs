//! How memory is filled after a crash: each worker's row is read without a lock, at any time beside the others. Each
//! function makes the step and says whether it was possible.

use super::model::Protocol;
use super::state::{Entry, Fill, FillStep, State, Tie};

/// Notes the removals of the worker's partition.
pub fn begin(protocol: &Protocol, state: &mut State, worker: usize) -> bool {
    let this = &mut state.workers[worker];
    if !protocol.fills || state.crashes == 0 || this.fill.is_some() || this.entry.is_some() {
        return false;
    }
    this.fill = Some(Fill { step: FillStep::Marked, mark_holds: true, row: 0, incarnation: 0, dead: false });
    true
}

/// The next step.
pub fn go_on(protocol: &Protocol, state: &mut State, worker: usize) -> bool {
    let Some(fill) = state.workers[worker].fill else { return false };
    let next = match fill.step {
        FillStep::Marked if protocol.reads_ledger_last => look_for_locks(protocol, state, worker, fill),
        FillStep::Marked => Some(Fill { step: FillStep::Looked, ..read_ledger(state, worker, fill) }),
        FillStep::Looked if protocol.reads_ledger_last => Some(read_row(state, worker, fill)),
        FillStep::Looked => {
            look_for_locks(protocol, state, worker, fill).map(|fill| read_row(state, worker, fill))
        }
        FillStep::RowRead if protocol.reads_ledger_last => {
            Some(Fill { step: FillStep::LedgerRead, ..read_ledger(state, worker, fill) })
        }
        FillStep::RowRead => Some(Fill { step: FillStep::LedgerRead, ..fill }),
        FillStep::LedgerRead => {
            add(protocol, state, worker, fill);
            None
        }
    };
    state.workers[worker].fill = next;
    true
}

/// A row that is locked is left out.
fn look_for_locks(protocol: &Protocol, state: &State, worker: usize, fill: Fill) -> Option<Fill> {
    let is_left_out = protocol.skips_locked && protocol.row_is_locked(state, worker);
    (!is_left_out).then_some(Fill { step: FillStep::Looked, ..fill })
}

fn read_row(state: &State, worker: usize, fill: Fill) -> Fill {
    Fill { step: FillStep::RowRead, row: state.workers[worker].row, ..fill }
}

fn read_ledger(state: &State, worker: usize, fill: Fill) -> Fill {
    let this = &state.workers[worker];
    Fill { incarnation: this.deaths + 1, dead: this.dead, ..fill }
}

fn add(protocol: &Protocol, state: &mut State, worker: usize, fill: Fill) {
    let this = &mut state.workers[worker];
    let may_add = !fill.dead && (fill.mark_holds || !protocol.marks_fills);
    if may_add && this.entry.is_none() {
        let Fill { row, incarnation, .. } = fill;
        this.entry = Some(Entry { beat_at: row, written: row, incarnation, closed: false, tie: Tie::None });
        this.was_filled = true;
    }
}
