//! GoodJob. A job that has been claimed has the process in `locked_by_id` until it is finished. `performed_at` stays:
//! by it the library knows at the next run that the job was interrupted, and notes so. It limits no attempts.

use super::Queue;

pub const QUEUE: Queue = Queue {
    name: "good_job",
    default_schema: "public",
    main_table: "good_jobs",
    columns: &[
        ("good_jobs", "finished_at", "timestamp without time zone"),
        ("good_jobs", "id", "uuid"),
        ("good_jobs", "locked_at", "timestamp without time zone"),
        ("good_jobs", "locked_by_id", "uuid"),
        ("good_jobs", "queue_name", "text"),
    ],
    functions: &[],
    versions: "GoodJob 4",
    running: r#"
        SELECT locked_by_id::text, id::text
          FROM @queue@.good_jobs
         WHERE locked_by_id IS NOT NULL AND locked_by_id::text = ANY($1) AND finished_at IS NULL"#,
    settle: r#"
        WITH settled AS (
            UPDATE @queue@.good_jobs AS job
               SET locked_by_id = NULL, locked_at = NULL
              FROM @queue@.good_jobs AS before
             WHERE job.id = before.id
               AND job.locked_by_id IS NOT NULL AND job.locked_by_id::text = ANY($1) AND job.finished_at IS NULL
            RETURNING before.locked_by_id AS worker, job.id, job.queue_name
        ), woken AS (
            SELECT count(pg_notify('good_job', json_build_object('queue_name', queue_name)::text))
              FROM (SELECT DISTINCT queue_name FROM settled) AS queues
        )
        SELECT worker::text, id::text, true FROM settled, woken"#,
};
