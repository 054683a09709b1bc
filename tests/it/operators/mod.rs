//! What operators read, set and monitor.

mod documents;
mod health;
mod monitoring;
mod settings;
mod views;
