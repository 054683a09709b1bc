-- From the first version: the ledger's second index, incarnations that outlive the ledger, owners of worker ids, watched
-- tables with a policy of their own, the fence, what operators read, and a sweep by hand that can be forced.

-- Ids are compared by their bytes, which no upgrade of a locale changes. A change of the collation tests the constraints
-- of a table and builds its indexes again. They may have code of others, so they go first, and ours are made anew.
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
          AND c.relname OPERATOR(pg_catalog.=) ANY ('{worker_heartbeats,rgrid_worker_deaths}')
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
        LOOP
            EXECUTE attached.dropping;
        END LOOP;
        EXECUTE pg_catalog.format('ALTER TABLE %s ALTER COLUMN worker_id TYPE text COLLATE pg_catalog."C"', own.name);
        CONTINUE WHEN own.oid OPERATOR(pg_catalog.=) '@extschema@.rgrid_worker_deaths'::pg_catalog.regclass;
        ALTER TABLE @extschema@.worker_heartbeats
            ADD CONSTRAINT worker_heartbeats_worker_id_check
                CHECK (pg_catalog.length(worker_id) OPERATOR(pg_catalog.>=) 1
                       AND pg_catalog.length(worker_id) OPERATOR(pg_catalog.<=) 255),
            ADD CONSTRAINT worker_heartbeats_hostname_check
                CHECK (pg_catalog.length(hostname) OPERATOR(pg_catalog.<=) 255);
    END LOOP;
END
$$;
ALTER TABLE @extschema@.rgrid_worker_deaths
    ADD CONSTRAINT rgrid_worker_deaths_incarnation_check CHECK (incarnation OPERATOR(pg_catalog.>) 0),
    ADD CONSTRAINT rgrid_worker_deaths_reason_check
        CHECK (reason OPERATOR(pg_catalog.=) ANY ('{stale,restarted,deregistered,disconnected}'::pg_catalog.text[]));
CREATE UNIQUE INDEX rgrid_worker_deaths_dead ON @extschema@.rgrid_worker_deaths (worker_id)
    WHERE returned_at IS NULL;

CREATE INDEX rgrid_worker_deaths_declared ON @extschema@.rgrid_worker_deaths (declared_dead_at);
ALTER TABLE @extschema@.rgrid_worker_deaths ADD COLUMN notified boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.notified IS
    'Whether listeners were notified; false when PostgreSQL''s queue of notifications was nearly full';
COMMENT ON INDEX @extschema@.rgrid_worker_deaths_dead IS 'The dead, each once';
COMMENT ON INDEX @extschema@.rgrid_worker_deaths_declared IS 'Deaths by time, to find those to prune';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.incarnation IS
    'The incarnation that ended; the next one is higher';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.reason IS
    'stale: silent for longer than the threshold; restarted: registered again; '
    'deregistered: left with running jobs; disconnected: its session was lost, and it was not heard again';

-- The numbers that must outlive the ledger's rows. The row with an empty id has the floor, the number that an unknown
-- worker gets. The others have the numbers of workers that have died, and of those that were first heard when the floor
-- was above 1.
CREATE TABLE @extschema@.rgrid_incarnations (
    worker_id text COLLATE pg_catalog."C" PRIMARY KEY,
    incarnation bigint NOT NULL CHECK (incarnation OPERATOR(pg_catalog.>) 0)
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_incarnations', '');

COMMENT ON TABLE @extschema@.rgrid_incarnations IS
    'Incarnations that outlive the rows of the ledger, whether these are pruned or removed by hand';
COMMENT ON COLUMN @extschema@.rgrid_incarnations.worker_id IS
    'The worker''s id; empty for the incarnation of unknown workers';
COMMENT ON COLUMN @extschema@.rgrid_incarnations.incarnation IS 'The number that its heartbeats return';

-- From which number on a worker gets a new one, a row for each time that the database went on from a copy or from an earlier
-- moment. In dumps: where one is restored, its rows are those of another origin.
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
    'No worker gets a lower number after a death or as an unknown one';
COMMENT ON COLUMN @extschema@.rgrid_incarnation_bases.origin IS
    'System identifier, timeline, OID of the database and OID of this table';
COMMENT ON COLUMN @extschema@.rgrid_incarnation_bases.since IS 'When the first number was asked for after that';
COMMENT ON COLUMN @extschema@.rgrid_incarnation_bases.transaction IS 'The transaction that asked for it';

-- No number is given above 2^53 - 1.
INSERT INTO @extschema@.rgrid_incarnations (worker_id, incarnation)
    SELECT d.worker_id, pg_catalog.max(d.incarnation) OPERATOR(pg_catalog.+) 1
    FROM @extschema@.rgrid_worker_deaths d WHERE d.incarnation OPERATOR(pg_catalog.<) 9007199254740991
    GROUP BY d.worker_id;

-- Which role each worker's id belongs to: the one that first used it. Only ids in the extension's own table of heartbeats
-- have an owner. By name, and kept by pg_dump: where a dump is restored, no other role can take an id first.
CREATE TABLE @extschema@.rgrid_worker_owners (
    worker_id text COLLATE pg_catalog."C" PRIMARY KEY,
    owner name NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_worker_owners', '');

COMMENT ON TABLE @extschema@.rgrid_worker_owners IS
    'Roles that worker ids belong to; other roles without their rights cannot use these ids';
COMMENT ON COLUMN @extschema@.rgrid_worker_owners.worker_id IS 'The worker''s id';
COMMENT ON COLUMN @extschema@.rgrid_worker_owners.owner IS
    'The role that first used it, or that it was handed to; free again when there is no such role';

CREATE FUNCTION @extschema@.rgrid_attach(worker_id text, hostname text DEFAULT NULL) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_attach_wrapper';
CREATE FUNCTION @extschema@.rgrid_detach(worker_id text) RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_detach_wrapper';
COMMENT ON FUNCTION @extschema@.rgrid_attach(text, text) IS
    'A heartbeat that also ties the worker to this session: if its client vanishes, the worker is dead after a grace, '
    'unless it is heard again; returns its incarnation';
COMMENT ON FUNCTION @extschema@.rgrid_detach(text) IS
    'Unties a worker from its session; returns whether it was tied to one, or had lost it';

CREATE FUNCTION @extschema@.rgrid_reassign_worker(worker_id text, new_owner name) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_reassign_worker_wrapper';
GRANT SELECT ON @extschema@.rgrid_worker_owners TO pg_monitor;
COMMENT ON FUNCTION @extschema@.rgrid_reassign_worker(text, name) IS
    'Hands the id of a worker over to another role; for superusers, and members of both roles';

-- Which table each watched name means. No part of a dump: OIDs mean nothing on another server.
CREATE TABLE @extschema@.rgrid_job_table_oids (
    job_table text COLLATE pg_catalog."C" PRIMARY KEY,
    relation oid NOT NULL,
    owner oid NOT NULL,
    fenced boolean NOT NULL,
    missing_since timestamp with time zone
);

COMMENT ON TABLE @extschema@.rgrid_job_table_oids IS
    'Which table each watched name meant when a sweeper last looked: so renamed and replaced tables are noticed';
COMMENT ON COLUMN @extschema@.rgrid_job_table_oids.job_table IS 'The name, as in rgrid_job_tables';
COMMENT ON COLUMN @extschema@.rgrid_job_table_oids.relation IS 'The OID of the table';
COMMENT ON COLUMN @extschema@.rgrid_job_table_oids.owner IS
    'The role that owned it: only a table of the same owner takes its place';
COMMENT ON COLUMN @extschema@.rgrid_job_table_oids.fenced IS
    'Whether it had a fence that was not taken down by rgrid_unfence()';
COMMENT ON COLUMN @extschema@.rgrid_job_table_oids.missing_since IS
    'Since when there is no such table; NULL while there is';

INSERT INTO @extschema@.rgrid_job_table_oids (job_table, relation, owner, fenced)
SELECT coalesce(i.identity, j.job_table::pg_catalog.oid::pg_catalog.text), j.job_table, coalesce(c.relowner, 0), false
FROM @extschema@.rgrid_job_tables j
LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) j.job_table
CROSS JOIN LATERAL pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, j.job_table, 0) AS i;

-- From here on the watched tables are known by their names. A change of the type tests constraints again, and the table
-- had none of its own.
DO $$
DECLARE
    strange record;
BEGIN
    FOR strange IN
        SELECT k.conname FROM pg_catalog.pg_constraint k
        WHERE k.conrelid OPERATOR(pg_catalog.=) '@extschema@.rgrid_job_tables'::pg_catalog.regclass
          AND k.contype OPERATOR(pg_catalog.=) 'c'
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE @extschema@.rgrid_job_tables DROP CONSTRAINT %I', strange.conname);
    END LOOP;
END
$$;
ALTER TABLE @extschema@.rgrid_job_tables ALTER COLUMN job_table TYPE text COLLATE pg_catalog."C" USING coalesce(
    (pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, job_table, 0)).identity,
    job_table::pg_catalog.oid::pg_catalog.text);
COMMENT ON COLUMN @extschema@.rgrid_job_tables.job_table IS
    'The name of the table of jobs, with its schema, as SQL writes it; without a schema it is in the extension''s';
ALTER TABLE @extschema@.rgrid_job_tables
    ADD COLUMN watched boolean NOT NULL DEFAULT true,
    ADD COLUMN on_death text NOT NULL DEFAULT 'fail'
        CHECK (on_death OPERATOR(pg_catalog.=) ANY ('{fail,requeue}'::pg_catalog.text[])),
    ADD COLUMN queued_status text NOT NULL DEFAULT 'queued',
    ADD COLUMN attempts_column name DEFAULT 'retry_count',
    ADD COLUMN max_attempts_column name DEFAULT 'max_retries',
    ADD COLUMN max_attempts integer NOT NULL DEFAULT 3 CHECK (max_attempts OPERATOR(pg_catalog.>=) 0),
    ADD COLUMN started_column name,
    ADD COLUMN notify_keys boolean NOT NULL DEFAULT false,
    ADD COLUMN search_path name[],
    ADD COLUMN watched_by name,
    ADD COLUMN max_attempts_means text
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
-- The rows that are there keep a NULL, which stands for the table's owner: to change them would set off what others may
-- have attached to the table. From now on who writes a row names itself, or a role whose rights it has. A superuser, who
-- also restores dumps, may name every role, also one that is not there, or none. 10 is the first superuser.
ALTER TABLE @extschema@.rgrid_job_tables
    ALTER COLUMN watched_by SET DEFAULT CURRENT_USER,
    ADD CONSTRAINT rgrid_job_tables_watched_by_check
        CHECK (coalesce(pg_catalog.pg_has_role(
                            pg_catalog.to_regrole(pg_catalog.quote_ident(watched_by))::pg_catalog.oid, 'USAGE'),
                        pg_catalog.pg_has_role(10::pg_catalog.oid, 'USAGE')));
COMMENT ON COLUMN @extschema@.rgrid_job_tables.dead_status IS 'Status of a job that failed with its worker';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.finished_column IS
    'Column for the time of the death: UTC in a date or timestamp, now in a timestamptz, a number in a bigint; '
    'NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.watched IS
    'Whether it is settled; false only for executions in this schema, which would be watched without a row';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.on_death IS
    'fail: jobs of a dead worker are failed; requeue: they go back to the queue while they have attempts left';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.queued_status IS 'Status of a job that waits for a worker';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.attempts_column IS
    'Column that counts the attempts used up, for requeue, where a NULL is 0; NULL for a counter of the extension''s';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.max_attempts_column IS
    'Column with the attempts that a job may use up; NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.max_attempts IS
    'The attempts of a job, where there is no such column or it is NULL';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.started_column IS
    'Column that is cleared when a job goes back to the queue; NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.notify_keys IS
    'Whether notifications have the primary keys of the jobs; any role that can connect can read them';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.search_path IS
    'The search_path that was in force when the table was watched: its triggers run with that; NULL for its schema';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.watched_by IS
    'The role that watched the table; without the rights of the table''s owner, its row does not count. '
    'NULL in rows from before 0.2.0, which count as the owner''s';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.max_attempts_means IS
    'What the limit of attempts counts: retries, or attempts, the first one, too; NULL for attempts if '
    'max_attempts_column is named after them, otherwise retries';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.attempts_counted_at IS
    'death: settling a job counts the attempt; claim: the queue has counted it when it was claimed';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.also_running IS
    'Further statuses of jobs that a worker has, such as that of jobs it has claimed and not begun';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.set_at_requeue IS
    'What else a job gets that goes back to the queue, each as column = value';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.set_at_failure IS 'What else a job gets that fails, likewise';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.wake_channel IS
    'Channel that is notified when jobs have gone back to the queue; NULL for none';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.wake_payload IS 'What is sent there';
COMMENT ON COLUMN @extschema@.rgrid_job_tables.epoch_unit IS
    'What times in columns of type bigint are since 1970: seconds or milliseconds; NULL for none';

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
    'Attempts of jobs in watched tables without a column for them; a job that was never requeued has no row';
COMMENT ON COLUMN @extschema@.rgrid_job_attempts.job_table IS 'The name of the table, as in rgrid_job_tables';
COMMENT ON COLUMN @extschema@.rgrid_job_attempts.job_key IS 'The job''s primary key';
COMMENT ON COLUMN @extschema@.rgrid_job_attempts.attempts IS
    'How many of its attempts have ended with the death of a worker since it was last failed';

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
    'Its incarnation that ran the jobs; 0 where no death of it is known';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_jobs.job_table IS 'The watched table, as an OID';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_jobs.row_versions IS
    'A job that a later transaction has written is left alone: the worker may have claimed it anew';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_jobs.job_keys IS
    'Primary keys of the jobs; empty where the table could not be read, or has no key of one column';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_jobs.reason IS 'Why they could not be settled';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_jobs.noted_at IS 'When the worker came back or left';

-- Queues whose jobs are settled by a call: by a function of their owner, or by the statements that the library has for a
-- queue that it knows by name. Everything is text, so that a dump has it.
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
    'Queues whose jobs are settled by a function of their owner, or by the statements for a queue that is known by name';
COMMENT ON COLUMN @extschema@.rgrid_job_queues.queue IS
    'The name of the queue; or the function that settles, with its schema and argument types';
COMMENT ON COLUMN @extschema@.rgrid_job_queues.queue_schema IS 'The schema of the queue; empty for a function';
COMMENT ON COLUMN @extschema@.rgrid_job_queues.running IS
    'The function that says what workers are running, likewise; NULL for none, and for a queue';
COMMENT ON COLUMN @extschema@.rgrid_job_queues.worker_prefix IS
    'Its workers are those whose id begins with this; the queue is told the rest of the id';
COMMENT ON COLUMN @extschema@.rgrid_job_queues.watched_by IS
    'The role that watched it; without the rights of the owner of the function, or of the queue''s tables, the row does not count';

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
COMMENT ON COLUMN @extschema@.rgrid_unsettled_calls.declared_dead_at IS 'When it was given up';
COMMENT ON COLUMN @extschema@.rgrid_unsettled_calls.reason IS 'Why they are not settled';

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
    'Has a function settle the jobs of dead workers, or changes how; for its owner';
COMMENT ON FUNCTION @extschema@.rgrid_unwatch_function(regprocedure) IS
    'A function settles no jobs any more; returns whether it did';
COMMENT ON FUNCTION @extschema@.rgrid_watch_queue(text, text, text) IS
    'Has the jobs of dead workers settled in a queue that is known by name; for the owner of its tables';
COMMENT ON FUNCTION @extschema@.rgrid_unwatch_queue(text, text) IS
    'Stops watching a queue; returns whether it was watched';
GRANT SELECT ON @extschema@.rgrid_job_queues TO pg_monitor;

-- The watched tables that were tried. No part of a dump: a restored table was not tried where it is now.
CREATE TABLE @extschema@.rgrid_tried_tables (
    job_table oid PRIMARY KEY,
    tried_at timestamp with time zone NOT NULL
);

COMMENT ON TABLE @extschema@.rgrid_tried_tables IS
    'Watched tables of which a death, or a rehearsal, has settled a job';
COMMENT ON COLUMN @extschema@.rgrid_tried_tables.job_table IS 'The table of jobs, as an OID';
COMMENT ON COLUMN @extschema@.rgrid_tried_tables.tried_at IS
    'When that was first done since the table was last watched in another way';

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
    'Trigger function of the extension''s own tables: rows that logical replication brings never stop it';

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
    'Settles a job of a watched table and undoes it; a row for each attempt, with status ok, warning or error';

CREATE FUNCTION @extschema@.rgrid_fence_violated() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_fence_violated_wrapper';

-- Fences: triggers on tables of jobs that keep late results away. Their function raises the error; whether there is
-- one to raise is tested by each trigger's WHEN clause. A table's owner must be able to make one.
CREATE FUNCTION @extschema@.rgrid_fence(job_table regclass) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_fence_wrapper';
CREATE FUNCTION @extschema@.rgrid_unfence(job_table regclass) RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_unfence_wrapper';

COMMENT ON FUNCTION @extschema@.rgrid_fence(regclass) IS
    'Refuses results of jobs that were given up because their worker was declared dead';
COMMENT ON FUNCTION @extschema@.rgrid_unfence(regclass) IS
    'Takes the fence off a table of jobs; returns whether there was one';
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
) STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_stat_databases_wrapper';

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
CREATE FUNCTION @extschema@.rgrid_stat_reset() RETURNS void STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_stat_reset_wrapper';

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

-- What operators read. Every column has its meaning, and its unit when it has one, in its comment.
CREATE VIEW @extschema@.rgrid_workers AS
SELECT w.worker_id, w.hostname, w.state, w.incarnation, w.last_heartbeat_at, w.seconds_since_heartbeat,
       w.declared_dead_at, w.attached_at, w.disconnected_at
FROM @extschema@.rgrid_worker_states() AS w;

CREATE VIEW @extschema@.pg_stat_rgrid_heartbeat AS
SELECT s.datid, d.datname, s.has_extension, s.observing_since, s.sweeps, s.last_sweep_started_at,
       s.last_sweep_finished_at, s.last_sweep_seconds, s.heartbeats_in_row, s.calls_refused, s.flushes, s.rows_flushed,
       s.deaths, s.false_deaths, s.held_workers, s.held_until, s.jobs_failed, s.jobs_requeued, s.locked_jobs,
       a.attached_workers, a.sessions_lost, a.workers_lost_together, s.workers_from_the_future, s.workers_pruned,
       s.deaths_pruned, s.median_interval_seconds,
       s.p99_interval_seconds, s.errors, s.failures_in_a_row, s.last_error, s.last_error_at, s.buffer_entries,
       s.buffer_capacity, s.connections_full_since, s.stats_reset
FROM @extschema@.rgrid_stat_databases() AS s
LEFT JOIN @extschema@.rgrid_stat_attached() AS a ON a.datid OPERATOR(pg_catalog.=) s.datid
LEFT JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) s.datid;

CREATE VIEW @extschema@.pg_stat_rgrid_problems AS
SELECT p.datid, d.datname, p.problem, p.relid, p.since, p.last_at, p.rounds, p.sqlstate, p.message
FROM @extschema@.rgrid_stat_problems() AS p
LEFT JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) p.datid;

GRANT SELECT ON @extschema@.rgrid_workers, @extschema@.pg_stat_rgrid_heartbeat,
    @extschema@.pg_stat_rgrid_problems TO pg_monitor;

COMMENT ON FUNCTION @extschema@.rgrid_worker_states() IS 'What the view rgrid_workers shows';
COMMENT ON FUNCTION @extschema@.rgrid_stat_databases() IS 'What the view pg_stat_rgrid_heartbeat shows';
COMMENT ON FUNCTION @extschema@.rgrid_stat_attached() IS
    'What the view pg_stat_rgrid_heartbeat shows of attached workers';
COMMENT ON FUNCTION @extschema@.rgrid_stat_problems() IS 'What the view pg_stat_rgrid_problems shows';
COMMENT ON FUNCTION @extschema@.rgrid_stat_reset() IS
    'Resets the counters and intervals of this database in pg_stat_rgrid_heartbeat';
COMMENT ON FUNCTION @extschema@.rgrid_health() IS
    'Whether everything works here, a row a check: status ok, warning or error, what was found, how to fix it';

COMMENT ON VIEW @extschema@.rgrid_workers IS
    'Every worker that has a row in worker_heartbeats, with what is known in memory; exact at any moment';
COMMENT ON COLUMN @extschema@.rgrid_workers.worker_id IS 'The worker''s id';
COMMENT ON COLUMN @extschema@.rgrid_workers.hostname IS
    'The host that the worker named, or the address that it called from; NULL for neither';
COMMENT ON COLUMN @extschema@.rgrid_workers.state IS
    'alive; stale: silent for longer than the threshold, not declared dead yet; dead: in the ledger, not returned';
COMMENT ON COLUMN @extschema@.rgrid_workers.incarnation IS
    'The number that its heartbeats return; of a dead worker, the one that it gets when it returns';
COMMENT ON COLUMN @extschema@.rgrid_workers.last_heartbeat_at IS 'When it was last heard of';
COMMENT ON COLUMN @extschema@.rgrid_workers.seconds_since_heartbeat IS 'How long ago that was, in seconds';
COMMENT ON COLUMN @extschema@.rgrid_workers.declared_dead_at IS 'When it was declared dead; NULL while it is not dead';
COMMENT ON COLUMN @extschema@.rgrid_workers.attached_at IS
    'Since when it is attached to a session; NULL when it is not';
COMMENT ON COLUMN @extschema@.rgrid_workers.disconnected_at IS
    'When the client of that session vanished; NULL once it was heard again, or declared dead';

COMMENT ON VIEW @extschema@.pg_stat_rgrid_heartbeat IS
    'A row a database that the launcher knows, counted since stats_reset; lost in a crash of the server';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.datid IS 'OID of the database';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.datname IS 'Name of the database';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.has_extension IS
    'Whether the last sweeper found the extension there; NULL before the first';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.observing_since IS
    'Silence before this time does not count: when the server, or its watch over this database, last started';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.sweeps IS 'Sweeps that sweepers have finished';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_sweep_started_at IS 'When the last sweep began';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_sweep_finished_at IS
    'When the last sweep that was completed ended';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_sweep_seconds IS
    'How long it took, in seconds; NULL while another sweep is running, or after one that failed';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.heartbeats_in_row IS
    'Heartbeats that were written to their rows at once, rolled back or not: first ones, returns, other hostnames, '
    'ids or workers that do not fit in memory. Heartbeats in memory are not counted';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.calls_refused IS
    'Calls for a worker whose id belongs to another role';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.flushes IS 'Flushes that wrote heartbeats from memory to rows';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.rows_flushed IS
    'Rows that they wrote: a worker counts once a flush, however many heartbeats it has sent';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.deaths IS 'Rows added to the ledger, of every reason';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.false_deaths IS
    'Workers that returned after they had been declared dead for their silence, or for their lost session';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.held_workers IS
    'Workers that fell silent together and are held back now';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.held_until IS
    'When that ends at the latest, by the threshold of the current session; NULL while no worker is held back';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.locked_jobs IS
    'Running jobs of dead workers that the last sweep skipped because other sessions had locked them';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.attached_workers IS
    'Workers that are attached to a session now';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.sessions_lost IS
    'Sessions with attached workers that ended because their client vanished';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.workers_lost_together IS
    'Workers that were left to their silence because so many sessions were lost together, or by one pooler';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.workers_from_the_future IS
    'Workers with heartbeats ahead of the clock, counted each time that a sweep finds one, since the server started';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.jobs_failed IS 'Running jobs that were marked as failed';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.jobs_requeued IS 'Running jobs that went back to the queue';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.workers_pruned IS
    'Rows of dead workers that were removed because they were older than the retention';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.deaths_pruned IS 'Rows of the ledger that were removed, likewise';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.median_interval_seconds IS
    'Median of the intervals between heartbeats of a worker over the last hours, in seconds; NULL before enough were seen';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.p99_interval_seconds IS
    'Their 99th percentile, in seconds; may be up to 20 % plus flush_interval too low, never too high';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.errors IS 'Rounds of sweepers that met a problem or failed';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.failures_in_a_row IS
    'Sweepers that failed since the last one that did not';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_error IS
    'The last problem, which may be over; cut at 448 bytes, whole in the server''s log. All that last: pg_stat_rgrid_problems';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_error_at IS 'When it was last met';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.buffer_entries IS
    'Workers of this database whose heartbeats are kept in memory';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.buffer_capacity IS
    'Workers of all databases together that fit there: rgrid_heartbeat.max_workers';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.connections_full_since IS
    'Since when no client could connect to the server; NULL while one can';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.stats_reset IS 'When counting began';

COMMENT ON VIEW @extschema@.pg_stat_rgrid_problems IS
    'A row for each thing that the last sweeper of a database could not do; lost in a crash of the server';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.datid IS 'OID of the database';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.datname IS 'Name of the database';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.problem IS
    'What it is about: sweeper, own tables, subscription, memory, flush, future heartbeats, local time, incarnations, pruning, '
    'job table, locked jobs, or others: more than are kept apart';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.relid IS
    'OID of the watched table that it is about, in that database; NULL when it is about none';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.since IS 'When it was first met';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.last_at IS 'When it was last met';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.rounds IS 'How many sweepers have met it since then';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.sqlstate IS 'SQLSTATE of the error';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_problems.message IS
    'What could not be done and why; cut at 448 bytes, whole in the server''s log';

-- A function cannot get another argument, so it is replaced, and the roles that may call the old one may call the new
-- one. For pg_dump these grants stay the database's own and do not become the extension's.
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
COMMENT ON FUNCTION @extschema@.rgrid_sweep(boolean, boolean) IS
    'Declares silent workers dead and settles their jobs now, or shows which workers and jobs that would be';

-- Rights on the functions that are new, from ALTER DEFAULT PRIVILEGES or as functions have them.
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
          AND p.proname OPERATOR(pg_catalog.<>) ALL (
              '{rgrid_heartbeat,rgrid_register,rgrid_deregister,rgrid_stale_workers}')
          AND p.oid OPERATOR(pg_catalog.<>) '@extschema@.rgrid_sweep(boolean)'::pg_catalog.regprocedure
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

COMMENT ON FUNCTION @extschema@.rgrid_heartbeat(text, text) IS
    'A worker is alive; returns its incarnation, which grows when it was declared dead';
COMMENT ON FUNCTION @extschema@.rgrid_heartbeat(text[], text) IS
    'Many workers of one host are alive; returns their incarnations in the same order';
COMMENT ON FUNCTION @extschema@.rgrid_register(text, text) IS
    'A worker starts; returns its id, generated when NULL, and its incarnation';
COMMENT ON FUNCTION @extschema@.rgrid_deregister(text) IS
    'A worker stops on purpose; returns whether it was known';

-- Rights that ALTER DEFAULT PRIVILEGES or GRANT ALL gave on the extension's tables, but for reading them and for clients
-- that write heartbeats themselves: with TRIGGER on the ledger a role could have its code run by sweepers.
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
                   AND c.relname OPERATOR(pg_catalog.=) ANY ('{worker_heartbeats,rgrid_worker_deaths,rgrid_job_tables}')
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
