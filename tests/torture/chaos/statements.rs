//! What a session may do, by chance. Worker ids begin with the name of their database, so that the log tells them
//! apart.

use rand::RngExt;
use rand::rngs::StdRng;

/// The tables of jobs: the one that needs no entry, and two that do.
pub const TABLES: [&str; 3] = ["executions", "tasks", "errands"];

/// Workers of each database.
const WORKERS: u32 = 8;

/// A table of jobs.
pub fn create(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (id bigserial PRIMARY KEY, worker_id text, status text, execution_error text,
             completed_at timestamptz, retry_count int NOT NULL DEFAULT 0, max_retries int)"
    )
}

/// One step: a statement, or a transaction of some.
pub fn step(random: &mut StdRng) -> String {
    if random.random_bool(0.75) {
        return statement(random);
    }
    let isolation = one_of(random, &["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]);
    let mut sql = format!("BEGIN ISOLATION LEVEL {isolation}; ");
    for _ in 0..random.random_range(1..4) {
        sql += &format!("{}; ", statement(random));
        if random.random_bool(0.2) {
            sql += &format!("{}; ", lock(random));
        }
    }
    sql + one_of(random, &["COMMIT", "COMMIT", "ROLLBACK"])
}

/// Whose rights a session has.
pub fn role(random: &mut StdRng) -> String {
    format!("SET ROLE {}", one_of(random, &["postgres", "postgres", "chaos_owner"]))
}

fn one_of<'a>(random: &mut StdRng, choices: &[&'a str]) -> &'a str {
    choices[random.random_range(0..choices.len())]
}

fn statement(random: &mut StdRng) -> String {
    match random.random_range(0..100) {
        0..45 => call_of_worker(random),
        45..70 => jobs(random),
        70..82 => call_of_operator(random),
        _ => ddl(random),
    }
}

fn worker(random: &mut StdRng) -> String {
    format!("current_database() || '/w{}'", random.random_range(0..WORKERS))
}

/// A heartbeat of every worker.
pub fn all_beat() -> String {
    format!(
        "SELECT count(rgrid_heartbeat(current_database() || '/w' || n)) FROM generate_series(1, {WORKERS}) AS n"
    )
}

fn call_of_worker(random: &mut StdRng) -> String {
    let (worker, other) = (worker(random), worker(random));
    match random.random_range(0..16) {
        0..6 => format!("SELECT rgrid_heartbeat({worker})"),
        6..9 => format!("SELECT rgrid_heartbeat({worker}, 'host-{}')", random.random_range(0..2)),
        9..11 => format!("SELECT rgrid_heartbeat(ARRAY[{worker}, {other}])"),
        11 => format!("SELECT rgrid_register({worker})"),
        12 => format!(
            "SELECT rgrid_register(ARRAY(SELECT current_database() || '/new{}-' || n FROM generate_series(1, 10) AS n)
                                   || {worker} || {other})",
            random.random_range(0..100)
        ),
        13 => format!("SELECT rgrid_deregister({worker})"),
        14 => format!(
            "UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp() WHERE worker_id = {worker}"
        ),
        _ => format!("DELETE FROM worker_heartbeats WHERE worker_id = {worker}"),
    }
}

fn jobs(random: &mut StdRng) -> String {
    let (worker, table) = (worker(random), one_of(random, &TABLES));
    match random.random_range(0..5) {
        0..2 => {
            format!("INSERT INTO {table} (status, max_retries) SELECT 'queued', 2 FROM generate_series(1, 5)")
        }
        2..4 => format!(
            "UPDATE {table} SET status = 'running', worker_id = {worker}
             WHERE id IN (SELECT id FROM {table} WHERE status = 'queued' LIMIT 3 FOR UPDATE SKIP LOCKED)"
        ),
        _ => format!(
            "UPDATE {table} SET status = 'completed' WHERE worker_id = {worker} AND status = 'running'"
        ),
    }
}

fn call_of_operator(random: &mut StdRng) -> String {
    let table = one_of(random, &TABLES);
    let on_death = one_of(random, &["fail", "requeue"]);
    match random.random_range(0..15) {
        14 => "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO chaos_owner".into(),
        0..2 => "SELECT * FROM rgrid_sweep()".into(),
        2 => "SELECT * FROM rgrid_sweep(dry_run => true)".into(),
        3 => "SELECT * FROM rgrid_sweep(force => true)".into(),
        4 => "SELECT * FROM rgrid_health()".into(),
        5 => "SELECT * FROM rgrid_stale_workers('1s')".into(),
        6 => "SELECT * FROM rgrid_workers".into(),
        7 => "SELECT * FROM pg_stat_rgrid_heartbeat, pg_stat_rgrid_problems".into(),
        8 => "SELECT rgrid_stat_reset()".into(),
        9..11 => format!("SELECT rgrid_watch_jobs('{table}', on_death => '{on_death}', notify_keys => true)"),
        11 => format!("SELECT rgrid_unwatch_jobs('{table}')"),
        12 => format!("SELECT rgrid_fence('{table}')"),
        _ => format!("SELECT rgrid_unfence('{table}')"),
    }
}

/// What is done to a table is undone more often than it is done.
fn ddl(random: &mut StdRng) -> String {
    let table = one_of(random, &TABLES);
    match random.random_range(0..24) {
        0 => format!("ALTER TABLE {table} RENAME COLUMN execution_error TO note"),
        1..3 => format!("ALTER TABLE {table} RENAME COLUMN note TO execution_error"),
        3 => format!("ALTER TABLE {table} RENAME TO {table}_away"),
        4..6 => format!("ALTER TABLE {table}_away RENAME TO {table}"),
        6 => format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS extra int"),
        7 => format!("ALTER TABLE {table} DROP COLUMN IF EXISTS extra"),
        8 => format!(
            "ALTER TABLE {table} ALTER COLUMN status TYPE {}",
            one_of(random, &["text", "varchar(20)"])
        ),
        9 => format!("ALTER TABLE {table} OWNER TO {}", one_of(random, &["chaos_owner", "postgres"])),
        10 => format!("DROP TABLE {table}"),
        11..14 => create(table),
        14 => format!(
            "CREATE INDEX IF NOT EXISTS {table}_running ON {table} (worker_id) WHERE status = 'running'"
        ),
        15 => format!("DROP INDEX IF EXISTS {table}_running"),
        16..18 => format!(
            "CREATE OR REPLACE TRIGGER chaos BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {}()",
            one_of(random, &["chaos_raise", "chaos_sleep", "chaos_note", "chaos_beat"])
        ),
        18..21 => format!("DROP TRIGGER IF EXISTS chaos ON {table}"),
        21 => format!("TRUNCATE {table}"),
        22 => "ALTER TABLE worker_heartbeats RENAME TO heartbeats_away".into(),
        _ => "ALTER TABLE heartbeats_away RENAME TO worker_heartbeats".into(),
    }
}

/// Takes a lock and holds it for a moment.
fn lock(random: &mut StdRng) -> String {
    let (worker, table) = (worker(random), one_of(random, &TABLES));
    let mode = one_of(random, &["SHARE", "ROW EXCLUSIVE", "ACCESS EXCLUSIVE"]);
    let locked = match random.random_range(0..4) {
        0 => format!("LOCK TABLE {table} IN {mode} MODE"),
        1 => format!("SELECT FROM worker_heartbeats WHERE worker_id = {worker} FOR UPDATE"),
        2 => format!("SELECT FROM {table} WHERE worker_id = {worker} FOR UPDATE"),
        _ => "LOCK TABLE rgrid_worker_deaths IN SHARE MODE".into(),
    };
    format!("{locked}; SELECT pg_sleep({})", one_of(random, &["0.01", "0.05", "0.2"]))
}

/// Undoes what a session may have done to the tables, as far as it was done. Each may fail.
pub fn repairs() -> Vec<String> {
    let mut repairs = vec!["ALTER TABLE heartbeats_away RENAME TO worker_heartbeats".into()];
    for table in TABLES {
        repairs.extend([
            format!("ALTER TABLE {table}_away RENAME TO {table}"),
            format!("DROP TABLE IF EXISTS {table}_away"),
            create(table),
            format!("ALTER TABLE {table} RENAME COLUMN note TO execution_error"),
            format!("DROP TRIGGER IF EXISTS chaos ON {table}"),
            format!("SELECT rgrid_watch_jobs('{table}')"),
        ]);
    }
    repairs
}
