//! Starts, stops, crashes, copies and clocks of servers.

mod clocks;
mod connection_slots;
mod dump_restore;
mod failover;
mod launcher;
mod logical_replication;
mod lost_history;
mod neighbours;
mod patroni;
mod shutdown;
mod standby;
mod torture_checker;
mod torture_plan;
mod without_preload;
