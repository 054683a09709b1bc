-- What workers have left behind that returned while some of their jobs could not be settled. Not in dumps: the ids of
-- transactions mean nothing on another server.
CREATE TABLE @extschema@.rgrid_unsettled_jobs (
    worker_id text COLLATE pg_catalog."C" NOT NULL,
    incarnation bigint NOT NULL,
    job_table oid NOT NULL,
    row_versions pg_snapshot NOT NULL,
    job_keys text[] NOT NULL,
    reason text NOT NULL,
    noted_at timestamp with time zone NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (worker_id, incarnation, job_table)
);

COMMENT ON TABLE @extschema@.rgrid_unsettled_jobs IS
    'Jobs that could not be settled when their worker came back; sweepers settle those that have not changed since';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_jobs.worker_id IS 'The worker''s id';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_jobs.incarnation IS
    'The incarnation of the worker that ran the jobs; 0 if no death of it is known';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_jobs.job_table IS 'The watched table, as an OID';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_jobs.row_versions IS
    'A job that a later transaction has changed is left alone: the worker may have claimed it again';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_jobs.job_keys IS
    'Primary keys of the jobs; empty if the table could not be read, or has no primary key of one column';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_jobs.reason IS 'Why they could not be settled';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_jobs.noted_at IS 'When the worker came back, or left';
