//! What `CREATE EXTENSION` and an update set off. Runs in the session that does it.

use pgrx::prelude::*;

use crate::pg::{self, commit};
use crate::shmem::{buffer, observation, problems, quarantine};

/// The last statement of the extension's script; it drops this function again.
///
/// When the script's transaction commits, silence starts to count, no worker and no problem of an earlier installation
/// is known any more, and the launcher looks at the database.
#[pg_extern]
fn rgrid_installed() {
    commit::at_commit(|| {
        let database = pg::current_database();
        buffer::forget(database);
        problems::forget(database);
        quarantine::forget(database);
        observation::installed(pg::now());
    });
}
