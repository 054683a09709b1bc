//! The watched tables of jobs, and settling the running jobs of workers that are gone.
//!
//! A table is read and updated with its owner's rights. Everything is checked at each use: the owner may have
//! altered the table since it was watched. Which tables there are is in [`watched`], one of them in [`table`], what it
//! needs in [`columns`], the texts of the statements in [`statement`], all of them together in [`settle`].

pub mod columns;
pub mod fence;
pub mod settle;
pub mod statement;
pub mod table;
pub mod watched;

pub use columns::Columns;
pub use settle::Outcome;
pub use table::{JobTable, Settled};
