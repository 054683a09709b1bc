//! Heartbeats in shared memory, written to their rows a little later.
//!
//! A heartbeat of a known, living worker is one store into one entry, under a shared lock: no row, no WAL, no
//! transaction id. The entry is made when the transaction of the worker's first heartbeat has committed. It is closed
//! or removed as soon as a session that holds the lock on the worker's row is about to give the worker up: from then on
//! the worker's heartbeats go to the row and wait there. So an open entry says that the worker is alive and which
//! incarnation it has. Used by backends and sweepers; the launcher asks which databases have heartbeats to write.
//!
//! The structure and its locks are described in [`mod@table`]. Nothing here calls Postgres while a lock is held.
#![allow(unsafe_code, reason = "shared memory of our own")]

use std::collections::HashMap;
use std::ffi::CStr;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};

use chrono::{DateTime, Utc};
use pgrx::shmem::PgSharedMemoryInitialization;
use pgrx::{pg_guard, pg_sys};

use crate::pg::{self, catalog, commit, roles};
use crate::settings;

pub mod filling;
pub mod table;
pub mod ties;

use table::{
    ANY_ROLE, Entry, Header, Key, Locks, PARTITIONS, Partition, PendingHeartbeat, Slot, Table, Tail, Tie,
    buckets_for,
};

const NAME: &CStr = c"rgrid_heartbeat_buffer";

/// The block of shared memory: header, buckets, slots, tails, ties, one behind the other.
struct Buffer;

/// The table; null when the library was not preloaded. Written before any process is forked.
static TABLE: AtomicPtr<Table<'static, LwLocks>> = AtomicPtr::new(std::ptr::null_mut());

/// The first of the locks, an array of [`PARTITIONS`] and one for the free list.
static LOCKS: AtomicPtr<pg_sys::LWLockPadded> = AtomicPtr::new(std::ptr::null_mut());

static BUFFER: Buffer = Buffer;

/// Asks for the shared memory. Only while the library is being preloaded.
pub fn request() {
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

    fn tails_offset() -> usize {
        Self::slots_offset() + settings::max_workers() * size_of::<Slot>()
    }

    fn ties_offset() -> usize {
        Self::tails_offset() + settings::max_workers() * size_of::<Tail>()
    }

    fn size() -> usize {
        Self::ties_offset() + settings::max_workers() * size_of::<Tie>()
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
            // SAFETY: the block is that long, and no process uses it yet.
            unsafe { block.write_bytes(0, Self::size()) };
            // SAFETY: the block begins with the header, which is all zeroes, and Postgres aligns it to cache lines.
            unsafe { &*block.cast::<Header>() }.set_seed(RandomState::new().hash_one(0));
        }
        // SAFETY: requested above.
        LOCKS.store(unsafe { pg_sys::GetNamedLWLockTranche(NAME.as_ptr()) }, Relaxed);
        // SAFETY: the block is in place. Never freed: after a crash, the postmaster makes another one.
        TABLE.store(Box::into_raw(Box::new(unsafe { table_over(block) })), Relaxed);
    }
}

/// # Safety
///
/// The block was made by [`Buffer`], for as many workers as the setting says.
unsafe fn table_over(block: *mut u8) -> Table<'static, LwLocks> {
    // SAFETY: the block begins with the header, lives as long as the server, and everything in it is atomic.
    let header = unsafe { &*block.cast::<Header>() };
    let count = settings::max_workers();
    // SAFETY: as above; the size was fixed when the block was made, and so was the setting.
    let buckets = unsafe {
        std::slice::from_raw_parts(
            block.add(Buffer::buckets_offset()).cast::<AtomicU32>(),
            buckets_for(count),
        )
    };
    // SAFETY: as above, and the offset is aligned, as Postgres aligned the block.
    let slots =
        unsafe { std::slice::from_raw_parts(block.add(Buffer::slots_offset()).cast::<Slot>(), count) };
    // SAFETY: as above.
    let tails =
        unsafe { std::slice::from_raw_parts(block.add(Buffer::tails_offset()).cast::<Tail>(), count) };
    // SAFETY: as above.
    let ties = unsafe { std::slice::from_raw_parts(block.add(Buffer::ties_offset()).cast::<Tie>(), count) };
    Table::new(header, buckets, slots, (tails, ties), LwLocks)
}

/// The partitions' locks in shared memory.
struct LwLocks;

unsafe extern "C-unwind" {
    // Declared here because pgrx's own declarations are wrappers that prepare for an error, which takes longer than the
    // lock. An error in these would be a longjmp through Rust. They raise one only when a process holds 200 locks, or
    // releases one that it does not hold: a guard releases what it acquired, and guards are never nested deeper than
    // two, that of the free list in that of a partition.
    fn LWLockAcquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> bool;
    fn LWLockRelease(lock: *mut pg_sys::LWLock);
}

/// The number of a lock in the array of [`PARTITIONS`] and one more.
#[derive(Clone, Copy)]
struct LockNumber(usize);

impl LockNumber {
    const FREE_LIST: Self = Self(PARTITIONS);

    fn of(partition: Partition) -> Self {
        Self(partition.number())
    }
}

/// An LWLock that is held until this is dropped.
struct LwLockGuard(*mut pg_sys::LWLock);

impl LwLockGuard {
    fn acquire(number: LockNumber, mode: pg_sys::LWLockMode::Type) -> Self {
        // SAFETY: the number is within the array, and a table is only made when that exists.
        let lock = unsafe { &raw mut (*LOCKS.load(Relaxed).add(number.0)).lock };
        // SAFETY: a valid lock, released by `drop`. Nothing that can fail is called in between.
        unsafe { LWLockAcquire(lock, mode) };
        Self(lock)
    }
}

impl Drop for LwLockGuard {
    fn drop(&mut self) {
        // SAFETY: acquired when this was made, and nothing has released it since.
        unsafe { LWLockRelease(self.0) };
    }
}

impl Locks for LwLocks {
    type Guard = LwLockGuard;
    fn shared(&self, partition: Partition) -> LwLockGuard {
        LwLockGuard::acquire(LockNumber::of(partition), pg_sys::LWLockMode::LW_SHARED)
    }
    fn exclusive(&self, partition: Partition) -> LwLockGuard {
        LwLockGuard::acquire(LockNumber::of(partition), pg_sys::LWLockMode::LW_EXCLUSIVE)
    }
    fn free_list(&self) -> LwLockGuard {
        LwLockGuard::acquire(LockNumber::FREE_LIST, pg_sys::LWLockMode::LW_EXCLUSIVE)
    }
}

/// The table; `None` when the library was not preloaded.
fn table() -> Option<&'static Table<'static, LwLocks>> {
    // SAFETY: null, or made when the server started and never freed.
    unsafe { TABLE.load(Relaxed).as_ref() }
}

/// The key of a worker of the current database; `None` when its id is too long.
fn key(id: &str) -> Option<Key> {
    Key::new(pg::current_database().to_u32(), id)
}

/// Takes a heartbeat of a worker of the current database and returns its incarnation; `None` when the heartbeat has to
/// be written to its row: the worker is not known here, names another host than before, may have been given up, or is
/// another role's.
pub fn beat(id: &str, hostname: Option<&str>) -> Option<i64> {
    let (table, key) = (table()?, key(id)?);
    let hostname = hostname.map(|hostname| table.hash_hostname(hostname));
    let now = pg::clock();
    let caller = roles::current().to_u32();
    // A member and a superuser may use the id of another role. Rights are looked up when no lock is held.
    let may_use = |owner: u32| !settings::isolate_roles() || catalog::is_mine(owner.into());
    let as_owner = || {
        let owner = table.owner(&key).filter(|owner| *owner != caller && may_use(*owner))?;
        table.beat(&key, hostname, owner, now)
    };
    table.beat(&key, hostname, caller, now).or_else(as_owner)
}

/// The role that the id of a worker of the current database belongs to, as far as is known here.
pub fn owner(id: &str) -> Option<pg_sys::Oid> {
    table()?.owner(&key(id)?).map(pg_sys::Oid::from)
}

/// When a worker of the current database last sent a heartbeat, as far as is known here.
pub fn beat_at(id: &str) -> Option<DateTime<Utc>> {
    table()?.beat_at(&key(id)?).map(pg::from_postgres)
}

/// Sets the last heartbeat of a worker of the current database to `now` if it is later than `limit`.
pub fn clamp_to_now(id: &str, limit: DateTime<Utc>, now: DateTime<Utc>) {
    if let Some((table, key)) = table().zip(key(id)) {
        table.clamp(&key, pg::to_postgres(limit), pg::to_postgres(now));
    }
}

/// Makes an entry for a worker once the current transaction has committed. The caller holds the lock on the worker's
/// row, and the worker is alive. Without an owner, the id is every role's.
pub fn add_at_commit(id: &str, hostname: Option<&str>, owner: Option<pg_sys::Oid>, incarnation: i64) {
    let Some(table) = table() else { return };
    let Some(key) = key(id) else { return table.refuse() };
    let generation = table.generation(&key);
    let beat_at = pg::clock();
    let hostname = hostname.map_or(0, |hostname| table.hash_hostname(hostname));
    let owner = owner.map_or(ANY_ROLE, pg_sys::Oid::to_u32);
    commit::at_commit(move || table.add(&key, Entry { beat_at, incarnation, hostname, owner }, generation));
}

/// Sends a worker's heartbeats to its row from here on. The caller holds the lock on the row, and may give the worker
/// up.
pub fn close(id: &str) {
    if let Some((table, key)) = table().zip(key(id)) {
        table.close(&key);
    }
}

/// Removes a worker's entry once the current transaction has committed.
pub fn remove_at_commit(id: &str) {
    if let Some((table, key)) = table().zip(key(id)) {
        commit::at_commit(move || table.remove(&key));
    }
}

/// Removes a worker's entry: its heartbeats go to its row from here on.
pub fn remove(id: &str) {
    if let Some((table, key)) = table().zip(key(id)) {
        table.remove(&key);
    }
}

/// Removes a worker's entry unless the worker has sent a heartbeat since the cutoff; returns whether it has no entry
/// any more. The caller holds the lock on the worker's row.
pub fn remove_silent(id: &str, cutoff: DateTime<Utc>) -> bool {
    match table().zip(key(id)) {
        Some((table, key)) => table.remove_silent(&key, pg::to_postgres(cutoff)),
        None => true,
    }
}

/// Forgets the workers of the current database that have sent no heartbeat since the cutoff and whose rows say so: a
/// worker whose row was deleted would otherwise keep its place forever.
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

/// The heartbeats of the current database that are not in their rows yet.
pub fn unwritten() -> impl Iterator<Item = PendingHeartbeat> {
    table().into_iter().flat_map(|table| table.unwritten(pg::current_database().to_u32()))
}

/// How long workers of the current database had been silent at a moment, in microseconds: of the first `wanted`
/// workers, those that have sent a heartbeat since, and one before it after `begin`.
pub fn silences(begin: DateTime<Utc>, moment: DateTime<Utc>, wanted: usize) -> Vec<i64> {
    let (begin, moment) = (pg::to_postgres(begin), pg::to_postgres(moment));
    let silences =
        |table: &Table<'_, LwLocks>| table.silences(pg::current_database().to_u32(), begin, moment, wanted);
    table().map(silences).unwrap_or_default()
}

/// How many workers of each database have an entry.
pub fn entries() -> HashMap<pg_sys::Oid, u64> {
    let entries = table().map(|table| table.entries()).unwrap_or_default();
    entries.into_iter().map(|(database, count)| (database.into(), count)).collect()
}

/// Records that heartbeats are in their rows.
pub fn written<'a>(heartbeats: impl IntoIterator<Item = &'a PendingHeartbeat>) {
    if let Some(table) = table() {
        heartbeats.into_iter().for_each(|heartbeat| table.written(heartbeat));
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
