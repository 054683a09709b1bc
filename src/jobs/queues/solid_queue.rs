//! Solid Queue. A running job has a row in `solid_queue_claimed_executions`. It is made ready again, as the library
//! does for a worker that is stopped; the library fails the jobs of one that has died. A job keeps its place in the
//! semaphore that limits concurrent jobs, since it is still to run.

use super::Queue;

pub const QUEUE: Queue = Queue {
    name: "solid_queue",
    default_schema: "public",
    main_table: "solid_queue_claimed_executions",
    columns: &[
        ("solid_queue_claimed_executions", "job_id", "bigint"),
        ("solid_queue_claimed_executions", "process_id", "bigint"),
        ("solid_queue_jobs", "id", "bigint"),
        ("solid_queue_jobs", "priority", "integer"),
        ("solid_queue_jobs", "queue_name", "character varying"),
        ("solid_queue_ready_executions", "created_at", "timestamp without time zone"),
        ("solid_queue_ready_executions", "job_id", "bigint"),
        ("solid_queue_ready_executions", "priority", "integer"),
        ("solid_queue_ready_executions", "queue_name", "character varying"),
    ],
    functions: &[],
    versions: "Solid Queue 1.0 to 1.5",
    running: r#"
        SELECT process_id::text, job_id::text
          FROM @queue@.solid_queue_claimed_executions
         WHERE process_id::text = ANY($1)"#,
    settle: r#"
        WITH released AS (
            DELETE FROM @queue@.solid_queue_claimed_executions AS claimed
             USING @queue@.solid_queue_jobs AS job
             WHERE job.id = claimed.job_id AND claimed.process_id::text = ANY($1)
            RETURNING claimed.process_id, job.id, job.queue_name, job.priority
        ), ready AS (
            INSERT INTO @queue@.solid_queue_ready_executions (job_id, queue_name, priority, created_at)
            SELECT id, queue_name, priority, timezone('UTC', now()) FROM released
            ON CONFLICT (job_id) DO NOTHING
        )
        SELECT process_id::text, id::text, true FROM released"#,
};
