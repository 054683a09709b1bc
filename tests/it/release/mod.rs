//! Versions: what a release consists of, and the ways from one to the next.

mod dependencies;
mod extension_update;
mod layers;
mod links;
mod messages;
mod metadata;
mod pg_config;
mod pg_upgrade;
mod recipes;
mod release_check;
mod update_from_0_2_0;
mod version_mismatch;

use std::path::Path;

/// The checkout.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
