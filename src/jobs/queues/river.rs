//! River. The client that runs a job is the last element of `attempted_by`. An attempt is counted when a job is
//! claimed, so it is not counted again here. River's own rescue makes a job `retryable`, which its scheduler takes up
//! every five seconds; as `available` it is taken up at once, as by River's own function to retry a job.

use super::Queue;

pub const QUEUE: Queue = Queue {
    name: "river",
    default_schema: "public",
    main_table: "river_job",
    columns: &[
        ("river_job", "attempt", "smallint"),
        ("river_job", "attempted_by", "text[]"),
        ("river_job", "errors", "jsonb[]"),
        ("river_job", "finalized_at", "timestamp with time zone"),
        ("river_job", "id", "bigint"),
        ("river_job", "max_attempts", "smallint"),
        ("river_job", "metadata", "jsonb"),
        ("river_job", "queue", "text"),
        ("river_job", "scheduled_at", "timestamp with time zone"),
        ("river_job", "state", "river_job_state"),
    ],
    functions: &[],
    versions: "River, with its migrations 4 to 7",
    running: r#"
        SELECT attempted_by[cardinality(attempted_by)], id::text
          FROM @queue@.river_job
         WHERE state = 'running' AND attempted_by[cardinality(attempted_by)] = ANY($1)"#,
    settle: r#"
        WITH dead AS (
            SELECT id, attempted_by[cardinality(attempted_by)] AS worker,
                   CASE WHEN metadata ? 'cancel_attempted_at' THEN 'cancelled'
                        WHEN attempt < max_attempts THEN 'available'
                        ELSE 'discarded' END AS state
              FROM @queue@.river_job
             WHERE state = 'running' AND attempted_by[cardinality(attempted_by)] = ANY($1)
               FOR UPDATE
        ), settled AS (
            UPDATE @queue@.river_job AS job
               SET state = dead.state::@queue@.river_job_state,
                   errors = job.errors || jsonb_build_object(
                       'at', now(), 'attempt', job.attempt, 'error', $2, 'trace', ''),
                   scheduled_at = CASE WHEN dead.state = 'available' THEN now() ELSE job.scheduled_at END,
                   finalized_at = CASE WHEN dead.state = 'available' THEN NULL ELSE now() END
              FROM dead WHERE job.id = dead.id
            RETURNING dead.worker, job.id, job.queue, job.tableoid AS relation, dead.state = 'available' AS again
        ), woken AS (
            SELECT count(pg_notify(nspname || '.river_insert', json_build_object('queue', queue)::text))
              FROM (SELECT DISTINCT queue, relation FROM settled WHERE again) AS queues
              JOIN pg_class ON pg_class.oid = relation
              JOIN pg_namespace ON pg_namespace.oid = relnamespace
        )
        SELECT worker, id::text, again FROM settled, woken"#,
};
