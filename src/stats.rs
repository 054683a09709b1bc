//! What operators read: the workers, and the numbers of each database. What is wrong is told by [`crate::health`].

pub mod databases;
pub mod workers;
