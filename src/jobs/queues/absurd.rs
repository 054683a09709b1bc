//! Absurd. Each of its queues has tables of its own, so they are read by a query that is made up for each. The
//! library's function fails the run and makes the next one, if the task has attempts left.

use super::Queue;

pub const QUEUE: Queue = Queue {
    name: "absurd",
    default_schema: "absurd",
    main_table: "queues",
    columns: &[("queues", "queue_name", "text")],
    functions: &["fail_run(text,uuid,jsonb,timestamp with time zone)", "get_task_result(text,uuid)"],
    versions: "Absurd 0.5",
    running: r#"
        SELECT ($1)[run.worker], queue_name || ':' || run_id
          FROM @queue@.queues
         CROSS JOIN xmltable('/table/row'
                   PASSING query_to_xml(format(
                       'SELECT run_id, array_position(%1$L::text[], claimed_by) AS worker
                          FROM @queue@.%2$I WHERE state = ''running'' AND claimed_by = ANY(%1$L)',
                       $1, 'r_' || queue_name), false, false, '')
                   COLUMNS run_id uuid, worker integer) AS run"#,
    settle: r#"
        WITH dead AS MATERIALIZED (
            SELECT queue_name, run_id, task_id, ($1)[run.worker] AS worker
              FROM @queue@.queues
             CROSS JOIN xmltable('/table/row'
                       PASSING query_to_xml(format(
                           'SELECT run_id, task_id, array_position(%1$L::text[], claimed_by) AS worker
                              FROM @queue@.%2$I WHERE state = ''running'' AND claimed_by = ANY(%1$L)',
                           $1, 'r_' || queue_name), false, false, '')
                       COLUMNS run_id uuid, task_id uuid, worker integer) AS run
        ), failed AS MATERIALIZED (
            SELECT queue_name, run_id, task_id, worker, @queue@.fail_run(queue_name, run_id,
                       jsonb_build_object('name', '$WorkerDied', 'message', $2, 'workerId', worker))
              FROM dead
        )
        SELECT worker, queue_name || ':' || run_id, (
                   SELECT state NOT IN ('failed', 'cancelled') FROM @queue@.get_task_result(queue_name, task_id))
          FROM failed"#,
};
