//! The job queues that are watched by name, each with its own library and real workers. What all of them promise is in
//! `claims`; the module of a queue has what is particular to it. `yard` installs a library into a database and starts
//! its workers, which are the programs of `tests/queues`.
//!
//! A program understands three commands: `install` makes the tables of its library; `enqueue JOB OPTIONS` puts a job
//! into the queue, the options being JSON; `work` is a worker that takes one job at a time. It finds the database by
//! libpq's variables PGHOST, PGUSER and PGDATABASE. Its jobs do what `yard.sql` says.

mod absurd;
mod apalis;
mod by_schema;
mod chancy;
mod claims;
mod dbos;
mod django_tasks;
mod graphile_worker;
mod pg_boss;
mod pgqueuer;
mod procrastinate;
mod yard;

/// One test for each of the claims, about one library.
macro_rules! about {
    ($library:expr; $($claim:ident)*) => {
        $(#[test]
        fn $claim() {
            crate::queues::claims::$claim($library);
        })*
    };
}
use about;
