-- Queues whose jobs are settled by a call: by a function of their owner, or by the statements that the library has for
-- a queue that it knows by name. Everything is text, so that a dump has it.
CREATE TABLE @extschema@.rgrid_job_queues (
    queue text COLLATE pg_catalog."C" NOT NULL,
    queue_schema text COLLATE pg_catalog."C" NOT NULL,
    running text,
    worker_prefix text NOT NULL,
    -- As in rgrid_job_tables.
    watched_by name NOT NULL DEFAULT CURRENT_USER CONSTRAINT rgrid_job_queues_watched_by_check
        CHECK (coalesce(pg_catalog.pg_has_role(
                            pg_catalog.to_regrole(pg_catalog.quote_ident(watched_by))::pg_catalog.oid, 'USAGE'),
                        pg_catalog.pg_has_role(10::pg_catalog.oid, 'USAGE'))),
    PRIMARY KEY (queue, queue_schema)
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_job_queues', '');

COMMENT ON TABLE @extschema@.rgrid_job_queues IS
    'Watched queues: those that are known by name, and those that a function of their owner settles';
COMMENT ON COLUMN @extschema@.rgrid_job_queues.queue IS
    'The name of the queue; or the function that settles its jobs, with schema and argument types';
COMMENT ON COLUMN @extschema@.rgrid_job_queues.queue_schema IS
    'The schema of the queue; empty if a function settles its jobs';
COMMENT ON COLUMN @extschema@.rgrid_job_queues.running IS
    'The function that returns what workers are running, with schema and argument types; NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_queues.worker_prefix IS
    'The queue''s workers are those whose id begins with this; the queue gets the rest of the id';
COMMENT ON COLUMN @extschema@.rgrid_job_queues.watched_by IS
    'The role that watched the queue. The row counts only while that role has the rights of the owner of the '
    'function, or of the queue''s tables';

-- In dumps: a job that was not settled for its dead worker is not settled where the dump is restored, either.
CREATE TABLE @extschema@.rgrid_unsettled_calls (
    queue text COLLATE pg_catalog."C" NOT NULL,
    queue_schema text COLLATE pg_catalog."C" NOT NULL,
    worker_id text COLLATE pg_catalog."C" NOT NULL,
    declared_dead_at timestamp with time zone NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (queue, queue_schema, worker_id)
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_unsettled_calls', '');

COMMENT ON TABLE @extschema@.rgrid_unsettled_calls IS
    'Dead workers whose jobs a queue has not settled yet; each sweep tries again';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_calls.queue IS 'As in rgrid_job_queues';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_calls.queue_schema IS 'As in rgrid_job_queues';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_calls.worker_id IS 'The worker''s id, with the prefix';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_calls.declared_dead_at IS 'When the worker was declared dead';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_calls.reason IS 'Why its jobs are not settled yet';

-- As with tables of jobs: for their owners, and PUBLIC has no EXECUTE.
CREATE FUNCTION @extschema@.rgrid_watch_function(
    settle regprocedure, running regprocedure DEFAULT NULL, worker_prefix text DEFAULT ''
) RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_watch_function_wrapper';
CREATE FUNCTION @extschema@.rgrid_unwatch_function(settle regprocedure)
    RETURNS boolean LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_unwatch_function_wrapper';
CREATE FUNCTION @extschema@.rgrid_watch_queue(
    queue text, queue_schema text DEFAULT NULL, worker_prefix text DEFAULT NULL
) RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_watch_queue_wrapper';
CREATE FUNCTION @extschema@.rgrid_unwatch_queue(queue text, queue_schema text DEFAULT NULL)
    RETURNS boolean LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_unwatch_queue_wrapper';
COMMENT ON FUNCTION @extschema@.rgrid_watch_function(regprocedure, regprocedure, text) IS
    'Lets a function settle the jobs of dead workers, or changes how; for the owner of the function';
COMMENT ON FUNCTION @extschema@.rgrid_unwatch_function(regprocedure) IS
    'Stops calling a function for dead workers; returns whether it was watched';
COMMENT ON FUNCTION @extschema@.rgrid_watch_queue(text, text, text) IS
    'Watches a queue that is known by name; for the owner of its tables';
COMMENT ON FUNCTION @extschema@.rgrid_unwatch_queue(text, text) IS
    'Stops watching a queue; returns whether it was watched';
