//! What processes share. Everything here has a fixed size and is requested while the library is being preloaded. A
//! crash of the server empties it: nothing of it has to survive.
//!
//! Each module has locks of its own, and no two modules' locks are held together. No SPI, no memory context, no error
//! of PostgreSQL under a lock: copy out, release, then work.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

pub mod buffer;
pub mod connections;
pub mod counters;
pub mod databases;
pub mod launcher;
pub mod lost_sessions;
pub mod observation;
pub mod problems;
pub mod quarantine;
pub mod refusal;
pub mod requests;
pub mod subscriptions;

/// Whether this server was started with the library preloaded; written once, before any process is forked.
static PRELOADED: AtomicBool = AtomicBool::new(false);

/// Asks for the shared memory. Only while the library is being preloaded.
pub fn request() {
    launcher::request();
    connections::request();
    databases::request();
    problems::request();
    quarantine::request();
    requests::request();
    buffer::request();
    PRELOADED.store(true, Relaxed);
}

/// Moves those of the first `used` entries that are kept to the beginning, and returns how many they are.
fn retain<T: Copy>(entries: &mut [T], used: usize, is_kept: impl Fn(&T) -> bool) -> usize {
    let mut kept = 0;
    for index in 0..used {
        if is_kept(&entries[index]) {
            entries[kept] = entries[index];
            kept += 1;
        }
    }
    kept
}

/// Forgets all that is known of a database. It was dropped, and a new one may get its OID before the launcher looks.
pub fn forget(database: pgrx::pg_sys::Oid) {
    databases::forget(database);
    forget_installation(database);
}

/// Forgets the workers, problems and tables of the extension in a database.
pub fn forget_installation(database: pgrx::pg_sys::Oid) {
    buffer::forget(database);
    problems::forget(database);
    quarantine::forget(database);
}

/// Whether there are shared memory and a launcher.
pub fn is_preloaded() -> bool {
    PRELOADED.load(Relaxed)
}
