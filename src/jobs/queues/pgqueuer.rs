//! PgQueuer, for Python: `pgqueuer.queue_manager_id` is the worker.
//!
//! A job goes back as the library puts one back whose run asked for it: `attempts` counts, no limit is in the database,
//! and its log gets a row, with the message where an exception would be. Idle workers are told by the library's own
//! trigger. It fires for each statement, and tells of a `DELETE` but of no `UPDATE`: so there is one that deletes
//! nothing.

use super::Queue;

/// What `rgrid_watch_queue('pgqueuer')` watches.
pub const QUEUE: Queue = Queue {
    name: "pgqueuer",
    default_schema: "public",
    main_table: "pgqueuer",
    columns: &[
        ("pgqueuer", "id", "bigint"),
        ("pgqueuer", "queue_manager_id", "uuid"),
        ("pgqueuer", "updated", "timestamp with time zone"),
        ("pgqueuer", "execute_after", "timestamp with time zone"),
        ("pgqueuer", "status", "pgqueuer_status"),
        ("pgqueuer", "entrypoint", "text"),
        ("pgqueuer", "priority", "integer"),
        ("pgqueuer", "attempts", "integer"),
        ("pgqueuer_log", "job_id", "bigint"),
        ("pgqueuer_log", "status", "pgqueuer_status"),
        ("pgqueuer_log", "entrypoint", "text"),
        ("pgqueuer_log", "priority", "integer"),
        ("pgqueuer_log", "traceback", "jsonb"),
    ],
    functions: &[],
    versions: "pgqueuer 1.6",
    running: "
SELECT job.queue_manager_id::text, job.id::text
  FROM @queue@.pgqueuer AS job
 WHERE job.status = 'picked'
   AND job.queue_manager_id IN (
       SELECT CASE WHEN id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN id::uuid END FROM unnest($1) AS id)",
    settle: "
WITH jobs AS MATERIALIZED (
    SELECT job.id, job.queue_manager_id
      FROM @queue@.pgqueuer AS job
     WHERE job.status = 'picked'
       AND job.queue_manager_id IN (
           SELECT CASE WHEN id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN id::uuid END FROM unnest($1) AS id)
     ORDER BY job.id
       FOR UPDATE OF job SKIP LOCKED
), settled AS (
    UPDATE @queue@.pgqueuer AS job
       SET status = 'queued', execute_after = now(), attempts = job.attempts + 1, updated = now(),
           queue_manager_id = NULL
      FROM jobs
     WHERE job.id = jobs.id
 RETURNING jobs.queue_manager_id AS worker, job.id, job.entrypoint, job.priority
), logged AS (
    INSERT INTO @queue@.pgqueuer_log (job_id, status, entrypoint, priority, traceback)
    SELECT id, 'queued', entrypoint, priority,
           jsonb_build_object('job_id', id, 'timestamp', $3, 'exception_type', 'WorkerDied', 'exception_message', $2,
                              'traceback', '', 'additional_context', jsonb_build_object('queue_manager_id', worker))
      FROM settled
), woken AS (
    DELETE FROM @queue@.pgqueuer WHERE false
)
SELECT worker::text, id::text, true FROM settled",
};
