//! Chancy, for Python: `chancy_jobs.taken_by` is the worker.
//!
//! A job goes back as the library's plugin for it puts one back. Its claim ends, so a late result is refused, and the
//! worker that had it is told to stop it. It gets one attempt more: a death costs none, and the library claims no job
//! whose attempts are used up. Idle workers are told as they are of a new job.

use super::Queue;

/// What `rgrid_watch_queue('chancy')` watches.
pub const QUEUE: Queue = Queue {
    name: "chancy",
    default_schema: "public",
    main_table: "chancy_jobs",
    columns: &[
        ("chancy_jobs", "id", "uuid"),
        ("chancy_jobs", "queue", "text"),
        ("chancy_jobs", "state", "character varying"),
        ("chancy_jobs", "max_attempts", "integer"),
        ("chancy_jobs", "taken_by", "text"),
        ("chancy_jobs", "started_at", "timestamp with time zone"),
        ("chancy_jobs", "claim_id", "uuid"),
    ],
    functions: &[],
    versions: "chancy 0.26",
    running: "
SELECT job.taken_by, job.id::text
  FROM @queue@.chancy_jobs AS job
 WHERE job.state = 'running' AND job.taken_by = ANY ($1)",
    settle: "
WITH jobs AS MATERIALIZED (
    SELECT job.id, job.taken_by, job.claim_id
      FROM @queue@.chancy_jobs AS job
     WHERE job.state = 'running' AND job.taken_by = ANY ($1)
     ORDER BY job.id
       FOR UPDATE OF job SKIP LOCKED
), settled AS (
    UPDATE @queue@.chancy_jobs AS job
       SET state = 'pending', taken_by = NULL, claim_id = NULL, started_at = NULL,
           max_attempts = job.max_attempts + 1
      FROM jobs
     WHERE job.id = jobs.id
 RETURNING jobs.taken_by AS worker, job.id, jobs.claim_id, job.queue
), told AS MATERIALIZED (
    SELECT worker, id,
           CASE WHEN claim_id IS NOT NULL
                THEN pg_notify('chancy_events',
                               json_build_object('t', 'job.recovered', 'j', id, 'c', claim_id)::text)::text
           END AS worker_told,
           pg_notify('chancy_events', json_build_object('t', 'queue.pushed', 'q', queue)::text)::text AS others_told
      FROM settled
)
SELECT worker, id::text, true FROM told",
};
