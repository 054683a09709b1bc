COMMENT ON FUNCTION @extschema@.rgrid_heartbeat(text, text) IS
    'Says that a worker is alive; returns its incarnation, which is higher after it was declared dead';
COMMENT ON FUNCTION @extschema@.rgrid_heartbeat(text[], text) IS
    'Says that many workers of one host are alive; returns their incarnations in the same order';
COMMENT ON FUNCTION @extschema@.rgrid_register(text, text) IS
    'Says that a worker starts; returns its id, generated if NULL, and its incarnation';
COMMENT ON FUNCTION @extschema@.rgrid_register(text[], text) IS
    'Says that many workers of one host start; returns each id, in the same order, and its incarnation';
COMMENT ON FUNCTION @extschema@.rgrid_deregister(text) IS
    'Says that a worker stops on purpose; returns whether it was known';
COMMENT ON FUNCTION @extschema@.rgrid_attach(text, text) IS
    'A heartbeat that also attaches the worker to this session. If the client vanishes, the worker is declared dead '
    'after a grace, unless it is heard again. Returns its incarnation';
COMMENT ON FUNCTION @extschema@.rgrid_detach(text) IS
    'Detaches a worker from its session; returns whether it was attached, or had lost its session';
COMMENT ON FUNCTION @extschema@.rgrid_sweep(boolean, boolean) IS
    'Declares silent workers dead and settles their jobs now; with dry_run, only shows what it would do';
COMMENT ON FUNCTION @extschema@.rgrid_stale_workers(interval) IS
    'Workers silent for longer than the threshold, the longest silence first';

-- ALTER DEFAULT PRIVILEGES applies to these objects, too. The rights on them are what this script grants, and no more:
-- with TRIGGER on the ledger a role could have its code run by sweepers, which are superusers. So all other rights on
-- tables are taken back here, and all rights on functions.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT 'TABLE' AS kind, c.oid::pg_catalog.regclass::pg_catalog.text AS object, a.grantee,
               pg_catalog.string_agg(a.privilege_type, ', ') AS privileges
        FROM pg_catalog.pg_extension x
        JOIN pg_catalog.pg_depend d
            ON d.refobjid OPERATOR(pg_catalog.=) x.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
           AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
           AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
        JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.objid
        CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
        WHERE x.extname OPERATOR(pg_catalog.=) 'rgrid_heartbeat' AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
          AND NOT (a.privilege_type OPERATOR(pg_catalog.=) 'SELECT'
                   AND a.grantee OPERATOR(pg_catalog.=) 'pg_monitor'::pg_catalog.regrole)
        GROUP BY c.oid, a.grantee
        UNION ALL
        SELECT 'FUNCTION', p.oid::pg_catalog.regprocedure::pg_catalog.text, a.grantee, a.privilege_type
        FROM pg_catalog.pg_extension x
        JOIN pg_catalog.pg_depend d
            ON d.refobjid OPERATOR(pg_catalog.=) x.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
           AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
           AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
        JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) d.objid
        CROSS JOIN LATERAL pg_catalog.aclexplode(
            coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) AS a
        WHERE x.extname OPERATOR(pg_catalog.=) 'rgrid_heartbeat' AND a.grantee OPERATOR(pg_catalog.<>) p.proowner
    LOOP
        EXECUTE pg_catalog.format('REVOKE %s ON %s %s FROM %s CASCADE', given.privileges, given.kind, given.object,
            CASE WHEN given.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
                 ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(given.grantee)) END);
    END LOOP;
END
$$;

-- A worker's role needs EXECUTE on the functions that it calls and no right on any table.
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_fence_violated() TO PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_worker_states() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_stat_databases() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_stat_attached() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_stat_problems() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_health() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_stale_workers(interval) TO pg_monitor;
GRANT SELECT ON @extschema@.rgrid_worker_deaths, @extschema@.rgrid_job_tables, @extschema@.rgrid_job_queues
    TO pg_monitor;

-- When this commits, silence starts to count and the launcher looks at the database. Not needed afterwards.
SELECT @extschema@.rgrid_installed();
DROP FUNCTION @extschema@.rgrid_installed();
