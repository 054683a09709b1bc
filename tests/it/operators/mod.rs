//! What operators read, set and monitor.

mod demo;
mod documents;
mod health;
mod monitoring;
mod runner;
mod settings;
mod top;
mod views;
