-- Rights on the functions, and their comments. A worker's role needs EXECUTE on those that it calls and no right on any
-- table.
REVOKE ALL ON FUNCTION @extschema@.rgrid_heartbeat(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.rgrid_heartbeat(text[], text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.rgrid_register(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.rgrid_deregister(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.rgrid_sweep(boolean, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.rgrid_stale_workers(interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_stale_workers(interval) TO pg_monitor;
GRANT SELECT ON @extschema@.rgrid_worker_deaths, @extschema@.rgrid_job_tables TO pg_monitor;

COMMENT ON FUNCTION @extschema@.rgrid_heartbeat(text, text) IS
    'A worker is alive; returns its incarnation, which grows when it was declared dead';
COMMENT ON FUNCTION @extschema@.rgrid_heartbeat(text[], text) IS
    'Many workers of one host are alive; returns their incarnations in the same order';
COMMENT ON FUNCTION @extschema@.rgrid_register(text, text) IS
    'A worker starts; returns its id, generated when NULL, and its incarnation';
COMMENT ON FUNCTION @extschema@.rgrid_deregister(text) IS
    'A worker stops on purpose; returns whether it was known';
COMMENT ON FUNCTION @extschema@.rgrid_sweep(boolean, boolean) IS
    'Declares silent workers dead and settles their jobs now, or shows which workers and jobs that would be';
COMMENT ON FUNCTION @extschema@.rgrid_stale_workers(interval) IS
    'Workers silent for longer than the threshold, the longest silence first';

-- When this commits, silence starts to count and the launcher looks at the database. Not needed afterwards.
SELECT @extschema@.rgrid_installed();
DROP FUNCTION @extschema@.rgrid_installed();
