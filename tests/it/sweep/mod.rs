//! How silent workers are found, and what a sweep does besides.

mod concurrent_sweeps;
mod databases;
mod mass_death;
mod notification;
mod progress;
mod protocol;
mod retention;
