//! What a background worker needs: registration, signals, its latch, what `pg_stat_activity` shows of it.
#![allow(unsafe_code, reason = "the only way to call Postgres")]

use std::ffi::{CStr, CString};
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::{pg_guard, pg_sys};

use super::version;

/// The library's name in `shared_preload_libraries`, from which workers are started.
const LIBRARY: &str = "rgrid_heartbeat";

/// What sweepers are called in `pg_stat_activity`. Here, because the health checks ask for it, too.
pub const SWEEPER: &str = "rgrid_heartbeat sweeper";

/// A background worker's name and type end before this many bytes.
const NAME_LENGTH: usize = pg_sys::BGW_MAXLEN as usize - 1;

unsafe extern "C-unwind" {
    // Declared here because pgrx's own declarations are wrappers, and a signal handler must be the C function.
    fn die(signal: i32);
    fn SignalHandlerForConfigReload(signal: i32);
}

/// A process's latch: what `WaitLatch` sleeps on and other processes set to wake it.
///
/// Lives in shared memory for as long as the server runs. When the process ends, the next one that takes its place in
/// the array of processes owns the latch.
#[derive(Clone, Copy)]
pub struct Latch(*mut pg_sys::Latch);

// SAFETY: only ever points at a latch of the fixed array of processes, which all processes share and any of them may
// set. It may belong to another process by now, which is harmless: every wait loop expects to be woken for no reason.
unsafe impl Send for Latch {}

impl Latch {
    /// No process's latch; setting it does nothing.
    pub const NONE: Self = Self(std::ptr::null_mut());

    /// This process's latch.
    pub fn mine() -> Self {
        // SAFETY: set for every process with shared memory.
        Self(unsafe { pg_sys::MyLatch })
    }

    /// Wakes the process that owns the latch, if one does.
    pub fn set(self) {
        if !self.0.is_null() {
            // SAFETY: see the type: valid for as long as the server runs, whichever process owns it by now.
            unsafe { pg_sys::SetLatch(self.0) };
        }
    }
}

/// Registers the one static worker. Postgres starts it when recovery has finished, and restarts it a second after it
/// has ended.
pub fn register_launcher(kind: &str, function: &str) {
    BackgroundWorkerBuilder::new(kind)
        .set_library(LIBRARY)
        .set_function(function)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

/// A worker that this process started.
pub struct Worker(*mut pg_sys::BackgroundWorkerHandle);

impl Worker {
    /// Starts a worker that is never restarted; this process is woken when it starts and ends.
    ///
    /// `None` when Postgres has no slot left for it.
    pub fn start(kind: &str, name: &str, function: &str, argument: u64) -> Option<Self> {
        let builder = BackgroundWorkerBuilder::new(truncated(name, NAME_LENGTH))
            .set_type(kind)
            .set_library(LIBRARY)
            .set_function(function)
            .enable_spi_access()
            .set_argument(Some(pg_sys::Datum::from(argument)))
            // SAFETY: set when this process started, never changed.
            .set_notify_pid(unsafe { pg_sys::MyProcPid });
        let mut worker: pg_sys::BackgroundWorker = (&builder).into();
        let mut handle = std::ptr::null_mut();
        // SAFETY: a context that lives as long as the process, in which the handle is made.
        let context = unsafe { pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext) };
        // SAFETY: both pointers are valid for the call.
        let started = unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle) };
        // SAFETY: the context found above.
        unsafe { pg_sys::MemoryContextSwitchTo(context) };
        started.then(|| Self(handle))
    }

    /// Whether it has ended, or could not be started.
    pub fn has_ended(&self) -> bool {
        let mut pid = 0;
        // SAFETY: the handle is valid until dropped.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_STOPPED
    }

    /// Asks it to end, at its next check for interrupts. Returns at once.
    pub fn terminate(&self) {
        // SAFETY: the handle is valid until dropped.
        unsafe { pg_sys::TerminateBackgroundWorker(self.0) };
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SAFETY: palloc'd by `start`, freed once.
        unsafe { pg_sys::pfree(self.0.cast()) };
    }
}

/// This process.
pub fn my_pid() -> i32 {
    // SAFETY: set when the process started, never changed.
    unsafe { pg_sys::MyProcPid }
}

/// Background workers that the server has room for.
pub fn worker_slots() -> i32 {
    // SAFETY: a setting that is fixed when the server starts.
    unsafe { pg_sys::max_worker_processes }
}

/// Whether every error ends this process: `exit_on_error`, which any user may set.
pub fn ends_on_error() -> bool {
    // SAFETY: a setting of this process.
    unsafe { pg_sys::ExitOnAnyError }
}

/// Calls this when the process ends, while it is still connected to shared memory. It must not fail.
pub fn before_exit(work: fn()) {
    #[pg_guard]
    unsafe extern "C-unwind" fn call(_code: i32, work: pg_sys::Datum) {
        // The error that ended the process may have left some. SAFETY: nothing goes on that could need them.
        unsafe { pg_sys::LWLockReleaseAll() };
        // SAFETY: the function that `before_exit` was given.
        let work: fn() = unsafe { std::mem::transmute(work.value()) };
        work();
    }
    // SAFETY: the function lives as long as the process.
    unsafe { pg_sys::before_shmem_exit(Some(call), pg_sys::Datum::from(work as usize)) };
}

/// Whether a process of the server has this number.
pub fn exists(pid: i32) -> bool {
    // SAFETY: a look at the array of processes; the result is only compared.
    !unsafe { pg_sys::BackendPidGetProc(pid) }.is_null()
}

/// Installs the signal handlers of an ordinary server process and lets signals in.
///
/// SIGTERM ends the worker at its next check for interrupts, also in the middle of a statement; SIGHUP is
/// remembered for [`reload_if_requested`]. SIGINT stays as it is: timeouts arrive through it.
pub fn accept_signals() {
    // SAFETY: a handler of Postgres' own, made for this.
    unsafe { version::handle_signal(pg_sys::SIGTERM, die) };
    // SAFETY: as above.
    unsafe { version::handle_signal(pg_sys::SIGHUP, SignalHandlerForConfigReload) };
    // SAFETY: the handlers are in place.
    unsafe { pg_sys::BackgroundWorkerUnblockSignals() };
}

/// Connects this worker to a database; to none, with only shared catalogs, for `InvalidOid`.
pub fn connect(database: pg_sys::Oid) {
    if database == pg_sys::InvalidOid {
        // SAFETY: called once, by a worker that asked for a connection.
        unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    } else {
        // SAFETY: as above; as the bootstrap superuser, which cannot be dropped.
        unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0) };
    }
}

/// Overrides settings that postgresql.conf or ALTER DATABASE make for sessions of users, as autovacuum does.
pub fn reset_session_settings() {
    let settings = [
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_isolation", c"read committed"),
        (c"exit_on_error", c"off"),
        (c"statement_timeout", c"0"),
        (c"lock_timeout", c"1s"),
        // Of a session and a sweeper that wait for each other, the sweeper is to give way.
        (c"deadlock_timeout", c"100ms"),
        (c"idle_in_transaction_session_timeout", c"0"),
        (c"session_replication_role", c"origin"),
        // Worker slots are left to queries of other sessions.
        (c"max_parallel_workers_per_gather", c"0"),
    ];
    for (name, value) in settings.iter().chain(version::WORKER_SETTINGS) {
        set_for_worker(name, value);
    }
    // As much as a VACUUM may have: a hundred thousand workers that died at once are sorted and hashed, which is slower
    // on disk. SAFETY: plain settings, in kilobytes.
    let memory = unsafe { pg_sys::work_mem.max(pg_sys::maintenance_work_mem) };
    if let Ok(memory) = CString::new(format!("{memory}kB")) {
        set_for_worker(c"work_mem", &memory);
    }
    // A trigger could fill the disk with them. SAFETY: a plain setting.
    if unsafe { pg_sys::temp_file_limit } < 0 {
        set_for_worker(c"temp_file_limit", c"1GB");
    }
}

fn set_for_worker(name: &'static CStr, value: &CStr) {
    // SAFETY: terminated strings, of which Postgres keeps none; the values are valid.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        )
    };
}

/// Runs `work`, whose commits wait neither for the disk nor for a standby: for what is written again soon.
pub fn without_waiting_for_commits<T>(work: impl FnOnce() -> T) -> T {
    set_synchronous_commit(c"off".as_ptr());
    let result = work();
    set_synchronous_commit(std::ptr::null());
    result
}

/// Null for the configured value.
fn set_synchronous_commit(value: *const std::ffi::c_char) {
    // SAFETY: static strings, or null; any user may set this one.
    unsafe {
        pg_sys::SetConfigOption(
            c"synchronous_commit".as_ptr(),
            value,
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
        )
    };
}

/// Sleeps as [`delay`] does, and lets this process be cancelled or ended.
pub fn wait(timeout: Duration, event: u32) {
    delay(timeout, event);
    super::check_for_interrupts();
}

/// Sleeps until the latch is set, the time is over, or the postmaster dies, which ends this process. Interrupts that
/// arrive meanwhile are served at its next check for interrupts.
///
/// `event` says why, for `pg_stat_activity`: see [`version::wait_event`].
pub fn delay(timeout: Duration, event: u32) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // Rounded up, or the last part of a millisecond would be spent awake.
    let milliseconds = timeout.as_micros().div_ceil(1_000).try_into().unwrap_or(i64::from(i32::MAX));
    // SAFETY: this process's own latch.
    unsafe { pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, milliseconds, event) };
    // SAFETY: as above; before the process looks for work, so that no wake-up is lost.
    unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) };
}

/// Reads the configuration again when a SIGHUP asked for it; returns whether it did.
pub fn reload_if_requested() -> bool {
    // SAFETY: a flag that a signal handler sets: read as volatile.
    if unsafe { (&raw const pg_sys::ConfigReloadPending).read_volatile() } == 0 {
        return false;
    }
    // SAFETY: as above; cleared before reading, so that a SIGHUP that comes meanwhile counts.
    unsafe { (&raw mut pg_sys::ConfigReloadPending).write_volatile(0) };
    // SAFETY: outside of a transaction, as every process does it.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
    true
}

/// Shows in `pg_stat_activity` what this process is doing.
pub fn report_activity(activity: &str) {
    let Ok(activity) = CString::new(activity) else { return };
    // SAFETY: the text is copied.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, activity.as_ptr()) };
}

/// Shows in `pg_stat_activity` that this process waits for something to do.
pub fn report_idle() {
    // SAFETY: no text.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null()) };
}

/// The name under which `pg_stat_activity` shows this process.
pub fn report_name(name: &CStr) {
    // SAFETY: the name is copied.
    unsafe { pg_sys::pgstat_report_appname(name.as_ptr()) };
}

/// The longest beginning of `text` of at most `length` bytes that ends between characters.
fn truncated(text: &str, length: usize) -> &str {
    &text[..text.floor_char_boundary(length)]
}
