-- A subscription of logical replication that brings rows to the extension's own tables, as one to FOR ALL TABLES does.
-- A row with the same key would stop it, and with it all tables of the subscription. So the publisher's row takes the
-- place of the one that is here. What means nothing on another server is left out. Off in ordinary sessions: a trigger
-- for replicas runs where session_replication_role is replica.
CREATE FUNCTION @extschema@.rgrid_replicated() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A restore with --disable-triggers leaves all triggers on in all sessions.
    IF pg_catalog.current_setting('session_replication_role') OPERATOR(pg_catalog.<>) 'replica' THEN
        IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
            RETURN OLD;
        END IF;
        RETURN NEW;
    END IF;
    CASE TG_TABLE_NAME
        WHEN 'worker_heartbeats' THEN
            DELETE FROM @extschema@.worker_heartbeats t WHERE t.worker_id OPERATOR(pg_catalog.=) NEW.worker_id;
        WHEN 'rgrid_worker_deaths' THEN
            DELETE FROM @extschema@.rgrid_worker_deaths t
            WHERE t.worker_id OPERATOR(pg_catalog.=) NEW.worker_id
              AND (t.incarnation OPERATOR(pg_catalog.=) NEW.incarnation
                   OR t.returned_at IS NULL AND NEW.returned_at IS NULL);
        WHEN 'rgrid_incarnations' THEN
            DELETE FROM @extschema@.rgrid_incarnations t WHERE t.worker_id OPERATOR(pg_catalog.=) NEW.worker_id;
        WHEN 'rgrid_worker_owners' THEN
            DELETE FROM @extschema@.rgrid_worker_owners t WHERE t.worker_id OPERATOR(pg_catalog.=) NEW.worker_id;
        WHEN 'rgrid_job_tables' THEN
            DELETE FROM @extschema@.rgrid_job_tables t
            WHERE t.job_table OPERATOR(pg_catalog.=) NEW.job_table;
        WHEN 'rgrid_job_queues' THEN
            DELETE FROM @extschema@.rgrid_job_queues t
            WHERE t.queue OPERATOR(pg_catalog.=) NEW.queue
              AND t.queue_schema OPERATOR(pg_catalog.=) NEW.queue_schema;
        WHEN 'rgrid_job_attempts' THEN
            DELETE FROM @extschema@.rgrid_job_attempts t
            WHERE t.job_table OPERATOR(pg_catalog.=) NEW.job_table
              AND t.job_key OPERATOR(pg_catalog.=) NEW.job_key;
        ELSE
            -- The OIDs of tables and the ids of transactions are those of the publisher.
            RETURN NULL;
    END CASE;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION @extschema@.rgrid_replicated() IS
    'Trigger function of the extension''s own tables: a row that logical replication brings replaces the one with its '
    'key';

DO $$
DECLARE
    own record;
BEGIN
    FOR own IN
        SELECT c.oid::pg_catalog.regclass AS name,
               CASE WHEN c.relname OPERATOR(pg_catalog.=) ANY (
                        '{rgrid_job_table_oids,rgrid_tried_tables,rgrid_unsettled_calls,rgrid_unsettled_jobs}')
                    THEN 'INSERT OR UPDATE OR DELETE' ELSE 'INSERT' END AS events
        FROM pg_catalog.pg_extension x
        JOIN pg_catalog.pg_depend d
            ON d.refobjid OPERATOR(pg_catalog.=) x.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
           AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
           AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
        JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.objid
        WHERE x.extname OPERATOR(pg_catalog.=) 'rgrid_heartbeat' AND c.relkind OPERATOR(pg_catalog.=) 'r'
    LOOP
        EXECUTE pg_catalog.format('CREATE TRIGGER rgrid_replicated BEFORE %s ON %s FOR EACH ROW '
                                  'EXECUTE FUNCTION @extschema@.rgrid_replicated()', own.events, own.name);
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE REPLICA TRIGGER rgrid_replicated', own.name);
    END LOOP;
END
$$;
