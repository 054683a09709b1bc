-- From 0.2.0: ids that are compared by their bytes, incarnations that outlive failovers, owners of ids, attached
-- workers, watched tables by name with more settings, queues, notes of what was not settled, logical replication.

-- Ids are compared by their bytes, which no upgrade of a locale changes. A change of the collation tests the
-- constraints of a table and builds its indexes again. These may have code of others, so they are dropped first, and
-- ours are made anew. Rules of others are dropped and triggers disabled, as sweepers do it: rows are inserted below.
DO $$
DECLARE
    own record;
    attached record;
BEGIN
    FOR own IN
        SELECT c.oid, c.oid::pg_catalog.regclass AS name
        FROM pg_catalog.pg_extension x
        JOIN pg_catalog.pg_depend d
            ON d.refobjid OPERATOR(pg_catalog.=) x.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
           AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
           AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
        JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.objid
        WHERE x.extname OPERATOR(pg_catalog.=) 'rgrid_heartbeat'
          AND c.relname OPERATOR(pg_catalog.=) ANY (
              '{worker_heartbeats,rgrid_worker_deaths,rgrid_incarnations,rgrid_job_tables}')
    LOOP
        FOR attached IN
            SELECT pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I', own.name, k.conname) AS dropping
            FROM pg_catalog.pg_constraint k
            WHERE k.conrelid OPERATOR(pg_catalog.=) own.oid AND k.contype OPERATOR(pg_catalog.=) ANY ('{c,x}')
            UNION ALL
            SELECT pg_catalog.format('DROP INDEX %s', i.indexrelid::pg_catalog.regclass)
            FROM pg_catalog.pg_index i
            WHERE i.indrelid OPERATOR(pg_catalog.=) own.oid AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k
                              WHERE k.conindid OPERATOR(pg_catalog.=) i.indexrelid)
            UNION ALL
            SELECT pg_catalog.format('DROP RULE %I ON %s', r.rulename, own.name)
            FROM pg_catalog.pg_rewrite r WHERE r.ev_class OPERATOR(pg_catalog.=) own.oid
            UNION ALL
            SELECT pg_catalog.format('ALTER TABLE %s DISABLE TRIGGER %I', own.name, t.tgname)
            FROM pg_catalog.pg_trigger t WHERE t.tgrelid OPERATOR(pg_catalog.=) own.oid AND NOT t.tgisinternal
        LOOP
            EXECUTE attached.dropping;
        END LOOP;
        CONTINUE WHEN own.oid OPERATOR(pg_catalog.=) '@extschema@.rgrid_job_tables'::pg_catalog.regclass;
        EXECUTE pg_catalog.format('ALTER TABLE %s ALTER COLUMN worker_id TYPE text COLLATE pg_catalog."C"', own.name);
        CONTINUE WHEN own.oid OPERATOR(pg_catalog.=) ANY (
            '{@extschema@.rgrid_worker_deaths,@extschema@.rgrid_incarnations}'::pg_catalog.regclass[]);
        ALTER TABLE @extschema@.worker_heartbeats
            ADD CONSTRAINT worker_heartbeats_worker_id_check
                CHECK (pg_catalog.length(worker_id) OPERATOR(pg_catalog.>=) 1
                       AND pg_catalog.length(worker_id) OPERATOR(pg_catalog.<=) 255),
            ADD CONSTRAINT worker_heartbeats_hostname_check
                CHECK (pg_catalog.length(hostname) OPERATOR(pg_catalog.<=) 255);
        COMMENT ON TABLE @extschema@.worker_heartbeats IS
            'Workers, and when each was last heard; one row for each worker';
        COMMENT ON COLUMN @extschema@.worker_heartbeats.last_heartbeat_at IS
            'When it was last heard, by the server''s clock';
    END LOOP;
END
$$;

ALTER TABLE @extschema@.rgrid_worker_deaths
    ADD CONSTRAINT rgrid_worker_deaths_incarnation_check CHECK (incarnation OPERATOR(pg_catalog.>) 0),
    ADD CONSTRAINT rgrid_worker_deaths_reason_check
        CHECK (reason OPERATOR(pg_catalog.=) ANY ('{stale,restarted,deregistered,disconnected}'::pg_catalog.text[])),
    ADD COLUMN notified boolean NOT NULL DEFAULT true;
CREATE UNIQUE INDEX rgrid_worker_deaths_dead ON @extschema@.rgrid_worker_deaths (worker_id)
    WHERE returned_at IS NULL;

COMMENT ON INDEX @extschema@.rgrid_worker_deaths_dead IS 'Dead workers, each once';
COMMENT ON INDEX @extschema@.rgrid_worker_deaths_declared IS 'Deaths by time, to find those to prune';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.incarnation IS
    'The incarnation that ended; the next one is higher';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.hostname IS 'The worker''s host; NULL if it is unknown';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.last_heartbeat_at IS 'When it was last heard';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.declared_dead_at IS 'When it was declared dead';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.reason IS
    'stale: silent for longer than the threshold; restarted: registered again; '
    'deregistered: left with running jobs; disconnected: its session was lost, and it was not heard again';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.jobs_failed IS 'How many of its running jobs were marked as failed';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.jobs_requeued IS
    'How many of its running jobs went back to the queue';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.returned_at IS 'When it was heard again; NULL while it is dead';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.notified IS
    'Whether listeners were notified; false when PostgreSQL''s queue of notifications was nearly full';

ALTER TABLE @extschema@.rgrid_incarnations
    ADD CONSTRAINT rgrid_incarnations_incarnation_check CHECK (incarnation OPERATOR(pg_catalog.>) 0);
COMMENT ON TABLE @extschema@.rgrid_incarnations IS
    'Incarnations that stay known when rows of the ledger are pruned or removed by hand';
COMMENT ON COLUMN @extschema@.rgrid_incarnations.worker_id IS
    'The worker''s id; empty for the incarnation of unknown workers';
COMMENT ON COLUMN @extschema@.rgrid_incarnations.incarnation IS 'The number that its heartbeats return';

-- The number after each death is noted, too, from now on. None is above 2^53 - 1.
INSERT INTO @extschema@.rgrid_incarnations AS i (worker_id, incarnation)
    SELECT d.worker_id, pg_catalog.max(d.incarnation) OPERATOR(pg_catalog.+) 1
    FROM @extschema@.rgrid_worker_deaths d WHERE d.incarnation OPERATOR(pg_catalog.<) 9007199254740991
    GROUP BY d.worker_id
    ON CONFLICT (worker_id) DO UPDATE SET incarnation = greatest(i.incarnation, EXCLUDED.incarnation);

-- A worker that was first heard after deaths were pruned got the floor, and 0.2.0 did not note that. It keeps its
-- number. An adopted table of heartbeats is only read if no code of its owner can run by that.
DO $$
BEGIN
    IF pg_catalog.to_regclass('@extschema@.worker_heartbeats') IS NULL THEN
        RETURN;
    END IF;
    LOCK TABLE @extschema@.worker_heartbeats IN ACCESS SHARE MODE;
    IF EXISTS (
        SELECT FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
        WHERE c.oid OPERATOR(pg_catalog.=) '@extschema@.worker_heartbeats'::pg_catalog.regclass
          AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}')
          AND a.attname OPERATOR(pg_catalog.=) 'worker_id' AND a.attgenerated OPERATOR(pg_catalog.=) ''
          AND a.atttypid OPERATOR(pg_catalog.=) ANY ('{text,varchar}'::pg_catalog.regtype[])) THEN
        INSERT INTO @extschema@.rgrid_incarnations (worker_id, incarnation)
            SELECT h.worker_id::pg_catalog.text, f.incarnation
            FROM @extschema@.worker_heartbeats h, @extschema@.rgrid_incarnations f
            WHERE f.worker_id OPERATOR(pg_catalog.=) '' AND f.incarnation OPERATOR(pg_catalog.>) 1
              AND pg_catalog.length(h.worker_id::pg_catalog.text) OPERATOR(pg_catalog.<=) 255
            ON CONFLICT (worker_id) DO NOTHING;
    END IF;
END
$$;

-- From which number on a worker gets a new one, a row for each time that the database went on from a copy or from an
-- earlier moment. In dumps: where one is restored, its rows are those of another origin.
CREATE TABLE @extschema@.rgrid_incarnation_bases (
    base bigint NOT NULL CHECK (base OPERATOR(pg_catalog.>) 0),
    origin text COLLATE pg_catalog."C" NOT NULL,
    since timestamp with time zone NOT NULL,
    transaction xid8 NOT NULL,
    -- Two sessions may add the same base at the same time.
    PRIMARY KEY (base, origin, transaction)
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_incarnation_bases', '');

COMMENT ON TABLE @extschema@.rgrid_incarnation_bases IS
    'Where incarnations begin: one row, and one more for each failover, restore, upgrade or copy';
COMMENT ON COLUMN @extschema@.rgrid_incarnation_bases.base IS
    'The lowest number of a worker that is new, or that was declared dead';
COMMENT ON COLUMN @extschema@.rgrid_incarnation_bases.origin IS
    'System identifier, timeline, OID of the database and OID of this table';
COMMENT ON COLUMN @extschema@.rgrid_incarnation_bases.since IS
    'When this base was added: when the first number after that event was needed';
COMMENT ON COLUMN @extschema@.rgrid_incarnation_bases.transaction IS 'The transaction that added it';

-- Which role each worker's id belongs to: the one that first used it. Only ids in the extension's own table of
-- heartbeats have an owner. By name, and kept by pg_dump: where a dump is restored, no other role can take an id first.
CREATE TABLE @extschema@.rgrid_worker_owners (
    worker_id text COLLATE pg_catalog."C" PRIMARY KEY,
    owner name NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_worker_owners', '');

COMMENT ON TABLE @extschema@.rgrid_worker_owners IS
    'The role that each worker''s id belongs to; only roles with its rights can use the id';
COMMENT ON COLUMN @extschema@.rgrid_worker_owners.worker_id IS 'The worker''s id';
COMMENT ON COLUMN @extschema@.rgrid_worker_owners.owner IS
    'The role that first used the id, or was given it; the id is free when that role no longer exists';

CREATE FUNCTION @extschema@.rgrid_reassign_worker(worker_id text, new_owner name) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_reassign_worker_wrapper';
GRANT SELECT ON @extschema@.rgrid_worker_owners TO pg_monitor;
COMMENT ON FUNCTION @extschema@.rgrid_reassign_worker(text, name) IS
    'Gives the id of a worker to another role; for superusers and for members of both roles';

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

INSERT INTO @extschema@.rgrid_job_table_oids (job_table, relation, owner, fenced)
SELECT coalesce(i.identity, j.job_table::pg_catalog.oid::pg_catalog.text), j.job_table, coalesce(c.relowner, 0),
       EXISTS (SELECT FROM pg_catalog.pg_trigger t
               WHERE t.tgrelid OPERATOR(pg_catalog.=) j.job_table AND t.tgname OPERATOR(pg_catalog.=) 'rgrid_fence')
FROM @extschema@.rgrid_job_tables j
LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) j.job_table
CROSS JOIN LATERAL pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, j.job_table, 0) AS i;

-- From here on the watched tables are known by their names.
ALTER TABLE @extschema@.rgrid_job_tables ALTER COLUMN job_table TYPE text COLLATE pg_catalog."C" USING coalesce(
    (pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, job_table, 0)).identity,
    job_table::pg_catalog.oid::pg_catalog.text);
-- Limits of attempts keep their meaning in the rows that are there: 0.2.0 knew retries only. No row is updated: that
-- would set off what others may have attached to the table.
ALTER TABLE @extschema@.rgrid_job_tables
    ADD CONSTRAINT rgrid_job_tables_on_death_check
        CHECK (on_death OPERATOR(pg_catalog.=) ANY ('{fail,requeue}'::pg_catalog.text[])),
    ADD CONSTRAINT rgrid_job_tables_max_attempts_check CHECK (max_attempts OPERATOR(pg_catalog.>=) 0),
    ADD COLUMN notify_keys boolean NOT NULL DEFAULT false,
    ADD COLUMN search_path name[],
    ADD COLUMN watched_by name,
    ADD COLUMN max_attempts_means text DEFAULT 'retries'
        CHECK (max_attempts_means OPERATOR(pg_catalog.=) ANY ('{retries,attempts}'::pg_catalog.text[])),
    ADD COLUMN attempts_counted_at text NOT NULL DEFAULT 'death'
        CHECK (attempts_counted_at OPERATOR(pg_catalog.=) ANY ('{death,claim}'::pg_catalog.text[])),
    ADD COLUMN also_running text[] NOT NULL DEFAULT '{}',
    ADD COLUMN set_at_requeue text[] NOT NULL DEFAULT '{}',
    ADD COLUMN set_at_failure text[] NOT NULL DEFAULT '{}',
    ADD COLUMN wake_channel text,
    ADD COLUMN wake_payload text NOT NULL DEFAULT '',
    ADD COLUMN epoch_unit text
        CHECK (epoch_unit OPERATOR(pg_catalog.=) ANY ('{seconds,milliseconds}'::pg_catalog.text[]));
-- The rows that are there keep a NULL, which stands for the table's owner. From now on a role that writes a row names
-- itself, or a role whose rights it has. A superuser may name every role, or none: it also restores dumps. 10 is the
-- first superuser.
ALTER TABLE @extschema@.rgrid_job_tables
    ALTER COLUMN max_attempts_means DROP DEFAULT,
    ALTER COLUMN watched_by SET DEFAULT CURRENT_USER,
    ADD CONSTRAINT rgrid_job_tables_watched_by_check
        CHECK (coalesce(pg_catalog.pg_has_role(
                            pg_catalog.to_regrole(pg_catalog.quote_ident(watched_by))::pg_catalog.oid, 'USAGE'),
                        pg_catalog.pg_has_role(10::pg_catalog.oid, 'USAGE')));
COMMENT ON TABLE @extschema@.rgrid_job_tables IS
    'Tables whose running jobs are settled when their worker dies; the table executions in this schema needs no row';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.job_table IS
    'The name of the table of jobs, with its schema, as in SQL; without a schema it is in the extension''s';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.error_message IS 'The error message';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.finished_column IS
    'Column for the time of the death: UTC in a date or timestamp, now in a timestamptz, a number in a bigint; '
    'NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.watched IS
    'Whether its jobs are settled; false is only for executions in this schema, which is watched without a row';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.attempts_column IS
    'Column that counts attempts, for requeue; NULL in it is 0. NULL if the extension counts them';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.max_attempts_column IS
    'Column with the limit of attempts; NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.max_attempts IS
    'The limit of attempts where there is no such column, or it is NULL';
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

-- The watched tables that were tried. No part of a dump: a restored table was not tried where it is now.
CREATE TABLE @extschema@.rgrid_tried_tables (
    job_table oid PRIMARY KEY,
    tried_at timestamp with time zone NOT NULL
);

COMMENT ON TABLE @extschema@.rgrid_tried_tables IS 'Watched tables in which a death or a rehearsal has settled a job';
COMMENT ON COLUMN @extschema@.rgrid_tried_tables.job_table IS 'The table of jobs, as an OID';
COMMENT ON COLUMN @extschema@.rgrid_tried_tables.tried_at IS
    'When that first happened since the watch was last changed';

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
GRANT SELECT ON @extschema@.rgrid_job_queues TO pg_monitor;

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

-- Functions with other arguments or columns take the place of former ones. Roles that may call those may call them.
-- Views are replaced, so what depends on them stays.
ALTER FUNCTION @extschema@.rgrid_worker_states() RENAME TO rgrid_worker_states_0_2;
ALTER FUNCTION @extschema@.rgrid_stat_databases() RENAME TO rgrid_stat_databases_0_2;
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
CREATE FUNCTION @extschema@.rgrid_stat_databases() RETURNS TABLE (
    datid oid,
    has_extension boolean,
    observing_since timestamp with time zone,
    sweeps bigint,
    last_sweep_started_at timestamp with time zone,
    last_sweep_finished_at timestamp with time zone,
    last_sweep_seconds double precision,
    heartbeats_in_row bigint,
    calls_refused bigint,
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
    median_interval_seconds double precision,
    p99_interval_seconds double precision,
    errors bigint,
    failures_in_a_row bigint,
    last_error text,
    last_error_at timestamp with time zone,
    buffer_entries bigint,
    buffer_capacity bigint,
    connections_full_since timestamp with time zone,
    stats_reset timestamp with time zone
) STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_stat_databases_0_3_wrapper';

CREATE FUNCTION @extschema@.rgrid_stat_attached() RETURNS TABLE (
    datid oid,
    attached_workers bigint,
    sessions_lost bigint,
    workers_lost_together bigint
) STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_stat_attached_wrapper';

CREATE FUNCTION @extschema@.rgrid_stat_problems() RETURNS TABLE (
    datid oid,
    problem text,
    relid oid,
    since timestamp with time zone,
    last_at timestamp with time zone,
    rounds bigint,
    sqlstate text,
    message text
) STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_stat_problems_wrapper';

CREATE FUNCTION @extschema@.rgrid_worker_states() RETURNS TABLE (
    worker_id text,
    hostname text,
    state text,
    incarnation bigint,
    last_heartbeat_at timestamp with time zone,
    seconds_since_heartbeat double precision,
    declared_dead_at timestamp with time zone,
    attached_at timestamp with time zone,
    disconnected_at timestamp with time zone
) STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_worker_states_wrapper';

CREATE OR REPLACE VIEW @extschema@.rgrid_workers AS
SELECT w.worker_id, w.hostname, w.state, w.incarnation, w.last_heartbeat_at, w.seconds_since_heartbeat,
       w.declared_dead_at, w.attached_at, w.disconnected_at
FROM @extschema@.rgrid_worker_states() AS w;

ALTER VIEW @extschema@.pg_stat_rgrid_heartbeat RENAME COLUMN typical_gap_seconds TO median_interval_seconds;
ALTER VIEW @extschema@.pg_stat_rgrid_heartbeat RENAME COLUMN longest_gap_seconds TO p99_interval_seconds;
CREATE OR REPLACE VIEW @extschema@.pg_stat_rgrid_heartbeat AS
SELECT s.datid, d.datname, s.has_extension, s.observing_since, s.sweeps, s.last_sweep_started_at,
       s.last_sweep_finished_at, s.last_sweep_seconds, s.heartbeats_in_row, s.flushes, s.rows_flushed, s.deaths,
       s.false_deaths, s.held_workers, s.held_until, s.jobs_failed, s.jobs_requeued, s.locked_jobs,
       s.workers_from_the_future, s.workers_pruned, s.deaths_pruned, s.median_interval_seconds,
       s.p99_interval_seconds, s.errors, s.failures_in_a_row, s.last_error, s.last_error_at, s.buffer_entries,
       s.buffer_capacity, s.stats_reset, s.calls_refused, a.attached_workers, a.sessions_lost,
       a.workers_lost_together, s.connections_full_since
FROM @extschema@.rgrid_stat_databases() AS s
LEFT JOIN @extschema@.rgrid_stat_attached() AS a ON a.datid OPERATOR(pg_catalog.=) s.datid
LEFT JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) s.datid;

CREATE VIEW @extschema@.pg_stat_rgrid_problems AS
SELECT p.datid, d.datname, p.problem, p.relid, p.since, p.last_at, p.rounds, p.sqlstate, p.message
FROM @extschema@.rgrid_stat_problems() AS p
LEFT JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) p.datid;

GRANT SELECT ON @extschema@.pg_stat_rgrid_problems TO pg_monitor;

CREATE FUNCTION @extschema@.rgrid_register(worker_ids text[], hostname text DEFAULT NULL)
    RETURNS TABLE (id text, incarnation bigint)
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_register_all_wrapper';
CREATE FUNCTION @extschema@.rgrid_attach(worker_id text, hostname text DEFAULT NULL) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_attach_wrapper';
CREATE FUNCTION @extschema@.rgrid_detach(worker_id text) RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_detach_wrapper';
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
COMMENT ON FUNCTION @extschema@.rgrid_unfence(regclass) IS
    'Removes the fence of a table of jobs; returns whether there was one';
COMMENT ON FUNCTION @extschema@.rgrid_fence_violated() IS
    'Trigger function of fences: raises the error for a late result';
COMMENT ON FUNCTION @extschema@.rgrid_stat_attached() IS
    'What the view pg_stat_rgrid_heartbeat shows of attached workers';
COMMENT ON FUNCTION @extschema@.rgrid_stat_problems() IS 'What the view pg_stat_rgrid_problems shows';
COMMENT ON FUNCTION @extschema@.rgrid_stat_reset() IS
    'Resets the counters and intervals of this database in pg_stat_rgrid_heartbeat';
COMMENT ON FUNCTION @extschema@.rgrid_health() IS
    'Checks whether everything works here: a row for each check, with status ok, warning or error, what was found, '
    'and how to fix it';
COMMENT ON VIEW @extschema@.rgrid_workers IS
    'Every worker that has a row in worker_heartbeats, with its latest heartbeat from memory';
COMMENT ON COLUMN @extschema@.rgrid_workers.hostname IS
    'The host that the worker named, or the address that it called from; NULL for neither';
COMMENT ON COLUMN @extschema@.rgrid_workers.incarnation IS
    'The number that its heartbeats return; of a dead worker, the one that it gets when it returns';
COMMENT ON COLUMN @extschema@.rgrid_workers.last_heartbeat_at IS 'When it was last heard';
COMMENT ON COLUMN @extschema@.rgrid_workers.attached_at IS 'Since when it is attached to a session; NULL if it is not';
COMMENT ON COLUMN @extschema@.rgrid_workers.disconnected_at IS
    'When the client of that session vanished; NULL after it was heard again, or declared dead';
COMMENT ON VIEW @extschema@.pg_stat_rgrid_heartbeat IS
    'A row for each database that the launcher knows, counted since stats_reset; lost when the server crashes';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.observing_since IS
    'Silence before this time does not count: when the server, or its watch over this database, last started';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_sweep_finished_at IS 'When the last completed sweep ended';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_sweep_seconds IS
    'How long it took, in seconds; NULL while another sweep is running, or after one that failed';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.heartbeats_in_row IS
    'Heartbeats that were written to their rows at once, rolled back or not: first ones, returns, other hostnames, '
    'and of workers that do not fit in memory. Heartbeats in memory are not counted';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.calls_refused IS
    'Calls for a worker whose id belongs to another role';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.rows_flushed IS
    'Rows that flushes wrote: a worker counts once for each flush, however many heartbeats it has sent';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.false_deaths IS
    'Workers that returned after they were declared dead for their silence, or for their lost session';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.held_workers IS
    'Workers that fell silent together and are held back now';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.held_until IS
    'When the hold ends at the latest, by the threshold of the current session; NULL while no worker is held back';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.locked_jobs IS
    'Running jobs of dead workers that the last sweep skipped because other sessions had locked them';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.attached_workers IS
    'Workers that are attached to a session now';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.sessions_lost IS
    'Sessions with attached workers that ended because their client vanished';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.workers_lost_together IS
    'Workers whose sessions were lost together, or by one pooler: only their silence counts';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.workers_from_the_future IS
    'Workers with heartbeats ahead of the clock, counted each time that a sweep finds one, since the server started';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.deaths_pruned IS
    'Rows of the ledger that were removed for the same reason';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.median_interval_seconds IS
    'Median interval between heartbeats of a worker in the last hours, in seconds; NULL before enough were seen';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.p99_interval_seconds IS
    'The 99th percentile of these intervals, in seconds; may be up to 20 % plus flush_interval too low, never too high';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.errors IS 'Rounds of sweepers that had a problem or failed';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_error IS
    'The last problem, which may be over; cut at 448 bytes, complete in the server''s log. Those that last are in '
    'pg_stat_rgrid_problems';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_error_at IS 'When that problem was last seen';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.connections_full_since IS
    'Since when no client could connect to the server; NULL while one can';
COMMENT ON VIEW @extschema@.pg_stat_rgrid_problems IS
    'A row for each thing that the last sweeper of a database could not do; lost when the server crashes';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.datid IS 'OID of the database';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.datname IS 'Name of the database';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.problem IS
    'What the problem is about: sweeper, own tables, subscription, memory, flush, future heartbeats, local time, '
    'incarnations, pruning, job table, locked jobs, or others, where there are too many to list';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.relid IS
    'OID of the watched table, in that database; NULL if the problem is about none';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.since IS 'When it was first seen';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.last_at IS 'When it was last seen';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.rounds IS 'How many sweepers have seen it since then';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.sqlstate IS 'SQLSTATE of the error';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.message IS
    'What could not be done and why; cut at 448 bytes, complete in the server''s log';
COMMENT ON FUNCTION @extschema@.rgrid_attach(text, text) IS
    'A heartbeat that also attaches the worker to this session. If the client vanishes, the worker is declared dead '
    'after a grace, unless it is heard again. Returns its incarnation';
COMMENT ON FUNCTION @extschema@.rgrid_detach(text) IS
    'Detaches a worker from its session; returns whether it was attached, or had lost its session';
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
COMMENT ON FUNCTION @extschema@.rgrid_sweep(boolean, boolean) IS
    'Declares silent workers dead and settles their jobs now; with dry_run, only shows what it would do';
COMMENT ON FUNCTION @extschema@.rgrid_worker_states() IS 'What the view rgrid_workers shows';
COMMENT ON FUNCTION @extschema@.rgrid_stat_databases() IS 'What the view pg_stat_rgrid_heartbeat shows';

-- Rights on the functions that are new, from ALTER DEFAULT PRIVILEGES or as functions have them. On the others, rights
-- that ALTER DEFAULT PRIVILEGES gave when they were made: these are the ones that PostgreSQL has recorded as initial.
-- Not on rgrid_sweep(): an update to 0.2.0 has copied rights there that were granted on purpose.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text AS object, a.grantee, a.privilege_type AS privileges
        FROM pg_catalog.pg_extension x
        JOIN pg_catalog.pg_depend d
            ON d.refobjid OPERATOR(pg_catalog.=) x.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
           AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
           AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
        JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) d.objid
        CROSS JOIN LATERAL pg_catalog.aclexplode(
            coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) AS a
        WHERE x.extname OPERATOR(pg_catalog.=) 'rgrid_heartbeat' AND a.grantee OPERATOR(pg_catalog.<>) p.proowner
          AND (p.proname OPERATOR(pg_catalog.=) ANY (
                  '{rgrid_attach,rgrid_detach,rgrid_fence_violated,rgrid_reassign_worker,rgrid_rehearse,rgrid_replicated,'
                  'rgrid_stat_attached,rgrid_stat_databases,rgrid_stat_problems,rgrid_unwatch_function,'
                  'rgrid_unwatch_queue,rgrid_watch_function,rgrid_watch_queue,rgrid_worker_states}')
               OR p.oid OPERATOR(pg_catalog.=) '@extschema@.rgrid_register(text[], text)'::pg_catalog.regprocedure
               OR p.proname OPERATOR(pg_catalog.=) 'rgrid_watch_jobs' AND p.pronargs OPERATOR(pg_catalog.>) 14
               OR p.proname OPERATOR(pg_catalog.=) ANY (
                      '{rgrid_fence,rgrid_health,rgrid_stat_reset,rgrid_unfence,rgrid_unwatch_jobs}')
                  AND EXISTS (SELECT FROM pg_catalog.pg_init_privs i, pg_catalog.aclexplode(i.initprivs) AS g
                              WHERE i.objoid OPERATOR(pg_catalog.=) p.oid
                                AND i.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                                AND g.grantee OPERATOR(pg_catalog.=) a.grantee))
    LOOP
        EXECUTE pg_catalog.format('REVOKE %s ON FUNCTION %s FROM %s CASCADE', given.privileges, given.object,
            CASE WHEN given.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
                 ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(given.grantee)) END);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_fence_violated() TO PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_worker_states() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_stat_databases() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_stat_attached() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_stat_problems() TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.rgrid_health() TO pg_monitor;

-- What was granted on the former functions since they were made. For pg_dump these grants stay the database's own and do not become the
-- extension's. pg_stat_rgrid_heartbeat calls rgrid_stat_attached(), too.
DO $$
DECLARE
    given record;
    initial pg_catalog.aclitem[];
BEGIN
    FOR given IN
        SELECT f.present, f.present::pg_catalog.regprocedure::pg_catalog.text AS object, a.grantee, a.is_grantable
        FROM (VALUES
            ('@extschema@.rgrid_worker_states_0_2()'::pg_catalog.regprocedure::pg_catalog.oid,
             '@extschema@.rgrid_worker_states()'::pg_catalog.regprocedure::pg_catalog.oid),
            ('@extschema@.rgrid_stat_databases_0_2()'::pg_catalog.regprocedure::pg_catalog.oid,
             '@extschema@.rgrid_stat_databases()'::pg_catalog.regprocedure::pg_catalog.oid),
            ('@extschema@.rgrid_stat_databases_0_2()'::pg_catalog.regprocedure::pg_catalog.oid,
             '@extschema@.rgrid_stat_attached()'::pg_catalog.regprocedure::pg_catalog.oid),
            ('@extschema@.rgrid_watch_jobs(regclass, name, name, text, text, name, text, name, text, text, name, name, '
             'name, integer)'::pg_catalog.regprocedure::pg_catalog.oid,
             '@extschema@.rgrid_watch_jobs(regclass, name, name, text, text, name, text, name, text, text, name, name, '
             'name, integer, boolean, text, text, text[], text[], text[], text, text, text)'
                 ::pg_catalog.regprocedure::pg_catalog.oid)
            ) AS f (former, present)
        JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) f.former
        CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) AS a
        WHERE a.grantee OPERATOR(pg_catalog.<>) p.proowner
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_init_privs i, pg_catalog.aclexplode(i.initprivs) AS g
                          WHERE i.objoid OPERATOR(pg_catalog.=) f.former
                            AND i.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                            AND g.grantee OPERATOR(pg_catalog.=) a.grantee)
    LOOP
        SELECT i.initprivs INTO initial FROM pg_catalog.pg_init_privs i
        WHERE i.objoid OPERATOR(pg_catalog.=) given.present
          AND i.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass;
        EXECUTE pg_catalog.format(
            'GRANT EXECUTE ON FUNCTION %s TO %s%s', given.object,
            CASE WHEN given.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
                 ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(given.grantee)) END,
            CASE WHEN given.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
        UPDATE pg_catalog.pg_init_privs i SET initprivs = initial
        WHERE i.objoid OPERATOR(pg_catalog.=) given.present
          AND i.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass;
    END LOOP;
END
$$;
DROP FUNCTION @extschema@.rgrid_worker_states_0_2();
DROP FUNCTION @extschema@.rgrid_stat_databases_0_2();
DROP FUNCTION @extschema@.rgrid_watch_jobs(
    regclass, name, name, text, text, name, text, name, text, text, name, name, name, integer);

-- Rights that ALTER DEFAULT PRIVILEGES or GRANT ALL gave on the extension's tables. Rights to read them stay, and those
-- of clients that write heartbeats themselves. With TRIGGER on the ledger a role could have its code run by sweepers.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT 'TABLE' AS kind, c.oid::pg_catalog.regclass::pg_catalog.text AS object, a.grantee,
               pg_catalog.string_agg(DISTINCT a.privilege_type, ', ') AS privileges
        FROM pg_catalog.pg_extension x
        JOIN pg_catalog.pg_depend d
            ON d.refobjid OPERATOR(pg_catalog.=) x.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
           AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
           AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
        JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.objid
        CROSS JOIN LATERAL (
            SELECT * FROM pg_catalog.aclexplode(c.relacl)
            UNION ALL SELECT e.* FROM pg_catalog.pg_attribute t, pg_catalog.aclexplode(t.attacl) AS e
            WHERE t.attrelid OPERATOR(pg_catalog.=) c.oid) AS a
        WHERE x.extname OPERATOR(pg_catalog.=) 'rgrid_heartbeat' AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
          AND NOT (a.privilege_type OPERATOR(pg_catalog.=) 'SELECT'
                   AND (c.relkind OPERATOR(pg_catalog.=) 'v'
                        OR c.relname OPERATOR(pg_catalog.=) ANY ('{rgrid_worker_owners,rgrid_job_queues}'))
                   AND a.grantee OPERATOR(pg_catalog.=) 'pg_monitor'::pg_catalog.regrole
                   OR a.privilege_type OPERATOR(pg_catalog.=) 'SELECT'
                   AND c.relname OPERATOR(pg_catalog.=) ANY (
                       '{worker_heartbeats,rgrid_worker_deaths,rgrid_incarnations,rgrid_job_tables,rgrid_workers,'
                       'pg_stat_rgrid_heartbeat}')
                   OR a.privilege_type OPERATOR(pg_catalog.=) ANY ('{INSERT,UPDATE,DELETE}')
                   AND c.relname OPERATOR(pg_catalog.=) 'worker_heartbeats')
        GROUP BY c.oid, a.grantee
    LOOP
        EXECUTE pg_catalog.format('REVOKE %s ON %s %s FROM %s CASCADE', given.privileges, given.kind, given.object,
            CASE WHEN given.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
                 ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(given.grantee)) END);
    END LOOP;
END
$$;

-- Heartbeats were refused until now: when this commits, silence starts to count.
CREATE FUNCTION @extschema@.rgrid_installed() RETURNS void STRICT LANGUAGE c
AS 'MODULE_PATHNAME', 'rgrid_installed_wrapper';
SELECT @extschema@.rgrid_installed();
DROP FUNCTION @extschema@.rgrid_installed();
