-- From the first version: the ledger's second index, incarnations that outlive the ledger, watched tables with
-- a policy of their own, the fence, what operators read, and a sweep by hand that can be forced.
CREATE INDEX rgrid_worker_deaths_declared ON @extschema@.rgrid_worker_deaths (declared_dead_at);
COMMENT ON INDEX @extschema@.rgrid_worker_deaths_dead IS 'The dead, each once';
COMMENT ON INDEX @extschema@.rgrid_worker_deaths_declared IS 'Deaths by time, for those that get old';

-- The numbers that must outlive the ledger's rows. The row with an empty id has the number that a worker gets of whom
-- nothing is known; the others have the numbers of workers that were alive, and had never died, when that one grew.
CREATE TABLE @extschema@.rgrid_incarnations (
    worker_id text PRIMARY KEY,
    incarnation bigint NOT NULL CHECK (incarnation OPERATOR(pg_catalog.>) 0)
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_incarnations', '');

COMMENT ON TABLE @extschema@.rgrid_incarnations IS
    'Incarnations that the ledger does not tell, because deaths were pruned from it';
COMMENT ON COLUMN @extschema@.rgrid_incarnations.worker_id IS
    'The worker''s id; empty for the incarnation of workers of whom nothing is known';
COMMENT ON COLUMN @extschema@.rgrid_incarnations.incarnation IS 'The number that its heartbeats answer';

ALTER TABLE @extschema@.rgrid_job_tables
    ADD COLUMN watched boolean NOT NULL DEFAULT true,
    ADD COLUMN on_death text NOT NULL DEFAULT 'fail'
        CHECK (on_death OPERATOR(pg_catalog.=) ANY ('{fail,requeue}'::pg_catalog.text[])),
    ADD COLUMN queued_status text NOT NULL DEFAULT 'queued',
    ADD COLUMN attempts_column name DEFAULT 'retry_count',
    ADD COLUMN max_attempts_column name DEFAULT 'max_retries',
    ADD COLUMN max_attempts integer NOT NULL DEFAULT 3 CHECK (max_attempts OPERATOR(pg_catalog.>=) 0),
    ADD COLUMN started_column name,
    ADD CHECK (on_death OPERATOR(pg_catalog.=) 'fail' OR attempts_column IS NOT NULL);
COMMENT ON COLUMN @extschema@.rgrid_job_tables.dead_status IS 'Status of a job that failed with its worker';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.finished_column IS
    'Column for the time of the death: UTC in a date or timestamp, now in a timestamptz; NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.watched IS
    'Whether it is settled; false only for executions in this schema, which would be watched without a row';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.on_death IS
    'fail: jobs of a dead worker are failed; requeue: they go back to the queue while they have attempts left';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.queued_status IS 'Status of a job that waits for a worker';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.attempts_column IS
    'Column that counts the attempts used up, for requeue; NULL counts as 0';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.max_attempts_column IS
    'Column with the attempts that a job may use up; NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.max_attempts IS
    'The same for all jobs, where there is no such column or it is NULL';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.started_column IS
    'Column that is cleared when a job goes back to the queue; NULL for none';

-- The owner of a table of jobs calls these. They check the owner themselves, but whom the database's processes work for
-- is for the superuser to say: EXECUTE is not PUBLIC's.
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
    max_attempts integer DEFAULT 3
) RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_watch_jobs_wrapper';
CREATE FUNCTION @extschema@.rgrid_unwatch_jobs(job_table regclass)
    RETURNS boolean LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_unwatch_jobs_wrapper';
REVOKE ALL ON FUNCTION @extschema@.rgrid_watch_jobs(
    regclass, name, name, text, text, name, text, name, text, text, name, name, name, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.rgrid_unwatch_jobs(regclass) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.rgrid_watch_jobs(
    regclass, name, name, text, text, name, text, name, text, text, name, name, name, integer) IS
    'Watches a table of jobs, or changes how it is watched; for its owner';
COMMENT ON FUNCTION @extschema@.rgrid_unwatch_jobs(regclass) IS
    'Watches a table of jobs no longer; answers whether it was watched';

CREATE FUNCTION @extschema@.rgrid_fence_violated() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_fence_violated_wrapper';

-- Fences: triggers on tables of jobs that keep late results away. Their function raises the error; whether there is
-- one to raise is tested by each trigger's WHEN clause. A table's owner must be able to make one.
CREATE FUNCTION @extschema@.rgrid_fence(job_table regclass) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_fence_wrapper';
CREATE FUNCTION @extschema@.rgrid_unfence(job_table regclass) RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_unfence_wrapper';
REVOKE ALL ON FUNCTION @extschema@.rgrid_fence(regclass) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.rgrid_unfence(regclass) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.rgrid_fence(regclass) IS
    'Refuses results of jobs that were given up because their worker was declared dead';
COMMENT ON FUNCTION @extschema@.rgrid_unfence(regclass) IS
    'Takes the fence off a table of jobs; answers whether there was one';
COMMENT ON FUNCTION @extschema@.rgrid_fence_violated() IS
    'Trigger function of fences: raises the error that a job was given up';

CREATE FUNCTION @extschema@.rgrid_health() RETURNS TABLE (
    check_name text,
    status text,
    detail text,
    hint text
) STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_health_wrapper';

CREATE FUNCTION @extschema@.rgrid_stat_databases() RETURNS TABLE (
    datid oid,
    has_extension boolean,
    observing_since timestamp with time zone,
    sweeps bigint,
    last_sweep_started_at timestamp with time zone,
    last_sweep_finished_at timestamp with time zone,
    last_sweep_seconds double precision,
    heartbeats_in_row bigint,
    flushes bigint,
    rows_flushed bigint,
    deaths bigint,
    false_deaths bigint,
    held_workers bigint,
    held_until timestamp with time zone,
    jobs_failed bigint,
    jobs_requeued bigint,
    locked_jobs bigint,
    workers_from_the_future bigint,
    workers_pruned bigint,
    deaths_pruned bigint,
    typical_gap_seconds double precision,
    longest_gap_seconds double precision,
    errors bigint,
    failures_in_a_row bigint,
    last_error text,
    last_error_at timestamp with time zone,
    buffer_entries bigint,
    buffer_capacity bigint,
    stats_reset timestamp with time zone
) STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_stat_databases_wrapper';

CREATE FUNCTION @extschema@.rgrid_stat_reset() RETURNS void STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_stat_reset_wrapper';

CREATE FUNCTION @extschema@.rgrid_worker_states() RETURNS TABLE (
    worker_id text,
    hostname text,
    state text,
    incarnation bigint,
    last_heartbeat_at timestamp with time zone,
    seconds_since_heartbeat double precision,
    declared_dead_at timestamp with time zone
) STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_worker_states_wrapper';

-- What operators read. Every column has its meaning, and its unit when it has one, in its comment.
CREATE VIEW @extschema@.rgrid_workers AS
SELECT w.worker_id, w.hostname, w.state, w.incarnation, w.last_heartbeat_at, w.seconds_since_heartbeat,
       w.declared_dead_at
FROM @extschema@.rgrid_worker_states() AS w;

CREATE VIEW @extschema@.pg_stat_rgrid_heartbeat AS
SELECT s.datid, d.datname, s.has_extension, s.observing_since, s.sweeps, s.last_sweep_started_at,
       s.last_sweep_finished_at, s.last_sweep_seconds, s.heartbeats_in_row, s.flushes, s.rows_flushed, s.deaths,
       s.false_deaths, s.held_workers, s.held_until, s.jobs_failed, s.jobs_requeued, s.locked_jobs,
       s.workers_from_the_future, s.workers_pruned, s.deaths_pruned, s.typical_gap_seconds,
       s.longest_gap_seconds, s.errors, s.failures_in_a_row, s.last_error, s.last_error_at, s.buffer_entries,
       s.buffer_capacity, s.stats_reset
FROM @extschema@.rgrid_stat_databases() AS s
LEFT JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) s.datid;

REVOKE ALL ON FUNCTION @extschema@.rgrid_worker_states() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.rgrid_stat_databases() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.rgrid_stat_reset() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.rgrid_health() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_worker_states() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_stat_databases() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_health() TO pg_monitor;
GRANT SELECT ON @extschema@.rgrid_workers, @extschema@.pg_stat_rgrid_heartbeat TO pg_monitor;

COMMENT ON FUNCTION @extschema@.rgrid_worker_states() IS 'What the view rgrid_workers shows';
COMMENT ON FUNCTION @extschema@.rgrid_stat_databases() IS 'What the view pg_stat_rgrid_heartbeat shows';
COMMENT ON FUNCTION @extschema@.rgrid_stat_reset() IS
    'Starts the counters and gaps of this database in pg_stat_rgrid_heartbeat anew';
COMMENT ON FUNCTION @extschema@.rgrid_health() IS
    'Whether everything works here, a row a check: status ok, warning or error, what was found, what mends it';

COMMENT ON VIEW @extschema@.rgrid_workers IS
    'Every worker that has a row in worker_heartbeats, with what is known in memory; exact at any moment';
COMMENT ON COLUMN @extschema@.rgrid_workers.worker_id IS 'The worker''s id';
COMMENT ON COLUMN @extschema@.rgrid_workers.hostname IS 'The host that the worker named, or the address that it called from';
COMMENT ON COLUMN @extschema@.rgrid_workers.state IS
    'alive; stale: silent for longer than the threshold, not declared dead yet; dead: in the ledger, not returned';
COMMENT ON COLUMN @extschema@.rgrid_workers.incarnation IS
    'The number that its heartbeats answer; of a dead worker, the one that it gets when it returns';
COMMENT ON COLUMN @extschema@.rgrid_workers.last_heartbeat_at IS 'When it was last heard of';
COMMENT ON COLUMN @extschema@.rgrid_workers.seconds_since_heartbeat IS 'How long ago that was, in seconds';
COMMENT ON COLUMN @extschema@.rgrid_workers.declared_dead_at IS 'When it was declared dead; NULL while it is not dead';

COMMENT ON VIEW @extschema@.pg_stat_rgrid_heartbeat IS
    'A row a database that the launcher knows, counted since stats_reset; lost in a crash of the server';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.datid IS 'OID of the database';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.datname IS 'Name of the database';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.has_extension IS
    'Whether the last sweeper found the extension there; NULL before the first';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.observing_since IS
    'Silence before this time proves nothing: when the server, or its watch over this database, last started anew';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.sweeps IS 'Sweeps that sweepers have finished';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_sweep_started_at IS 'When the last sweep began';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_sweep_finished_at IS
    'When the last sweep was done that got to its end';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_sweep_seconds IS
    'How long that took, in seconds; NULL while another one is at work or has failed';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.heartbeats_in_row IS
    'Heartbeats that were written to their rows at once, rolled back or not: first ones, returns, other hostnames, '
    'ids or workers that do not fit in memory. Heartbeats in memory are not counted';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.flushes IS 'Flushes that wrote heartbeats from memory to rows';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.rows_flushed IS
    'Rows that they wrote: a worker counts once a flush, however often it has beaten';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.deaths IS 'Rows added to the ledger, of every reason';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.false_deaths IS
    'Workers that returned after they had been declared dead for their silence';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.held_workers IS
    'Silent workers that are held back now because they are so many at once';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.held_until IS
    'When that ends at the latest, by the threshold of the present session; NULL while nobody is held back';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.locked_jobs IS
    'Running jobs of dead workers that the last sweep left alone because others had locked them';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.workers_from_the_future IS
    'Workers whose heartbeats were from the future, each time that a sweep found one, since the server started';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.jobs_failed IS 'Running jobs that were marked as failed';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.jobs_requeued IS 'Running jobs that went back to the queue';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.workers_pruned IS
    'Rows of dead workers that were removed because they were older than the retention';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.deaths_pruned IS 'Rows of the ledger that were removed, likewise';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.typical_gap_seconds IS
    'Median time between two heartbeats of a worker, in seconds, seen at flushes in the last hours; NULL before enough were';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.longest_gap_seconds IS
    'Their 99th percentile, in seconds; too low by up to a fifth and flush_interval, never too high';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.errors IS 'Rounds of sweepers that met a problem or failed';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.failures_in_a_row IS
    'Sweepers that failed since the last one that did not';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_error IS
    'The last problem, at most 256 bytes of it, which may be over; also in the server''s log';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_error_at IS 'When it was last met';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.buffer_entries IS
    'Workers of this database whose heartbeats are kept in memory';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.buffer_capacity IS
    'Workers of all databases together that fit there: rgrid_heartbeat.max_workers';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.stats_reset IS 'When counting began';

-- A function cannot be given another argument: it is replaced, and whoever was granted the old one has the new one.
-- Those grants stay what they are for pg_dump, the database's own and not the extension's.
CREATE FUNCTION @extschema@.rgrid_sweep(
    dry_run boolean DEFAULT false,
    force boolean DEFAULT false
) RETURNS TABLE (
    worker_id text,
    hostname text,
    last_heartbeat_at timestamp with time zone,
    job_table text,
    jobs_failed bigint,
    jobs_requeued bigint
) STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_sweep_0_2_wrapper';
REVOKE ALL ON FUNCTION @extschema@.rgrid_sweep(boolean, boolean) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.rgrid_sweep(boolean, boolean) IS
    'Declares silent workers dead and settles their jobs now, or says whom and what that would be';
DO $$
DECLARE
    former oid := '@extschema@.rgrid_sweep(boolean)'::pg_catalog.regprocedure;
    present oid := '@extschema@.rgrid_sweep(boolean, boolean)'::pg_catalog.regprocedure;
    initial pg_catalog.aclitem[] := (SELECT i.initprivs FROM pg_catalog.pg_init_privs i
                                     WHERE i.objoid OPERATOR(pg_catalog.=) present
                                       AND i.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass);
    given record;
BEGIN
    FOR given IN
        SELECT a.grantee, a.is_grantable
        FROM pg_catalog.pg_proc p, LATERAL pg_catalog.aclexplode(p.proacl) AS a
        WHERE p.oid OPERATOR(pg_catalog.=) former AND a.grantee OPERATOR(pg_catalog.<>) p.proowner
    LOOP
        EXECUTE pg_catalog.format(
            'GRANT EXECUTE ON FUNCTION @extschema@.rgrid_sweep(boolean, boolean) TO %s%s',
            CASE WHEN given.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
                 ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(given.grantee)) END,
            CASE WHEN given.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
    UPDATE pg_catalog.pg_init_privs i SET initprivs = initial
    WHERE i.objoid OPERATOR(pg_catalog.=) present
      AND i.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass;
END
$$;
DROP FUNCTION @extschema@.rgrid_sweep(boolean);

-- Heartbeats were refused until now: when this commits, silence starts to count.
CREATE FUNCTION @extschema@.rgrid_installed() RETURNS void STRICT LANGUAGE c
AS 'MODULE_PATHNAME', 'rgrid_installed_wrapper';
SELECT @extschema@.rgrid_installed();
DROP FUNCTION @extschema@.rgrid_installed();
