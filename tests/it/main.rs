//! All tests but the torture, in one crate, which is compiled and linked once. Most start servers of their own.
//!
//! A folder a subject: `worker`, `sweep`, `jobs`, `security`, `server_life`, `release`, `operators`,
//! `clients`, `queues`. `cluster` starts servers and plays workers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod clients;
mod cluster;
mod jobs;
mod operators;
mod queues;
mod release;
mod security;
mod server_life;
mod sweep;
mod worker;
