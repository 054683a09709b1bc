-- What the extension brings, and the tools of the tests that follow.
CREATE EXTENSION rgrid_heartbeat;

-- Every object has a comment.
SELECT pg_describe_object(d.classid, d.objid, 0) AS without_comment
FROM pg_depend d JOIN pg_extension x ON d.refobjid = x.oid AND d.refclassid = 'pg_extension'::regclass
WHERE x.extname = 'rgrid_heartbeat' AND d.deptype = 'e' AND d.classid <> 'pg_type'::regclass -- since 18 those of tables
  AND obj_description(d.objid, d.classid::regclass::text) IS NULL;
SELECT c.relname, a.attname AS without_comment
FROM pg_depend d JOIN pg_extension x ON d.refobjid = x.oid AND d.refclassid = 'pg_extension'::regclass
JOIN pg_class c ON c.oid = d.objid AND d.classid = 'pg_class'::regclass
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE x.extname = 'rgrid_heartbeat' AND col_description(c.oid, a.attnum) IS NULL;

-- The functions, with the arguments that workers and operators rely on.
\pset format unaligned
SELECT p.proname, pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
ORDER BY 1, 2;
\pset format aligned

-- The settings.
SELECT name, setting, unit, context, min_val, max_val FROM pg_settings
WHERE name LIKE 'rgrid\_heartbeat.%' AND name <> ALL ('{rgrid_heartbeat.check_interval,rgrid_heartbeat.max_workers}') ORDER BY name;

-- Free space on the pages, and no index on the time: a heartbeat is a HOT update.
SELECT reloptions FROM pg_class WHERE oid = 'worker_heartbeats'::regclass;
SELECT count(*) AS indexes FROM pg_index WHERE indrelid = 'worker_heartbeats'::regclass;

-- A server that has just started judges nobody; wait until it listened for the threshold of the tests.
CREATE FUNCTION wait_until_judging() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + '30 seconds';
BEGIN
    INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at) VALUES ('probe', '2000-01-01');
    WHILE NOT EXISTS (SELECT FROM rgrid_sweep(dry_run => true) WHERE worker_id = 'probe') LOOP
        IF clock_timestamp() > deadline THEN
            RAISE 'nobody is ever judged';
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    DELETE FROM worker_heartbeats WHERE worker_id = 'probe';
END
$$;
-- RGrid's table of jobs, as far as the extension looks at it.
CREATE TABLE executions (
    id bigserial PRIMARY KEY,
    status varchar(50) NOT NULL,
    worker_id varchar(64),
    execution_error text,
    completed_at timestamp
);
-- A worker that has been silent since long ago.
CREATE FUNCTION die(worker text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at) VALUES (worker, '2000-01-01')
    ON CONFLICT (worker_id) DO UPDATE SET last_heartbeat_at = '2000-01-01'
$$;
-- Workers leave no trace for the next test.
CREATE FUNCTION forget_all() RETURNS void LANGUAGE sql AS $$
    SELECT rgrid_deregister(worker_id) FROM worker_heartbeats;
    TRUNCATE rgrid_worker_deaths, rgrid_incarnations, executions, rgrid_job_tables;
$$;
