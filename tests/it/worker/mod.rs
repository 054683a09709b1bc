//! What workers call and are told, and where their heartbeats are kept.

mod attached;
mod concurrency;
mod encodings;
mod heartbeat_table;
mod incarnations;
mod lifecycle;
mod local_time;
mod many_at_once;
mod memory;
mod pooler;
mod python_workers;
mod registered_at_once;
mod session_memory;
mod story;
