//! How silent workers are found, and what a sweep does besides.

mod cancellation;
mod concurrent_sweeps;
mod databases;
mod held_snapshot;
mod mass_death;
mod notification;
mod problems;
mod progress;
mod protocol;
mod retention;
