//! Oban. `attempted_by` is the node and the id of the producer that runs a job: one for each queue of a node, a new
//! one whenever the queue is started. The id is the worker, because a node that is started anew has the same name. An
//! attempt is counted when a job is claimed, and a job without attempts left is never claimed.

use super::Queue;

pub const QUEUE: Queue = Queue {
    name: "oban",
    default_schema: "public",
    main_table: "oban_jobs",
    columns: &[
        ("oban_jobs", "attempted_by", "text[]"),
        ("oban_jobs", "discarded_at", "timestamp without time zone"),
        ("oban_jobs", "id", "bigint"),
        ("oban_jobs", "queue", "text"),
        ("oban_jobs", "state", "oban_job_state"),
    ],
    functions: &[],
    versions: "Oban, with its migrations 8 to 14",
    running: r#"
        SELECT attempted_by[2], id::text
          FROM @queue@.oban_jobs
         WHERE state = 'executing' AND attempted_by[2] = ANY($1)"#,
    settle: r#"
        WITH settled AS (
            UPDATE @queue@.oban_jobs
               SET state = (CASE WHEN attempt < max_attempts THEN 'available'
                                 ELSE 'discarded' END)::@queue@.oban_job_state,
                   discarded_at = CASE WHEN attempt < max_attempts THEN discarded_at
                                       ELSE timezone('UTC', now()) END
             WHERE state = 'executing' AND attempted_by[2] = ANY($1)
            RETURNING attempted_by[2] AS worker, id, queue, tableoid AS relation, attempt < max_attempts AS again
        ), woken AS (
            SELECT count(pg_notify(nspname || '.oban_insert', json_build_object('queue', queue)::text))
              FROM (SELECT DISTINCT queue, relation FROM settled WHERE again) AS queues
              JOIN pg_class ON pg_class.oid = relation
              JOIN pg_namespace ON pg_namespace.oid = relnamespace
        )
        SELECT worker, id::text, again FROM settled, woken"#,
};
