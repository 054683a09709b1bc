//! What `CREATE EXTENSION` and an update start. Runs in the session that does it.

use pgrx::prelude::*;

use crate::pg::{self, commit};
use crate::shmem::{self, observation};

/// Called at the end of the extension's scripts, which then drop this function.
///
/// When the script's transaction commits, silence starts to count, memory forgets the workers and problems of an
/// earlier installation, and the launcher looks at the database.
#[pg_extern]
fn rgrid_installed() {
    commit::at_commit(|| {
        shmem::forget_installation(pg::current_database());
        observation::installed(pg::now());
    });
}
