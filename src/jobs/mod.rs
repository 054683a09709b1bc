//! The watched tables of jobs, and settling the running jobs of workers that are gone.
//!
//! A table is read and updated with its owner's rights. Everything is checked at each use: the owner may have altered
//! the table since it was watched. [`watched`] says which tables there are, [`entries`] which table a name means,
//! [`table`] is one of them, [`columns`] has what it needs, [`attempts`] counts, [`statement`] has the texts of the
//! statements, [`changes`] runs them, [`settle`] works on all tables together, [`elsewhere`] on one whose rows are not
//! here, [`quick_look`] tells where nothing runs, and [`rehearsal`] tries one of them. [`settlers`] are queues whose
//! jobs are settled by a call, [`queues`] those that are known by name.

mod afterwards;
pub mod attempts;
mod changes;
pub mod columns;
mod counter;
mod elsewhere;
pub mod entries;
pub mod fence;
pub mod following;
mod new_values;
mod parts;
pub mod pauses;
#[cfg(any(test, feature = "pg_test"))]
mod pg_tests;
pub mod queues;
pub mod quick_look;
pub mod rehearsal;
mod rows;
pub mod session;
pub mod settle;
pub mod settler;
pub mod settlers;
pub mod statement;
pub mod table;
pub mod unsettled;
mod wake;
pub mod watched;
mod worker_column;
mod worker_ids;
mod writes;

pub use columns::Columns;
pub use settle::{LeftBehind, Outcome, RefusedJob};
pub use table::{JobTable, SettledJobs};
