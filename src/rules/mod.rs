//! The rules, in plain Rust: no PostgreSQL, no clock, no unsafe code, nothing of this crate.
//!
//! "Now" is always an argument, so every rule about time is tested without waiting.
#![forbid(unsafe_code)]

pub mod assignment;
pub mod bisection;
pub mod disconnection;
pub mod hearing;
pub mod intervals;
pub mod liveness;
pub mod local_time;
pub mod losses;
pub mod news;
pub mod schedule;
pub mod spelling;
pub mod text;
pub mod throttle;
