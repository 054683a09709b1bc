//! The extension's tables, a module for each: statements and rows, no policy. Every statement runs with the rights of
//! the table's owner.

pub mod deaths;
pub mod heartbeats;
pub mod incarnations;
pub mod inheritance;
pub mod job_attempts;
pub mod job_queues;
pub mod job_table_oids;
pub mod job_tables;
pub mod known;
pub mod own;
pub mod tried_tables;
pub mod unsettled;
pub mod unsettled_calls;
pub mod worker_owners;
