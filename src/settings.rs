//! The settings, each with a typed getter. Defined in every process that loads the library.
//!
//! A setting that one database may need differently is superuser-settable (`ALTER DATABASE ... SET`); one
//! that the launcher reads for all databases at once can only come from the configuration file.

use std::time::Duration;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::pg;
use crate::rules::liveness::MassDeath;

static CHECK_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static STALE_THRESHOLD: GucSetting<i32> = GucSetting::<i32>::new(120_000);
static FLUSH_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(65_536);
static STATEMENT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static CALL_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static MAX_DEAD_FRACTION: GucSetting<f64> = GucSetting::<f64>::new(0.9);
static MASS_DEATH_MINIMUM: GucSetting<i32> = GucSetting::<i32>::new(10);
static BATCH_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * 24 * 60 * 60);
static PRUNE_ADOPTED: GucSetting<bool> = GucSetting::<bool>::new(false);
static ISOLATE_ROLES: GucSetting<bool> = GucSetting::<bool>::new(true);
static MAX_WORKERS_PER_ROLE: GucSetting<i32> = GucSetting::<i32>::new(-1);
static DISCONNECT_GRACE: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static MAX_DISCONNECTED_FRACTION: GucSetting<f64> = GucSetting::<f64>::new(0.5);
static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);

/// The settings without an effect on a server that does not preload the library, where they are known all the same: the
/// launcher and its sweepers read them, or they are about shared memory.
pub const OF_PRELOADED: [&str; 11] = [
    "rgrid_heartbeat.check_interval",
    "rgrid_heartbeat.flush_interval",
    "rgrid_heartbeat.statement_timeout",
    "rgrid_heartbeat.max_dead_fraction",
    "rgrid_heartbeat.mass_death_minimum",
    "rgrid_heartbeat.disconnect_grace",
    "rgrid_heartbeat.max_disconnected_fraction",
    "rgrid_heartbeat.enabled",
    "rgrid_heartbeat.retention",
    "rgrid_heartbeat.prune_adopted",
    "rgrid_heartbeat.max_workers",
];

/// Defines the settings and reserves their prefix, so that a misspelt one is reported.
pub fn define() {
    define_times();
    define_mass_death();
    define_disconnection();
    define_sizes();
    define_retention();
    define_owners();
    GucRegistry::define_bool_guc(
        c"rgrid_heartbeat.enabled",
        c"Sweeps databases for dead workers.",
        c"Off pauses sweeping, for a restore or for maintenance; heartbeats go on being taken.",
        &ENABLED,
        GucContext::Sighup,
        GucFlags::default(),
    );
    pg::reserve_setting_prefix(c"rgrid_heartbeat");
}

fn define_times() {
    GucRegistry::define_int_guc(
        c"rgrid_heartbeat.check_interval",
        c"Time between two sweeps of a database.",
        c"A dead worker is found at most this much later than its silence exceeds the threshold.",
        &CHECK_INTERVAL,
        10,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"rgrid_heartbeat.stale_threshold",
        c"Silence after which a worker is dead.",
        c"At least three times the interval at which workers send heartbeats.",
        &STALE_THRESHOLD,
        100,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"rgrid_heartbeat.flush_interval",
        c"How long a heartbeat may stay in memory before its row is written.",
        c"The extension's functions always see it. Of very many heartbeats, the last are written up to half of this later.",
        &FLUSH_INTERVAL,
        10,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"rgrid_heartbeat.statement_timeout",
        c"Longest time that a sweeper lets one statement on a table run.",
        c"A trigger that hangs costs this much; the table is reported, and tried again later.",
        &STATEMENT_TIMEOUT,
        100,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"rgrid_heartbeat.call_timeout",
        c"How long a worker's call may wait for locks and for job tables.",
        c"Jobs that cannot be settled by then are noted, and left to sweepers.",
        &CALL_TIMEOUT,
        100,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
}

fn define_mass_death() {
    GucRegistry::define_float_guc(
        c"rgrid_heartbeat.max_dead_fraction",
        c"Share of the living workers above which those that fall silent together are held back.",
        c"For one more stale_threshold at most; with 1 no worker is ever held back.",
        &MAX_DEAD_FRACTION,
        0.0,
        1.0,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"rgrid_heartbeat.mass_death_minimum",
        c"Workers that may fall silent together without being held back, whatever their share.",
        c"Also for sessions that are lost at the same time: see max_disconnected_fraction.",
        &MASS_DEATH_MINIMUM,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
}

fn define_disconnection() {
    GucRegistry::define_int_guc(
        c"rgrid_heartbeat.disconnect_grace",
        c"How long a worker may take to come back when the session that it was attached to ended because its client vanished.",
        c"With 0 it is declared dead at once; -1 leaves it to its silence.",
        &DISCONNECT_GRACE,
        -1,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_float_guc(
        c"rgrid_heartbeat.max_disconnected_fraction",
        c"Share of the sessions with attached workers above which losses at the same time are left to silence.",
        c"If they are also more than mass_death_minimum. With 1, only those that came through one pooler.",
        &MAX_DISCONNECTED_FRACTION,
        0.0,
        1.0,
        GucContext::Suset,
        GucFlags::default(),
    );
}

fn define_retention() {
    GucRegistry::define_int_guc(
        c"rgrid_heartbeat.retention",
        c"How long deaths stay in the ledger, and dead workers in the table of heartbeats.",
        c"-1 keeps them forever. What running jobs and the workers' incarnations need stays in any case.",
        &RETENTION,
        -1,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_bool_guc(
        c"rgrid_heartbeat.prune_adopted",
        c"Removes old rows of dead workers also from a table of heartbeats that the extension does not own.",
        c"Their deaths stay in the ledger for as long as their rows do.",
        &PRUNE_ADOPTED,
        GucContext::Suset,
        GucFlags::default(),
    );
}

fn define_owners() {
    GucRegistry::define_bool_guc(
        c"rgrid_heartbeat.isolate_roles",
        c"Lets a worker id be used only by the role that it belongs to, its members and superusers.",
        c"Off where workers of several roles share ids. Without an effect on an adopted table of heartbeats.",
        &ISOLATE_ROLES,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"rgrid_heartbeat.max_workers_per_role",
        c"Living workers that one role may have in a database.",
        c"-1 sets no limit. Without an effect on an adopted table of heartbeats.",
        &MAX_WORKERS_PER_ROLE,
        -1,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
}

fn define_sizes() {
    GucRegistry::define_int_guc(
        c"rgrid_heartbeat.batch_size",
        c"Dead workers settled in one transaction.",
        c"Also the most that one call of rgrid_sweep() settles.",
        &BATCH_SIZE,
        1,
        1_000_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    // It fixes the size of shared memory, so it is set when the server starts. PostgreSQL takes no such setting later:
    // where the library is not preloaded it is an ordinary one without an effect, and no misspelling.
    let context = if pg::is_preloading() { GucContext::Postmaster } else { GucContext::Sighup };
    GucRegistry::define_int_guc(
        c"rgrid_heartbeat.max_workers",
        c"Workers whose heartbeats fit in shared memory.",
        c"Heartbeats of more workers than these are written to their rows at once. About 135 bytes each.",
        &MAX_WORKERS,
        0,
        16_777_216,
        context,
        GucFlags::default(),
    );
}

/// Time between two sweeps of a database.
pub fn check_interval() -> Duration {
    milliseconds(CHECK_INTERVAL.get())
}

/// Silence after which a worker is dead.
pub fn stale_threshold() -> Duration {
    milliseconds(STALE_THRESHOLD.get())
}

/// How long a heartbeat may stay in memory.
pub fn flush_interval() -> Duration {
    milliseconds(FLUSH_INTERVAL.get())
}

/// How long a sweeper lets one statement on a table run.
pub fn statement_timeout() -> Duration {
    milliseconds(STATEMENT_TIMEOUT.get())
}

/// How long a worker's call may last.
pub fn call_timeout() -> Duration {
    milliseconds(CALL_TIMEOUT.get())
}

/// How many workers may die at once without being held back.
pub fn mass_death() -> MassDeath {
    let minimum = usize::try_from(MASS_DEATH_MINIMUM.get()).unwrap_or(0);
    MassDeath { fraction: MAX_DEAD_FRACTION.get(), minimum }
}

/// How long a worker may take to come back that has lost its session; `None` when silence alone counts.
pub fn disconnect_grace() -> Option<Duration> {
    u64::try_from(DISCONNECT_GRACE.get()).ok().map(Duration::from_millis)
}

/// Share of the sessions above which losses at the same time prove nothing.
pub fn max_disconnected_fraction() -> f64 {
    MAX_DISCONNECTED_FRACTION.get()
}

/// Workers that fit in shared memory.
pub fn max_workers() -> usize {
    usize::try_from(MAX_WORKERS.get()).unwrap_or(0)
}

/// Dead workers settled in one transaction.
pub fn batch_size() -> usize {
    usize::try_from(BATCH_SIZE.get()).unwrap_or(1)
}

/// How long deaths and dead workers are kept; `None` for forever.
pub fn retention() -> Option<Duration> {
    u64::try_from(RETENTION.get()).ok().map(Duration::from_secs)
}

/// Whether rows of dead workers are removed from an adopted table, too.
pub fn prune_adopted() -> bool {
    PRUNE_ADOPTED.get()
}

/// Whether a worker id is only for the role that it belongs to.
pub fn isolate_roles() -> bool {
    ISOLATE_ROLES.get()
}

/// Living workers that a role may have; `None` for any number.
pub fn max_workers_per_role() -> Option<usize> {
    usize::try_from(MAX_WORKERS_PER_ROLE.get()).ok()
}

/// Whether databases are swept.
pub fn enabled() -> bool {
    ENABLED.get()
}

/// A setting's number is never negative: its range says so.
fn milliseconds(number: i32) -> Duration {
    Duration::from_millis(u64::try_from(number).unwrap_or(0))
}
