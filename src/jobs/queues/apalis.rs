//! Apalis, with its storage in PostgreSQL. A worker claims several jobs at once, `Queued`, and then starts one after
//! the other, `Running`: both are lost with it. The library counts such a loss as an attempt, and so does this; but it
//! puts back a job without attempts left, too, which would kill one worker after the other.

use super::Queue;

pub const QUEUE: Queue = Queue {
    name: "apalis",
    default_schema: "apalis",
    main_table: "jobs",
    columns: &[
        ("jobs", "attempts", "integer"),
        ("jobs", "done_at", "timestamp with time zone"),
        ("jobs", "id", "text"),
        ("jobs", "job_type", "text"),
        ("jobs", "last_result", "jsonb"),
        ("jobs", "lock_at", "timestamp with time zone"),
        ("jobs", "lock_by", "text"),
        ("jobs", "max_attempts", "integer"),
        ("jobs", "run_at", "timestamp with time zone"),
        ("jobs", "status", "text"),
    ],
    functions: &[],
    versions: "apalis-postgres 1.0",
    running: r#"
        SELECT lock_by, id FROM @queue@.jobs WHERE lock_by = ANY($1) AND status IN ('Queued', 'Running')"#,
    settle: r#"
        WITH settled AS (
            UPDATE @queue@.jobs AS job
               SET status = CASE WHEN job.attempts + 1 < job.max_attempts THEN 'Pending' ELSE 'Failed' END,
                   attempts = job.attempts + 1,
                   lock_by = NULL,
                   lock_at = NULL,
                   done_at = CASE WHEN job.attempts + 1 < job.max_attempts THEN NULL ELSE now() END,
                   last_result = jsonb_build_object('Err', $2)
              FROM @queue@.jobs AS before
             WHERE job.id = before.id AND job.lock_by = ANY($1) AND job.status IN ('Queued', 'Running')
            RETURNING before.lock_by AS worker, job.id, job.job_type, job.run_at, job.status = 'Pending' AS again
        ), woken AS (
            SELECT count(pg_notify('apalis::job::insert',
                       json_build_object('job_type', job_type, 'id', id, 'run_at', run_at)::text))
              FROM settled WHERE again
        )
        SELECT worker, id, again FROM settled, woken"#,
};
