//! The calls into Postgres that need `unsafe`, each behind a safe name.
//!
//! Everything here runs in the one thread of a Postgres process. An ERROR of Postgres leaves these functions
//! as a panic that pgrx turns back into the ERROR: none of them returns half done.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ffi::CStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

pub mod advisory;
pub mod arrays;
pub mod attached;
pub mod catalog;
mod column;
pub mod commit;
pub mod constraints;
pub mod databases;
pub mod functions;
pub mod locks;
pub mod names;
pub mod notifications;
pub mod pages;
pub mod process;
pub mod referring;
mod relcache;
pub mod remembered;
pub mod report;
mod role_guard;
pub mod roles;
pub mod row_locks;
pub mod row_versions;
pub mod scanned;
pub mod scope;
pub mod search_path;
pub mod session_end;
pub mod sql;
pub mod stored_rows;
pub mod subscriptions;
mod syscache;
pub mod time_zones;
pub mod timer;
pub mod version;

#[cfg(any(test, feature = "pg_test"))]
mod pg_tests;

/// Microseconds between 1970-01-01 and 2000-01-01, where Postgres' timestamps start.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// The server's wall clock.
pub fn now() -> DateTime<Utc> {
    from_postgres(clock())
}

/// The server's wall clock, in Postgres' microseconds. It is the one that `clock_timestamp()` reads, and costs less
/// without the way through Postgres.
pub fn clock() -> i64 {
    let microseconds = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |time| -time),
    };
    microseconds.saturating_sub(POSTGRES_EPOCH)
}

/// The monotonic clock, counted from the same moment in all processes of the machine.
pub fn monotonic() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the call; every system that Postgres runs on has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
}

/// When this server was started.
pub fn server_started_at() -> DateTime<Utc> {
    // SAFETY: set once by the postmaster before any process that runs this code.
    from_postgres(unsafe { pg_sys::PgStartTime })
}

/// A time as Postgres counts it: microseconds since 2000-01-01.
pub fn from_postgres(timestamp: i64) -> DateTime<Utc> {
    let microseconds = timestamp.saturating_add(POSTGRES_EPOCH);
    let bound = if timestamp < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC };
    DateTime::from_timestamp_micros(microseconds).unwrap_or(bound)
}

/// The inverse of [`from_postgres`].
pub fn to_postgres(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros().saturating_sub(POSTGRES_EPOCH)
}

/// An SQL `timestamptz` as a time; the infinities become the first and the last time that chrono has.
pub fn time_of(timestamp: TimestampWithTimeZone) -> DateTime<Utc> {
    from_postgres(timestamp.into())
}

/// A time as an SQL `timestamptz`; `None` when it is out of its range.
pub fn timestamptz(time: DateTime<Utc>) -> Option<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(to_postgres(time)).ok()
}

/// Whether the library is being loaded by the postmaster, which alone can ask for shared memory.
pub fn is_preloading() -> bool {
    // SAFETY: a plain flag, written before and after the libraries are loaded.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Whether pg_upgrade started this server; nothing of ours may run then.
pub fn is_binary_upgrade() -> bool {
    // SAFETY: a plain flag, set on the command line.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Refuses, with Postgres' own errors, a command on a standby or in a read-only transaction.
pub fn prevent_unless_writable(command: &CStr) {
    // SAFETY: a plain flag of the transaction; set for every transaction that began during recovery.
    if !unsafe { pg_sys::XactReadOnly } {
        return;
    }
    // SAFETY: the name outlives the call. Recovery first: on a standby every transaction is read-only too.
    unsafe { pg_sys::PreventCommandDuringRecovery(command.as_ptr()) };
    // SAFETY: as above.
    unsafe { pg_sys::PreventCommandIfReadOnly(command.as_ptr()) };
}

/// The name of the table whose trigger makes this call; `None` for a call by hand.
#[allow(clippy::not_unsafe_ptr_arg_deref, reason = "an SQL function has it from PostgreSQL alone")]
pub fn triggering_table(call: pg_sys::FunctionCallInfo) -> Option<String> {
    // SAFETY: valid during the call; the context is null or a node.
    let context = unsafe { (*call).context.as_ref() }?;
    if context.type_ != pg_sys::NodeTag::T_TriggerData {
        return None;
    }
    // SAFETY: the tag says so.
    let trigger = unsafe { &*std::ptr::from_ref(context).cast::<pg_sys::TriggerData>() };
    // SAFETY: a trigger's relation is open during the call.
    catalog::name(unsafe { (*trigger.tg_relation).rd_id })
}

/// Whether this server is a standby.
pub fn is_standby() -> bool {
    // SAFETY: reads shared memory, nothing else.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// A setting of the server as text, whatever the rights of the current role; empty when there is none of that name.
pub fn setting(name: &CStr) -> String {
    // SAFETY: the name outlives the call; an unknown one gives null.
    let value = unsafe { pg_sys::GetConfigOption(name.as_ptr(), true, false) };
    if value.is_null() {
        return String::new();
    }
    // SAFETY: a terminated string that stays until the next call.
    unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned()
}

/// Makes Postgres warn about unknown settings that begin with this prefix.
pub fn reserve_setting_prefix(prefix: &'static CStr) {
    // SAFETY: the name is static.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) };
}

/// The database that this process is connected to.
pub fn current_database() -> pg_sys::Oid {
    // SAFETY: set when the process connected, never changed.
    unsafe { pg_sys::MyDatabaseId }
}

/// What a table's rows were written by, as text: the server, its timeline, the database and the table. A copy of the
/// table, and a server that went on from an earlier moment, have another one. Not on a standby.
pub fn origin(table: pg_sys::Oid) -> String {
    // SAFETY: read from the control file when the server was started.
    let server = unsafe { pg_sys::GetSystemIdentifier() };
    // SAFETY: fixed before recovery ends; callers write, so it has ended.
    let timeline = unsafe { pg_sys::GetWALInsertionTimeLine() };
    format!("{server}/{timeline}/{}/{}", current_database().to_u32(), table.to_u32())
}

/// Gives Postgres the chance to cancel the statement or end the process.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}
