//! Procrastinate, for Python: `procrastinate_jobs.worker_id` is the number of a row of `procrastinate_workers`.
//!
//! Jobs go back by the library's own function, which fails one whose abort was requested. Attempts are counted, and a
//! limit of them is known to the worker's program alone. The function leaves two things to do. It wakes nobody: the
//! library's trigger tells of new rows only. And it fails where another job waits with the same queueing lock, of which
//! only one may wait: the library refuses a second one, so such a job becomes `failed`.
//!
//! A worker that the library has pruned is no more in its jobs, so nothing here finds them: whose they were is not
//! known.

use super::Queue;

/// What `rgrid_watch_queue('procrastinate')` watches.
pub const QUEUE: Queue = Queue {
    name: "procrastinate",
    default_schema: "public",
    main_table: "procrastinate_jobs",
    columns: &[
        ("procrastinate_jobs", "id", "bigint"),
        ("procrastinate_jobs", "queue_name", "character varying"),
        ("procrastinate_jobs", "queueing_lock", "text"),
        ("procrastinate_jobs", "status", "procrastinate_job_status"),
        ("procrastinate_jobs", "abort_requested", "boolean"),
        ("procrastinate_jobs", "worker_id", "bigint"),
    ],
    functions: &[
        "procrastinate_retry_job_v2(bigint, timestamp with time zone, integer, character varying, character varying)",
        "procrastinate_finish_job_v1(bigint, @queue@.procrastinate_job_status, boolean)",
    ],
    versions: "procrastinate 3.4 and later",
    running: "
SELECT job.worker_id::text, job.id::text
  FROM @queue@.procrastinate_jobs AS job
 WHERE job.status = 'doing'
   AND job.worker_id IN (SELECT CASE WHEN id ~ '^[1-9][0-9]{0,17}$' THEN id::bigint END FROM unnest($1) AS id)",
    settle: "
WITH jobs AS MATERIALIZED (
    SELECT job.id, job.worker_id, job.queue_name, job.queueing_lock, job.abort_requested
      FROM @queue@.procrastinate_jobs AS job
     WHERE job.status = 'doing'
       AND job.worker_id IN (SELECT CASE WHEN id ~ '^[1-9][0-9]{0,17}$' THEN id::bigint END FROM unnest($1) AS id)
     ORDER BY job.id
       FOR UPDATE OF job SKIP LOCKED
), judged AS MATERIALIZED (
    SELECT jobs.*,
           queueing_lock IS NOT NULL AND NOT abort_requested
           AND (EXISTS (SELECT FROM @queue@.procrastinate_jobs AS waiting
                         WHERE waiting.queueing_lock = jobs.queueing_lock AND waiting.status = 'todo')
                OR row_number() OVER (PARTITION BY queueing_lock, abort_requested ORDER BY id) > 1) AS is_second
      FROM jobs
), settled AS MATERIALIZED (
    SELECT worker_id, id, NOT abort_requested AND NOT is_second AS requeued,
           CASE WHEN is_second THEN @queue@.procrastinate_finish_job_v1(id, 'failed', false)::text
                ELSE @queue@.procrastinate_retry_job_v2(id, now(), NULL, NULL, NULL)::text END AS done,
           json_build_object('type', 'job_inserted', 'job_id', id)::text AS news,
           queue_name
      FROM judged
), told AS MATERIALIZED (
    SELECT worker_id, id, requeued,
           CASE WHEN requeued THEN pg_notify('procrastinate_queue_v1#' || queue_name, news)::text END AS one,
           CASE WHEN requeued THEN pg_notify('procrastinate_any_queue_v1', news)::text END AS any
      FROM settled
)
SELECT worker_id::text, id::text, requeued FROM told",
};
