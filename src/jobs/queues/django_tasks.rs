//! Django's tasks in its database, by django-tasks-db: the last element of `worker_ids` is the worker.
//!
//! The library never runs a task twice, and counts nothing. A task goes back as it was before it was claimed, but for
//! the worker in the list, where each run stays. Workers poll every second; nothing wakes them.

use super::Queue;

/// What `rgrid_watch_queue('django_tasks')` watches.
pub const QUEUE: Queue = Queue {
    name: "django_tasks",
    default_schema: "public",
    main_table: "django_tasks_database_dbtaskresult",
    columns: &[
        ("django_tasks_database_dbtaskresult", "id", "uuid"),
        ("django_tasks_database_dbtaskresult", "status", "character varying"),
        ("django_tasks_database_dbtaskresult", "started_at", "timestamp with time zone"),
        ("django_tasks_database_dbtaskresult", "worker_ids", "jsonb"),
    ],
    functions: &[],
    versions: "django-tasks-db 0.13",
    running: "
SELECT task.worker_ids ->> -1, task.id::text
  FROM @queue@.django_tasks_database_dbtaskresult AS task
 WHERE task.status = 'RUNNING' AND task.worker_ids ->> -1 = ANY ($1)",
    settle: "
WITH tasks AS MATERIALIZED (
    SELECT task.id
      FROM @queue@.django_tasks_database_dbtaskresult AS task
     WHERE task.status = 'RUNNING' AND task.worker_ids ->> -1 = ANY ($1)
     ORDER BY task.id
       FOR UPDATE OF task SKIP LOCKED
)
UPDATE @queue@.django_tasks_database_dbtaskresult AS task
   SET status = 'READY', started_at = NULL
  FROM tasks
 WHERE task.id = tasks.id
RETURNING task.worker_ids ->> -1, task.id::text, true",
};
