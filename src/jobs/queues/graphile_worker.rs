//! Graphile Worker. A job is running while it is locked. `locked_by` is the id of a pool of workers, which is one
//! process. An attempt is counted when a job is claimed. One without attempts left is never claimed again, which is
//! how the library knows that it has failed. Its function for dead workers unlocks named queues, too.

use super::Queue;

pub const QUEUE: Queue = Queue {
    name: "graphile_worker",
    default_schema: "graphile_worker",
    main_table: "_private_jobs",
    columns: &[
        ("_private_job_queues", "locked_by", "text"),
        ("_private_jobs", "attempts", "smallint"),
        ("_private_jobs", "id", "bigint"),
        ("_private_jobs", "last_error", "text"),
        ("_private_jobs", "locked_at", "timestamp with time zone"),
        ("_private_jobs", "locked_by", "text"),
        ("_private_jobs", "max_attempts", "smallint"),
    ],
    functions: &["force_unlock_workers(text[])"],
    versions: "Graphile Worker 0.16 to 0.18",
    running: r#"
        SELECT locked_by, id::text FROM @queue@._private_jobs WHERE locked_by = ANY($1)"#,
    settle: r#"
        WITH noted AS (
            UPDATE @queue@._private_jobs SET last_error = $2, updated_at = now()
             WHERE locked_by = ANY($1)
            RETURNING locked_by AS worker, id, attempts < max_attempts AS again
        ), unlocked AS (
            -- After the update: both write the same rows.
            SELECT @queue@.force_unlock_workers($1), pg_notify('jobs:insert', '{"count":' || noted.jobs || '}')
              FROM (SELECT count(*) AS jobs FROM noted) AS noted
        )
        SELECT worker, id::text, again FROM noted WHERE (SELECT count(*) FROM unlocked) = 1"#,
};
