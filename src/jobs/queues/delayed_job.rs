//! Delayed Job. A running job is locked. Attempts are counted when a job has failed, and their limit is in the program
//! alone, so the library's default is the limit here.

use super::Queue;

pub const QUEUE: Queue = Queue {
    name: "delayed_job",
    default_schema: "public",
    main_table: "delayed_jobs",
    columns: &[
        ("delayed_jobs", "attempts", "integer"),
        ("delayed_jobs", "failed_at", "timestamp without time zone"),
        ("delayed_jobs", "last_error", "text"),
        ("delayed_jobs", "locked_at", "timestamp without time zone"),
        ("delayed_jobs", "locked_by", "character varying"),
    ],
    functions: &[],
    versions: "delayed_job_active_record 4.1",
    running: r#"
        SELECT locked_by::text, id::text
          FROM @queue@.delayed_jobs
         WHERE locked_by = ANY($1) AND locked_at IS NOT NULL AND failed_at IS NULL"#,
    settle: r#"
        UPDATE @queue@.delayed_jobs AS job
           SET locked_by = NULL,
               locked_at = NULL,
               attempts = job.attempts + 1,
               last_error = $2,
               failed_at = CASE WHEN job.attempts + 1 >= 25 THEN timezone('UTC', now()) END
          FROM @queue@.delayed_jobs AS before
         WHERE job.id = before.id
           AND job.locked_by = ANY($1) AND job.locked_at IS NOT NULL AND job.failed_at IS NULL
        RETURNING before.locked_by::text, job.id::text, job.failed_at IS NULL"#,
};
