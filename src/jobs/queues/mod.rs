//! Queues that are known by name: what `rgrid_watch_queue()` can watch. One file a queue, which says in SQL what its
//! library's tables mean. Nothing else of the extension knows a queue.
//!
//! To add one: write its file, list it in [`ALL`], and test it with the library itself (`tests/queues`).

mod absurd;
mod apalis;
mod chancy;
mod dbos;
mod delayed_job;
mod django_tasks;
mod good_job;
mod graphile_worker;
mod oban;
mod pg_boss;
mod pgqueuer;
mod procrastinate;
mod river;
mod solid_queue;

/// What is to be known of a queue.
///
/// In all statements `@queue@` stands for the schema of the queue, quoted. They run with the rights of the owner of
/// [`Queue::main_table`], security-restricted: no temporary tables, no `SET ROLE`. `search_path` is `pg_catalog`, then
/// that schema. Ids of workers are text, as the library has them, without the prefix with which its workers beat.
#[derive(Debug)]
pub struct Queue {
    /// What `rgrid_watch_queue()` calls it, and its workers' prefix when it is followed by a colon.
    pub name: &'static str,
    /// The schema where its library puts it when nobody says otherwise.
    pub default_schema: &'static str,
    /// The table whose owner settles the jobs.
    pub main_table: &'static str,
    /// What the statements rely on: table, column, and the column's type as `format_type()` writes it, without a limit.
    /// Names of types in the queue's schema have no schema.
    pub columns: &'static [(&'static str, &'static str, &'static str)],
    /// The functions of the library that the statements call, as `regprocedure` reads them, without the schema.
    /// `@queue@` stands for it before a type of its own.
    pub functions: &'static [&'static str],
    /// The versions of the library whose schema this is, in words, for the message when it is another one.
    pub versions: &'static str,
    /// The running jobs of workers: `$1` are their ids as `text[]`. A row is a worker's id and the key of a job, both
    /// text.
    pub running: &'static str,
    /// Settles the running jobs of workers that are dead: `$1` are their ids as `text[]`, `$2` the message as text,
    /// `$3` the time of the death as `timestamptz`. A row is a worker's id, the key of a job, both text, and whether
    /// the job went back to the queue (boolean). A job is settled once: a second call finds it no longer running. An
    /// idle worker of the library is woken.
    pub settle: &'static str,
}

/// All of them, by name.
pub const ALL: &[&Queue] = &[
    &absurd::QUEUE,
    &apalis::QUEUE,
    &chancy::QUEUE,
    &dbos::QUEUE,
    &delayed_job::QUEUE,
    &django_tasks::QUEUE,
    &good_job::QUEUE,
    &graphile_worker::QUEUE,
    &oban::QUEUE,
    &pg_boss::QUEUE,
    &pgqueuer::QUEUE,
    &procrastinate::QUEUE,
    &river::QUEUE,
    &solid_queue::QUEUE,
];

/// The queue of this name.
pub fn find(name: &str) -> Option<&'static Queue> {
    ALL.iter().find(|queue| queue.name == name).copied()
}

/// All names, for a message.
pub fn names() -> String {
    ALL.iter().map(|queue| queue.name).collect::<Vec<_>>().join(", ")
}
