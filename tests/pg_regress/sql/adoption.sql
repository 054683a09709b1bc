-- A table worker_heartbeats that is there already.
\set SHOW_CONTEXT never
DROP EXTENSION rgrid_heartbeat;
CREATE SCHEMA rgrid;
-- What cannot be adopted stops CREATE EXTENSION, which says why.
CREATE TABLE rgrid.worker_heartbeats (id text PRIMARY KEY, last_heartbeat_at timestamp NOT NULL);
CREATE EXTENSION rgrid_heartbeat SCHEMA rgrid;
ALTER TABLE rgrid.worker_heartbeats RENAME id TO worker_id;
ALTER TABLE rgrid.worker_heartbeats ALTER last_heartbeat_at TYPE text;
CREATE EXTENSION rgrid_heartbeat SCHEMA rgrid;
ALTER TABLE rgrid.worker_heartbeats ALTER last_heartbeat_at TYPE timestamp USING NULL, ADD hostname inet;
CREATE EXTENSION rgrid_heartbeat SCHEMA rgrid;
ALTER TABLE rgrid.worker_heartbeats DROP hostname, DROP CONSTRAINT worker_heartbeats_pkey;
CREATE EXTENSION rgrid_heartbeat SCHEMA rgrid;
ALTER TABLE rgrid.worker_heartbeats ADD PRIMARY KEY (worker_id), ADD cluster text NOT NULL;
CREATE EXTENSION rgrid_heartbeat SCHEMA rgrid;
DROP TABLE rgrid.worker_heartbeats;
CREATE VIEW rgrid.worker_heartbeats AS SELECT 'a'::text AS worker_id, now() AS last_heartbeat_at;
CREATE EXTENSION rgrid_heartbeat SCHEMA rgrid;
DROP VIEW rgrid.worker_heartbeats;
SELECT count(*) AS left_behind FROM pg_class WHERE relname LIKE 'rgrid\_%';
-- RGrid's own.
CREATE TABLE rgrid.workers (worker_id varchar(64) PRIMARY KEY);
CREATE TABLE rgrid.worker_heartbeats (worker_id text UNIQUE, last_heartbeat_at timestamp NOT NULL);
CREATE EXTENSION rgrid_heartbeat SCHEMA rgrid;
DROP TABLE rgrid.worker_heartbeats;
CREATE TABLE rgrid.worker_heartbeats (
    worker_id varchar(64) PRIMARY KEY REFERENCES rgrid.workers ON DELETE CASCADE,
    last_heartbeat_at timestamp NOT NULL,
    ray_available_resources json
);
CREATE INDEX ON rgrid.worker_heartbeats (last_heartbeat_at);
CREATE TABLE rgrid.executions (
    id bigserial PRIMARY KEY, status varchar(50) NOT NULL, worker_id varchar(64), execution_error text,
    completed_at timestamp
);
INSERT INTO rgrid.workers VALUES ('worker-1'), ('worker-2');
INSERT INTO rgrid.worker_heartbeats VALUES ('worker-1', '2000-01-01', '{"CPU": 2}');
CREATE EXTENSION rgrid_heartbeat SCHEMA rgrid;
SET TimeZone = 'Asia/Kolkata';
SELECT rgrid.rgrid_heartbeat('worker-2', 'not stored');
SELECT worker_id, ray_available_resources,
       last_heartbeat_at > (clock_timestamp() AT TIME ZONE 'UTC') - interval '10 seconds' AS utc_now
FROM rgrid.worker_heartbeats ORDER BY 1;
SELECT worker_id, hostname, last_heartbeat_at AT TIME ZONE 'UTC' AS utc, state FROM rgrid.rgrid_stale_workers();
-- The foreign key refuses a worker that RGrid does not know; the column, an id that is too long for it.
SELECT rgrid.rgrid_heartbeat('worker-3');
SELECT rgrid.rgrid_heartbeat(repeat('x', 65));
-- A sweep.
SET rgrid_heartbeat.stale_threshold = '100ms';
INSERT INTO rgrid.executions (status, worker_id) VALUES ('running', 'worker-1');
DO $$
BEGIN
    WHILE NOT EXISTS (SELECT FROM rgrid.rgrid_sweep(dry_run => true)) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
UPDATE rgrid.worker_heartbeats SET last_heartbeat_at = 'infinity' WHERE worker_id = 'worker-2';
SELECT worker_id, hostname, job_table, jobs_failed FROM rgrid.rgrid_sweep();
SELECT status, execution_error, completed_at > (clock_timestamp() AT TIME ZONE 'UTC') - interval '10 seconds' AS utc_now
FROM rgrid.executions;
RESET TimeZone;
-- The table is not the extension's: it stays.
DROP EXTENSION rgrid_heartbeat;
SELECT count(*) FROM rgrid.worker_heartbeats;
-- And can be adopted again. A worker whose host is not known gets what the owner has as default.
ALTER TABLE rgrid.worker_heartbeats ADD hostname varchar(9) NOT NULL DEFAULT 'somewhere';
DELETE FROM rgrid.worker_heartbeats WHERE worker_id = 'worker-2';
CREATE EXTENSION rgrid_heartbeat SCHEMA rgrid;
SELECT rgrid.rgrid_heartbeat('worker-2');
SELECT hostname FROM rgrid.worker_heartbeats WHERE worker_id = 'worker-2';
DROP EXTENSION rgrid_heartbeat;
SET client_min_messages = warning;
DROP SCHEMA rgrid CASCADE;
CREATE EXTENSION rgrid_heartbeat;
-- A database in another encoding.
CREATE DATABASE rgrid_regress_latin1 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0;
\set database :DBNAME
\c rgrid_regress_latin1
CREATE EXTENSION rgrid_heartbeat;
\c :database
DROP DATABASE rgrid_regress_latin1;
