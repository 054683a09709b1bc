//! The two processes: the launcher, which starts a sweeper in each database when it is due, and the sweeper.

pub mod launcher;
pub mod sweeper;
