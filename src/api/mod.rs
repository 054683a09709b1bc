//! The SQL functions, each in the file of its subject. They check their arguments and return values or rows; the layers
//! below do the work. A caller's role needs EXECUTE and nothing else: tables are read and written as their owners.

pub mod attach;
pub mod fence;
mod fleet;
mod former;
pub mod health;
pub mod installed;
mod memory;
pub mod owner;
pub mod rehearse;
pub mod sweep;
pub mod views;
pub mod watch;
pub mod watch_queue;
pub mod worker;
