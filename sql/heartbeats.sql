-- One row a worker. A table of this name that is there already, as in every installation of RGrid, is adopted as
-- it is: neither altered nor owned by the extension, so DROP EXTENSION leaves it. It is looked for first, and not
-- with IF NOT EXISTS, which an object of another kind would satisfy.
DO $$
DECLARE
    extension_schema oid := (SELECT x.extnamespace FROM pg_catalog.pg_extension x
                             WHERE x.extname OPERATOR(pg_catalog.=) 'rgrid_heartbeat');
    adopted pg_catalog.pg_class;
    problem text;
    missing text;
BEGIN
    SELECT c.* INTO adopted FROM pg_catalog.pg_class c
    WHERE c.relnamespace OPERATOR(pg_catalog.=) extension_schema
      AND c.relname OPERATOR(pg_catalog.=) 'worker_heartbeats';

    IF NOT FOUND THEN
        -- Rows are updated all the time. Free space on each page, and no index on the time, keep the updates HOT.
        CREATE TABLE @extschema@.worker_heartbeats (
            -- Ids are compared by their bytes, which no upgrade of a locale changes.
            worker_id text COLLATE pg_catalog."C" PRIMARY KEY
                CHECK (pg_catalog.length(worker_id) OPERATOR(pg_catalog.>=) 1
                       AND pg_catalog.length(worker_id) OPERATOR(pg_catalog.<=) 255),
            hostname text CHECK (pg_catalog.length(hostname) OPERATOR(pg_catalog.<=) 255),
            last_heartbeat_at timestamp with time zone NOT NULL
        ) WITH (fillfactor = 50);
        COMMENT ON TABLE @extschema@.worker_heartbeats IS
            'Workers, and when each was last heard; one row for each worker';
        COMMENT ON COLUMN @extschema@.worker_heartbeats.worker_id IS 'The worker''s id, 1 to 255 characters';
        COMMENT ON COLUMN @extschema@.worker_heartbeats.hostname IS
            'The host that the worker named, or the address that it called from';
        COMMENT ON COLUMN @extschema@.worker_heartbeats.last_heartbeat_at IS
            'When it was last heard, by the server''s clock';
        GRANT SELECT ON @extschema@.worker_heartbeats TO pg_monitor;
        RETURN;
    END IF;

    IF adopted.relkind OPERATOR(pg_catalog.<>) 'r' AND adopted.relkind OPERATOR(pg_catalog.<>) 'p' THEN
        RAISE EXCEPTION 'relation "worker_heartbeats" exists and is not a table'
            USING ERRCODE = 'wrong_object_type',
                  HINT = 'Rename it, or install the extension in another schema.';
    END IF;

    SELECT pg_catalog.format('column "%s" must be of type %s', w.name, w.kind) INTO problem
    FROM (VALUES ('worker_id', 'text or character varying', '{text,varchar}'::pg_catalog.text[], true),
                 ('last_heartbeat_at', 'timestamp with or without time zone',
                  '{timestamp,timestamptz}'::pg_catalog.text[], true),
                 ('hostname', 'text or character varying', '{text,varchar}'::pg_catalog.text[], false))
         AS w (name, kind, types, needed)
    LEFT JOIN pg_catalog.pg_attribute a
        ON a.attrelid OPERATOR(pg_catalog.=) adopted.oid AND a.attname OPERATOR(pg_catalog.=) w.name
       AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
    LEFT JOIN pg_catalog.pg_type t
        ON t.oid OPERATOR(pg_catalog.=) a.atttypid
       AND t.typnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace
    WHERE (w.needed OR a.attnum IS NOT NULL)
      AND NOT coalesce(t.typname::pg_catalog.text OPERATOR(pg_catalog.=) ANY (w.types), false)
    LIMIT 1;

    IF problem IS NULL THEN
        SELECT pg_catalog.format('column "%s" must be NOT NULL', a.attname) INTO problem
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid OPERATOR(pg_catalog.=) adopted.oid AND NOT a.attisdropped AND NOT a.attnotnull
          AND a.attname OPERATOR(pg_catalog.=) ANY ('{worker_id,last_heartbeat_at}'::pg_catalog.name[])
        ORDER BY a.attnum LIMIT 1;
    END IF;

    IF problem IS NULL AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_attribute a
            ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid AND a.attnum OPERATOR(pg_catalog.=) i.indkey[0]
        WHERE i.indrelid OPERATOR(pg_catalog.=) adopted.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
          AND i.indnkeyatts OPERATOR(pg_catalog.=) 1 AND i.indpred IS NULL
          AND a.attname OPERATOR(pg_catalog.=) 'worker_id') THEN
        problem := 'column "worker_id" must have a primary key or a unique constraint of its own';
    END IF;

    SELECT a.attname INTO missing FROM pg_catalog.pg_attribute a
    WHERE a.attrelid OPERATOR(pg_catalog.=) adopted.oid AND a.attnum OPERATOR(pg_catalog.>) 0
      AND NOT a.attisdropped AND a.attnotnull AND NOT a.atthasdef
      AND a.attidentity OPERATOR(pg_catalog.=) ''
      AND a.attname OPERATOR(pg_catalog.<>) ALL ('{worker_id,last_heartbeat_at}'::pg_catalog.name[])
    ORDER BY a.attnum LIMIT 1;
    IF problem IS NULL AND missing IS NOT NULL THEN
        problem := pg_catalog.format('column "%s" must have a default or allow NULL', missing);
    END IF;

    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'table "worker_heartbeats" exists and cannot be adopted: %', problem
            USING ERRCODE = 'invalid_table_definition',
                  DETAIL = 'Needed are worker_id (text or varchar, unique) and last_heartbeat_at (timestamp with or '
                           'without time zone), both NOT NULL; hostname (text or varchar) is used when it is there.',
                  HINT = 'Alter or rename the table, or install the extension in another schema.';
    END IF;
    -- A NOTICE would reach no client: scripts of extensions run with client_min_messages at WARNING.
    RAISE WARNING 'table "%.worker_heartbeats" of role "%" is adopted as it is',
        adopted.relnamespace::pg_catalog.regnamespace, pg_catalog.pg_get_userbyid(adopted.relowner)
        USING DETAIL = 'Its owner decides which workers have a row, and what its triggers do at a heartbeat.';
END
$$;
