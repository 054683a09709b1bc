//! DBOS, for Python and the other languages that share its tables: `workflow_status.executor_id` is the worker.
//!
//! A workflow goes back as the library's own recovery puts it back, for every executor to take: to its queue, and one
//! that was started without a queue to the library's internal one. The attempt is counted at the next claim, where the
//! library gives up a workflow that has had too many. Executors poll every second; nothing wakes them.

use super::Queue;

/// What `rgrid_watch_queue('dbos')` watches.
pub const QUEUE: Queue = Queue {
    name: "dbos",
    default_schema: "dbos",
    main_table: "workflow_status",
    columns: &[
        ("workflow_status", "workflow_uuid", "text"),
        ("workflow_status", "status", "text"),
        ("workflow_status", "executor_id", "text"),
        ("workflow_status", "queue_name", "text"),
        ("workflow_status", "owner_xid", "text"),
        ("workflow_status", "started_at_epoch_ms", "bigint"),
        ("workflow_status", "updated_at", "bigint"),
    ],
    functions: &[],
    versions: "dbos 3.4",
    running: "
SELECT workflow.executor_id, workflow.workflow_uuid
  FROM @queue@.workflow_status AS workflow
 WHERE workflow.status = 'PENDING' AND workflow.executor_id = ANY ($1)",
    settle: "
WITH workflows AS MATERIALIZED (
    SELECT workflow.workflow_uuid, workflow.executor_id
      FROM @queue@.workflow_status AS workflow
     WHERE workflow.status = 'PENDING' AND workflow.executor_id = ANY ($1)
     ORDER BY workflow.workflow_uuid
       FOR UPDATE OF workflow SKIP LOCKED
)
UPDATE @queue@.workflow_status AS workflow
   SET status = 'ENQUEUED', owner_xid = NULL, started_at_epoch_ms = NULL,
       updated_at = (extract(epoch FROM now()) * 1000)::bigint,
       queue_name = coalesce(workflow.queue_name, '_dbos_internal_queue')
  FROM workflows
 WHERE workflow.workflow_uuid = workflows.workflow_uuid
RETURNING workflows.executor_id, workflow.workflow_uuid, true",
};
