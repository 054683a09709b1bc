-- The watched tables. RGrid's own, executions in the extension's schema, needs no row: it is watched with the
-- defaults as soon as it exists. A row for it overrides them, or says that it is not watched.
CREATE TABLE @extschema@.rgrid_job_tables (
    job_table text COLLATE pg_catalog."C" PRIMARY KEY,
    worker_column name NOT NULL DEFAULT 'worker_id',
    status_column name NOT NULL DEFAULT 'status',
    running_status text NOT NULL DEFAULT 'running',
    dead_status text NOT NULL DEFAULT 'failed',
    error_column name DEFAULT 'execution_error',
    error_message text NOT NULL DEFAULT 'Worker died unexpectedly',
    finished_column name DEFAULT 'completed_at',
    watched boolean NOT NULL DEFAULT true,
    on_death text NOT NULL DEFAULT 'fail'
        CHECK (on_death OPERATOR(pg_catalog.=) ANY ('{fail,requeue}'::pg_catalog.text[])),
    queued_status text NOT NULL DEFAULT 'queued',
    attempts_column name DEFAULT 'retry_count',
    max_attempts_column name DEFAULT 'max_retries',
    max_attempts integer NOT NULL DEFAULT 3 CHECK (max_attempts OPERATOR(pg_catalog.>=) 0),
    started_column name,
    notify_keys boolean NOT NULL DEFAULT false,
    search_path name[],
    -- Who may write rows names itself, or a role whose rights it has: the owner of a table is not to be feigned. A
    -- superuser, who also restores dumps, may name every role, also one that is not there, or none. 10 is the first
    -- superuser.
    watched_by name DEFAULT CURRENT_USER CONSTRAINT rgrid_job_tables_watched_by_check
        CHECK (coalesce(pg_catalog.pg_has_role(
                            pg_catalog.to_regrole(pg_catalog.quote_ident(watched_by))::pg_catalog.oid, 'USAGE'),
                        pg_catalog.pg_has_role(10::pg_catalog.oid, 'USAGE'))),
    max_attempts_means text
        CHECK (max_attempts_means OPERATOR(pg_catalog.=) ANY ('{retries,attempts}'::pg_catalog.text[])),
    attempts_counted_at text NOT NULL DEFAULT 'death'
        CHECK (attempts_counted_at OPERATOR(pg_catalog.=) ANY ('{death,claim}'::pg_catalog.text[])),
    also_running text[] NOT NULL DEFAULT '{}',
    set_at_requeue text[] NOT NULL DEFAULT '{}',
    set_at_failure text[] NOT NULL DEFAULT '{}',
    wake_channel text,
    wake_payload text NOT NULL DEFAULT '',
    epoch_unit text
        CHECK (epoch_unit OPERATOR(pg_catalog.=) ANY ('{seconds,milliseconds}'::pg_catalog.text[]))
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_job_tables', '');

COMMENT ON TABLE @extschema@.rgrid_job_tables IS
    'Tables whose running jobs are settled when their worker dies; the table executions in this schema needs no row';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.job_table IS
    'The name of the table of jobs, with its schema, as in SQL; without a schema it is in the extension''s';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.worker_column IS 'Column with the id of the worker that runs the job';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.status_column IS 'Column with the job''s status';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.running_status IS 'Status of a job that a worker is running';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.dead_status IS 'Status of a job that failed with its worker';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.error_column IS 'Column for the error message; NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.error_message IS 'The error message';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.finished_column IS
    'Column for the time of the death: UTC in a date or timestamp, now in a timestamptz, a number in a bigint; '
    'NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.watched IS
    'Whether its jobs are settled; false is only for executions in this schema, which is watched without a row';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.on_death IS
    'fail: jobs of a dead worker are failed; requeue: they go back to the queue while they have attempts left';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.queued_status IS 'Status of a job that waits for a worker';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.attempts_column IS
    'Column that counts attempts, for requeue; NULL in it is 0. NULL if the extension counts them';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.max_attempts_column IS
    'Column with the limit of attempts; NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.max_attempts IS
    'The limit of attempts where there is no such column, or it is NULL';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.started_column IS
    'Column that is cleared when a job goes back to the queue; NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.notify_keys IS
    'Whether notifications have the primary keys of the jobs; every role that can connect can read notifications';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.search_path IS
    'The search_path when the table was watched; its triggers run with it. NULL for the table''s schema';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.watched_by IS
    'The role that watched the table. The row counts only while that role has the rights of the table''s owner. NULL '
    'in rows from before 0.3.0, which count as the owner''s';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.max_attempts_means IS
    'What the limit counts: retries; or attempts, which include the first one. NULL: attempts if max_attempts_column '
    'has attempt in its name, otherwise retries';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.attempts_counted_at IS
    'death: an attempt is counted when the job is settled; claim: the queue counts it when the job is claimed';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.also_running IS
    'Further statuses of jobs that belong to a worker, such as claimed but not started';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.set_at_requeue IS
    'Further columns that are set when a job goes back to the queue, each as column = value';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.set_at_failure IS
    'Further columns that are set when a job fails, each as column = value';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.wake_channel IS
    'Channel that gets a notification when jobs went back to the queue; NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.wake_payload IS 'The payload of that notification';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.epoch_unit IS
    'The unit of times in columns of type bigint: seconds or milliseconds since 1970; NULL for none';

-- How often jobs went back to the queue whose tables do not count that. By names, and kept by pg_dump, as the watched
-- tables are.
CREATE TABLE @extschema@.rgrid_job_attempts (
    job_table text COLLATE pg_catalog."C" NOT NULL,
    job_key text COLLATE pg_catalog."C" NOT NULL,
    attempts bigint NOT NULL CHECK (attempts OPERATOR(pg_catalog.>) 0),
    PRIMARY KEY (job_table, job_key)
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_job_attempts', '');

COMMENT ON TABLE @extschema@.rgrid_job_attempts IS
    'Attempts of jobs in watched tables that have no column for them; a job that was never requeued has no row';
COMMENT ON COLUMN @extschema@.rgrid_job_attempts.job_table IS 'The name of the table, as in rgrid_job_tables';
COMMENT ON COLUMN @extschema@.rgrid_job_attempts.job_key IS 'The job''s primary key';
COMMENT ON COLUMN @extschema@.rgrid_job_attempts.attempts IS
    'How many of its attempts ended with the death of a worker, since the job last failed';

-- Which table each watched name means. No part of a dump: OIDs mean nothing on another server.
CREATE TABLE @extschema@.rgrid_job_table_oids (
    job_table text COLLATE pg_catalog."C" PRIMARY KEY,
    relation oid NOT NULL,
    owner oid NOT NULL,
    fenced boolean NOT NULL,
    missing_since timestamp with time zone
);

COMMENT ON TABLE @extschema@.rgrid_job_table_oids IS
    'The table that each watched name meant when a sweeper last looked, to notice tables that are renamed or replaced';
COMMENT ON COLUMN @extschema@.rgrid_job_table_oids.job_table IS 'The name, as in rgrid_job_tables';
COMMENT ON COLUMN @extschema@.rgrid_job_table_oids.relation IS 'The OID of the table';
COMMENT ON COLUMN @extschema@.rgrid_job_table_oids.owner IS
    'The role that owned it; only a table of the same owner can take its place';
COMMENT ON COLUMN @extschema@.rgrid_job_table_oids.fenced IS
    'Whether it had a fence that was not taken down by rgrid_unfence()';
COMMENT ON COLUMN @extschema@.rgrid_job_table_oids.missing_since IS
    'Since when the table is missing; NULL while it exists';

-- The watched tables that were tried. No part of a dump: a restored table was not tried where it is now.
CREATE TABLE @extschema@.rgrid_tried_tables (
    job_table oid PRIMARY KEY,
    tried_at timestamp with time zone NOT NULL
);

COMMENT ON TABLE @extschema@.rgrid_tried_tables IS 'Watched tables in which a death or a rehearsal has settled a job';
COMMENT ON COLUMN @extschema@.rgrid_tried_tables.job_table IS 'The table of jobs, as an OID';
COMMENT ON COLUMN @extschema@.rgrid_tried_tables.tried_at IS
    'When that first happened since the watch was last changed';

-- The owner of a table of jobs calls these, and they check that themselves. But the superuser decides which owners the
-- sweepers work for: PUBLIC has no EXECUTE.
CREATE FUNCTION @extschema@.rgrid_watch_jobs(
    job_table regclass,
    worker_column name DEFAULT 'worker_id',
    status_column name DEFAULT 'status',
    running_status text DEFAULT 'running',
    dead_status text DEFAULT 'failed',
    error_column name DEFAULT 'execution_error',
    error_message text DEFAULT 'Worker died unexpectedly',
    finished_column name DEFAULT 'completed_at',
    on_death text DEFAULT 'fail',
    queued_status text DEFAULT 'queued',
    attempts_column name DEFAULT 'retry_count',
    max_attempts_column name DEFAULT 'max_retries',
    started_column name DEFAULT NULL,
    max_attempts integer DEFAULT 3,
    notify_keys boolean DEFAULT false,
    max_attempts_means text DEFAULT NULL,
    attempts_counted_at text DEFAULT 'death',
    also_running text[] DEFAULT '{}',
    set_at_requeue text[] DEFAULT '{}',
    set_at_failure text[] DEFAULT '{}',
    wake_channel text DEFAULT NULL,
    wake_payload text DEFAULT '',
    epoch_unit text DEFAULT NULL
) RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_watch_jobs_0_3_wrapper';
CREATE FUNCTION @extschema@.rgrid_unwatch_jobs(job_table regclass)
    RETURNS boolean LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_unwatch_jobs_wrapper';
CREATE FUNCTION @extschema@.rgrid_rehearse(job_table regclass) RETURNS TABLE (
    status text,
    detail text,
    hint text
) LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_rehearse_wrapper';
COMMENT ON FUNCTION @extschema@.rgrid_watch_jobs(
    regclass, name, name, text, text, name, text, name, text, text, name, name, name, integer, boolean,
    text, text, text[], text[], text[], text, text, text) IS
    'Watches a table of jobs, or changes how it is watched; for its owner';
COMMENT ON FUNCTION @extschema@.rgrid_unwatch_jobs(regclass) IS
    'Stops watching a table of jobs; returns whether it was watched';
COMMENT ON FUNCTION @extschema@.rgrid_rehearse(regclass) IS
    'Settles a job of a watched table and undoes it; returns a row for each attempt, with status ok, warning or error';
