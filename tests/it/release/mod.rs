//! Versions: what a release consists of, and the ways from one to the next.

mod archived_scripts;
mod dependencies;
mod extension_update;
mod layers;
mod links;
mod messages;
mod metadata;
mod pg_config;
mod pg_upgrade;
mod recipes;
mod version_mismatch;
