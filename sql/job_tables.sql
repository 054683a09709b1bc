-- The watched tables. RGrid's own, executions in the extension's schema, needs no row: it is watched with these
-- defaults as soon as it exists.
CREATE TABLE @extschema@.rgrid_job_tables (
    job_table regclass PRIMARY KEY,
    worker_column name NOT NULL DEFAULT 'worker_id',
    status_column name NOT NULL DEFAULT 'status',
    running_status text NOT NULL DEFAULT 'running',
    dead_status text NOT NULL DEFAULT 'failed',
    error_column name DEFAULT 'execution_error',
    error_message text NOT NULL DEFAULT 'Worker died unexpectedly',
    finished_column name DEFAULT 'completed_at'
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_job_tables', '');

COMMENT ON TABLE @extschema@.rgrid_job_tables IS
    'Tables whose running jobs are settled when their worker dies; executions in this schema needs no row';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.job_table IS 'The table of jobs';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.worker_column IS 'Column with the id of the worker that runs the job';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.status_column IS 'Column with the job''s status';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.running_status IS 'Status of a job that a worker is running';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.dead_status IS 'Status that a job gets when its worker died';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.error_column IS 'Column for the error message; NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.error_message IS 'What is written there';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.finished_column IS
    'Column for the time of the death: UTC in a timestamp, now in a timestamptz; NULL for none';
