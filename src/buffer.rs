//! Heartbeats in shared memory, written to their rows a little later.
//!
//! A heartbeat of a known, living worker is one store into one entry, under a shared lock: no row, no WAL, no
//! transaction id. The entry is made when the transaction of the worker's first heartbeat has committed, and taken
//! out as soon as somebody who holds the lock on the worker's row is about to give the worker up: from then on its
//! heartbeats go to the row and wait there. So an entry says that the worker is alive and which incarnation it has.
//! Used by backends and sweepers; the launcher asks where there is something to write.
//!
//! The structure and its locks are described in [`table`]. Nothing here calls Postgres while a lock is held.
#![allow(unsafe_code, reason = "shared memory of our own")]

use std::ffi::CStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};

use chrono::{DateTime, Utc};
use pgrx::shmem::PgSharedMemoryInitialization;
use pgrx::{pg_guard, pg_sys};

use crate::pg::{self, scope};
use crate::settings;

pub mod table;

use table::{Entry, Header, Key, Locks, PARTITIONS, Slot, Table, buckets_for};

const NAME: &CStr = c"rgrid_heartbeat_buffer";

/// The block of shared memory: header, buckets, slots, one behind the other.
struct Buffer;

/// Where the block begins; null when the library was not preloaded. Written before any process is forked.
static BLOCK: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

/// The first of the locks, an array of [`PARTITIONS`] and one for the free list.
static LOCKS: AtomicPtr<pg_sys::LWLockPadded> = AtomicPtr::new(std::ptr::null_mut());

static BUFFER: Buffer = Buffer;

/// Asks for the shared memory. Only while the library is being preloaded.
pub fn request_shared_memory() {
    pgrx::pg_shmem_init!(BUFFER = ());
}

impl Buffer {
    fn buckets_offset() -> usize {
        size_of::<Header>()
    }

    fn slots_offset() -> usize {
        let end = Self::buckets_offset() + buckets_for(settings::max_workers()) * size_of::<AtomicU32>();
        end.next_multiple_of(align_of::<Slot>())
    }

    fn size() -> usize {
        Self::slots_offset() + settings::max_workers() * size_of::<Slot>()
    }
}

impl PgSharedMemoryInitialization for Buffer {
    type Value = ();

    unsafe fn on_shmem_request(&'static self) {
        // SAFETY: called in the shmem_request_hook.
        unsafe { pg_sys::RequestAddinShmemSpace(Self::size()) };
        // SAFETY: as above; the name is static. One lock a partition and one for the free list.
        unsafe { pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), PARTITIONS as i32 + 1) };
    }

    unsafe fn on_shmem_startup(&'static self, (): ()) {
        let mut found = false;
        // SAFETY: called in the shmem_startup_hook, by the postmaster alone: no lock is needed yet.
        let block = unsafe { pg_sys::ShmemInitStruct(NAME.as_ptr(), Self::size(), &mut found) }.cast::<u8>();
        if !found {
            // SAFETY: the block is that long, and nobody uses it yet.
            unsafe { block.write_bytes(0, Self::size()) };
        }
        // SAFETY: requested above.
        LOCKS.store(unsafe { pg_sys::GetNamedLWLockTranche(NAME.as_ptr()) }, Relaxed);
        BLOCK.store(block, Relaxed);
    }
}

/// The partitions' locks in shared memory.
struct LwLocks;

/// An LWLock that is held until this is dropped.
struct LwLockGuard(*mut pg_sys::LWLock);

impl LwLockGuard {
    fn acquire(number: usize, mode: pg_sys::LWLockMode::Type) -> Self {
        // SAFETY: the array has a lock of this number, and a table is only made when it exists.
        let lock = unsafe { &raw mut (*LOCKS.load(Relaxed).add(number)).lock };
        // SAFETY: a valid lock, released by `drop`. Nothing that can fail is called in between.
        unsafe { pg_sys::LWLockAcquire(lock, mode) };
        Self(lock)
    }
}

impl Drop for LwLockGuard {
    fn drop(&mut self) {
        // SAFETY: acquired when this was made, and nothing has released it since.
        unsafe { pg_sys::LWLockRelease(self.0) };
    }
}

impl Locks for LwLocks {
    type Guard = LwLockGuard;
    fn shared(&self, partition: usize) -> LwLockGuard {
        LwLockGuard::acquire(partition, pg_sys::LWLockMode::LW_SHARED)
    }
    fn exclusive(&self, partition: usize) -> LwLockGuard {
        LwLockGuard::acquire(partition, pg_sys::LWLockMode::LW_EXCLUSIVE)
    }
    fn free_list(&self) -> LwLockGuard {
        LwLockGuard::acquire(PARTITIONS, pg_sys::LWLockMode::LW_EXCLUSIVE)
    }
}

/// The table; `None` when the library was not preloaded.
fn table() -> Option<Table<'static, LwLocks>> {
    let block = BLOCK.load(Relaxed);
    if block.is_null() {
        return None;
    }
    // SAFETY: the block begins with the header, lives as long as the server, and everything in it is atomic.
    let header = unsafe { &*block.cast::<Header>() };
    let count = buckets_for(settings::max_workers());
    // SAFETY: as above; the size was fixed when the server started, and so was the setting.
    let buckets =
        unsafe { std::slice::from_raw_parts(block.add(Buffer::buckets_offset()).cast::<AtomicU32>(), count) };
    // SAFETY: as above, and the offset is aligned.
    let slots = unsafe {
        std::slice::from_raw_parts(block.add(Buffer::slots_offset()).cast::<Slot>(), settings::max_workers())
    };
    Some(Table::new(header, buckets, slots, LwLocks))
}

/// The key of a worker of the present database; `None` when its id is too long.
fn key(id: &str) -> Option<Key> {
    Key::new(pg::current_database().to_u32(), id)
}

fn hash(hostname: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hostname.hash(&mut hasher);
    hasher.finish()
}

/// Takes a heartbeat of a worker of the present database and answers its incarnation; `None` when it has to be
/// written to its row: the worker is not known here, names another host than before, or was given up.
pub fn beat(id: &str, hostname: Option<&str>) -> Option<i64> {
    let table = table()?;
    let now = pg::to_postgres(pg::now());
    table.beat(&key(id)?, hostname.map(hash), now)
}

/// When a worker of the present database last beat, as far as is known here.
pub fn beat_at(id: &str) -> Option<DateTime<Utc>> {
    table()?.beat_at(&key(id)?).map(pg::from_postgres)
}

/// Has a worker of the present database whose last heartbeat is later than `limit` have beaten `now`.
pub fn pull_back(id: &str, limit: DateTime<Utc>, now: DateTime<Utc>) {
    if let Some((table, key)) = table().zip(key(id)) {
        table.pull_back(&key, pg::to_postgres(limit), pg::to_postgres(now));
    }
}

/// Makes an entry for a worker once the present transaction has committed. Its row is locked, and says that it
/// is alive.
pub fn add_at_commit(id: &str, hostname: Option<&str>, incarnation: i64) {
    let Some(table) = table() else { return };
    let Some(key) = key(id) else { return table.refuse() };
    let mark = table.mark(&key);
    let beat_at = pg::to_postgres(pg::now());
    let hostname = hostname.map_or(0, hash);
    scope::at_commit(move || table.add(&key, Entry { beat_at, incarnation, hostname }, mark));
}

/// Has a worker's heartbeats go to its row from here on. Its row is locked, and it may be given up.
pub fn close(id: &str) {
    if let Some((table, key)) = table().zip(key(id)) {
        table.close(&key);
    }
}

/// Takes a worker's entry out once the present transaction has committed.
pub fn remove_at_commit(id: &str) {
    if let Some((table, key)) = table().zip(key(id)) {
        scope::at_commit(move || table.remove(&key));
    }
}

/// Takes a worker's entry out: its heartbeats go to its row from here on. Its row is locked.
pub fn remove(id: &str) {
    if let Some((table, key)) = table().zip(key(id)) {
        table.remove(&key);
    }
}

/// Takes a worker's entry out unless it has beaten since the cutoff; whether it has no entry any more.
pub fn remove_silent(id: &str, cutoff: DateTime<Utc>) -> bool {
    match table().zip(key(id)) {
        Some((table, key)) => table.remove_silent(&key, pg::to_postgres(cutoff)),
        None => true,
    }
}

/// Forgets the workers of the present database who have not beaten since the cutoff and whose rows say so: a worker
/// whose row was deleted would otherwise keep its place for ever.
pub fn forget_silent(cutoff: DateTime<Utc>) {
    if let Some(table) = table() {
        table.forget_silent(pg::current_database().to_u32(), pg::to_postgres(cutoff));
    }
}

/// Forgets the workers of a database.
pub fn forget(database: pg_sys::Oid) {
    if let Some(table) = table() {
        table.retain(|other| other != database.to_u32());
    }
}

/// The databases in which there are heartbeats to write.
pub fn unwritten_databases() -> Vec<pg_sys::Oid> {
    let databases = table().map(|table| table.unwritten_databases()).unwrap_or_default();
    databases.into_iter().map(pg_sys::Oid::from).collect()
}

/// A heartbeat that is not in its row yet.
pub struct Unwritten {
    key: Key,
    beat_at: i64,
}

impl Unwritten {
    /// The worker's id.
    pub fn id(&self) -> String {
        self.key.id()
    }

    /// When it beat.
    pub fn beat_at(&self) -> DateTime<Utc> {
        pg::from_postgres(self.beat_at)
    }
}

/// The heartbeats of the present database that are not in their rows yet.
pub fn unwritten() -> Vec<Unwritten> {
    let Some(table) = table() else { return Vec::new() };
    let heartbeats = table.unwritten(pg::current_database().to_u32());
    heartbeats.into_iter().map(|(key, beat_at)| Unwritten { key, beat_at }).collect()
}

/// Takes note that heartbeats are in their rows.
pub fn written<'a>(heartbeats: impl IntoIterator<Item = &'a Unwritten>) {
    let Some(table) = table() else { return };
    for heartbeat in heartbeats {
        table.written(&heartbeat.key, heartbeat.beat_at);
    }
}

/// Forgets the workers of all databases but these.
pub fn retain(databases: &[pg_sys::Oid]) {
    if let Some(table) = table() {
        table.retain(|database| databases.contains(&database.into()));
    }
}

/// How often, since the server started, a heartbeat left no entry: too many workers, or too long an id.
pub fn refused() -> u64 {
    table().map_or(0, |table| table.refused())
}
