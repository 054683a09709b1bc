//! pg-boss. Its jobs do not say who runs them. So their table needs a further column, `claimed_by`, and a trigger that
//! fills it with the `application_name` of the session that claims them. An attempt is counted when a job is claimed
//! that was claimed before, so it is not counted here.
//!
//! Versions differ in the columns that a job has. So the copy of a failed one in its dead letter queue is made of
//! those that are there, by way of jsonb.

use super::Queue;

pub const QUEUE: Queue = Queue {
    name: "pg_boss",
    default_schema: "pgboss",
    main_table: "job",
    columns: &[
        ("job", "claimed_by", "text"),
        ("job", "completed_on", "timestamp with time zone"),
        ("job", "dead_letter", "text"),
        ("job", "id", "uuid"),
        ("job", "keep_until", "timestamp with time zone"),
        ("job", "name", "text"),
        ("job", "output", "jsonb"),
        ("job", "policy", "text"),
        ("job", "retry_backoff", "boolean"),
        ("job", "retry_count", "integer"),
        ("job", "retry_delay", "integer"),
        ("job", "retry_limit", "integer"),
        ("job", "singleton_key", "text"),
        ("job", "start_after", "timestamp with time zone"),
        ("job", "state", "job_state"),
        ("queue", "name", "text"),
    ],
    functions: &[],
    versions: "pg-boss 10 to 12, with the column claimed_by",
    running: r#"
        SELECT claimed_by, name || ':' || id FROM @queue@.job WHERE state = 'active' AND claimed_by = ANY($1)"#,
    settle: r#"
        WITH dead AS (
            SELECT job.name, job.id,
                   -- Two waiting retries of one key are one too many for this policy.
                   job.retry_count < job.retry_limit AND NOT (job.policy IS NOT DISTINCT FROM 'stately' AND EXISTS (
                       SELECT FROM @queue@.job AS twin
                        WHERE twin.name = job.name AND twin.state = 'retry'
                          AND twin.singleton_key IS NOT DISTINCT FROM job.singleton_key)) AS again,
                   CASE WHEN job.retry_backoff
                        THEN least(greatest(job.retry_delay, 1) * 2 ^ least(16, job.retry_count) * (1 + random()),
                                   (to_jsonb(job) ->> 'retry_delay_max')::float8)
                        ELSE job.retry_delay END AS delay
              FROM @queue@.job AS job
             WHERE job.state = 'active' AND job.claimed_by = ANY($1)
               FOR UPDATE OF job
        ), settled AS (
            UPDATE @queue@.job AS job
               SET state = (CASE WHEN dead.again THEN 'retry' ELSE 'failed' END)::@queue@.job_state,
                   start_after = CASE WHEN dead.again THEN now() + make_interval(secs => dead.delay)
                                      ELSE job.start_after END,
                   completed_on = CASE WHEN dead.again THEN NULL ELSE now() END,
                   output = jsonb_build_object('value', jsonb_build_object('message', $2))
              FROM dead WHERE job.name = dead.name AND job.id = dead.id
            RETURNING job.claimed_by AS worker, job.name, job.id, dead.again, job.tableoid AS relation,
                      to_jsonb(job) AS job
        ), letters AS (
            INSERT INTO @queue@.job
            SELECT letter.*
              FROM settled
              JOIN @queue@.queue AS queue ON queue.name = job ->> 'dead_letter' AND queue.name <> settled.name
             CROSS JOIN to_jsonb(queue) AS given
             CROSS JOIN jsonb_populate_record(NULL::@queue@.job,
                       job - '{started_on,completed_on,output,singleton_on,dead_letter,policy,claimed_by,
                               heartbeat_on,upsert_by_key}'::text[]
                       || jsonb_strip_nulls(jsonb_build_object(
                              'retry_limit', given -> 'retry_limit', 'retry_delay', given -> 'retry_delay',
                              'retry_backoff', given -> 'retry_backoff', 'expire_seconds', given -> 'expire_seconds',
                              'deletion_seconds', given -> 'deletion_seconds',
                              'keep_until', now() + (given ->> 'retention_seconds')::int * interval '1 s'))
                       || jsonb_build_object(
                              'id', gen_random_uuid(), 'name', queue.name, 'state', 'created', 'retry_count', 0,
                              'start_after', now(), 'created_on', now(),
                              'heartbeat_seconds', given -> 'heartbeat_seconds',
                              'blocked', false, 'blocking', false, 'pending_dependencies', 0,
                              'source_name', job -> 'name', 'source_id', job -> 'id',
                              'source_created_on', job -> 'created_on', 'source_retry_count', job -> 'retry_count',
                              'source_output', job -> 'output',
                              'source_root_id', coalesce(job ->> 'source_root_id', job ->> 'id'))) AS letter
             WHERE NOT again
        ), woken AS (
            SELECT count(pg_notify(
                       'pgboss_' || left(encode(sha224(convert_to(nspname, 'UTF8')), 'hex'), 24), queue.name))
              FROM (SELECT DISTINCT name, relation FROM settled WHERE again) AS names
              JOIN @queue@.queue AS queue USING (name)
              JOIN pg_class ON pg_class.oid = relation
              JOIN pg_namespace ON pg_namespace.oid = relnamespace
             WHERE (to_jsonb(queue) ->> 'notify')::boolean
        )
        SELECT worker, name || ':' || id, again FROM settled, woken"#,
};
