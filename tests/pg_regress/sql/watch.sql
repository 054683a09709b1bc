-- Having a table of jobs watched, and what becomes of its jobs.
\set VERBOSITY default
SET rgrid_heartbeat.stale_threshold = '100ms';
SELECT wait_until_judging();
-- The defaults are those of the table that needs no announcement: its entry changes nothing.
SELECT rgrid_watch_jobs('executions');
SELECT * FROM rgrid_job_tables;
SELECT count(*) AS parameters_that_differ_from_the_columns_default
FROM information_schema.parameters p JOIN information_schema.columns c
    ON c.column_name = p.parameter_name AND c.table_name = 'rgrid_job_tables'
WHERE p.specific_name LIKE 'rgrid\_watch\_jobs%' AND p.parameter_name <> 'job_table'
  AND nullif(regexp_replace(p.parameter_default, '^NULL::.*', ''), '') IS DISTINCT FROM c.column_default;
-- It can be changed, switched off, and switched on again.
INSERT INTO executions (status, worker_id) VALUES ('running', 'w1'), ('busy', 'w1');
SELECT rgrid_watch_jobs('executions', running_status => 'busy', error_message => 'lost');
SELECT die('w1');
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
SELECT status, execution_error FROM executions ORDER BY id;
SELECT rgrid_unwatch_jobs('executions'), rgrid_unwatch_jobs('executions') AS again;
SELECT job_table, watched FROM rgrid_job_tables;
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
SELECT rgrid_watch_jobs('executions');
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
SELECT status, execution_error FROM executions ORDER BY id;
TRUNCATE rgrid_job_tables;
-- Switched off without ever having had an entry.
SELECT rgrid_unwatch_jobs('executions');
SELECT job_table, watched FROM rgrid_job_tables;
TRUNCATE rgrid_job_tables;

-- Other types: a domain over an enum as status, uuid or integer as worker, date as finish time.
CREATE TYPE state AS ENUM ('waiting', 'at work', 'lost', 'done');
CREATE DOMAIN job_state AS state CHECK (VALUE <> 'done');
CREATE TABLE typed (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), runner uuid, state job_state, note varchar(10), ended date);
SELECT rgrid_watch_jobs('typed', 'runner', 'state', 'at work', 'lost', 'note', 'the runner is gone', 'ended');
INSERT INTO typed (runner, state) VALUES ('11111111-1111-1111-1111-111111111111', 'at work'),
    ('11111111-1111-1111-1111-111111111111', 'waiting'), ('22222222-2222-2222-2222-222222222222', 'at work');
SELECT die('11111111-1111-1111-1111-111111111111'), die('no uuid');
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
SELECT runner, state, note, ended = (now() AT TIME ZONE 'UTC')::date AS today FROM typed ORDER BY runner, state;
CREATE TABLE numbered (runner integer, state state);
SELECT rgrid_watch_jobs('numbered', 'runner', 'state', 'at work', 'lost', error_column => NULL, finished_column => NULL);
INSERT INTO numbered VALUES (7, 'at work');
SELECT die('7');
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
SELECT * FROM numbered;

-- Requeueing: back to the queue while there are attempts, then failed.
CREATE TABLE retried (
    id int PRIMARY KEY, status state, worker_id text, execution_error text, completed_at timestamptz,
    started_at timestamptz, retry_count smallint, max_retries int
);
SELECT rgrid_watch_jobs('retried', running_status => 'at work', dead_status => 'lost', queued_status => 'waiting',
    on_death => 'requeue', started_column => 'started_at', max_attempts => 1);
INSERT INTO retried VALUES (1, 'at work', 'r1', NULL, NULL, now(), 0, 2), (2, 'at work', 'r1', NULL, NULL, now(), 2, 2),
    (3, 'at work', 'r1', NULL, NULL, now(), NULL, NULL), (4, 'at work', 'r2', NULL, NULL, now(), 0, 2);
SELECT die('r1');
SELECT worker_id, job_table, jobs_failed, jobs_requeued FROM rgrid_sweep(dry_run => true);
SELECT worker_id, job_table, jobs_failed, jobs_requeued FROM rgrid_sweep();
SELECT worker_id, jobs_failed, jobs_requeued FROM rgrid_worker_deaths WHERE worker_id = 'r1';
SELECT id, status, worker_id, execution_error, completed_at IS NOT NULL AS completed, started_at IS NOT NULL AS started,
    retry_count FROM retried ORDER BY id;
-- With a fence, a late result of a job that was given back is refused until it is claimed afresh.
SELECT rgrid_fence('retried');
UPDATE retried SET status = 'done' WHERE id = 1;
UPDATE retried SET status = 'done' WHERE id = 2;
UPDATE retried SET status = 'at work', worker_id = 'r3' WHERE id IN (1, 3);
UPDATE retried SET status = 'done' WHERE id = 4;
-- Another watch makes the fence anew, and without one there is none.
SELECT pg_get_triggerdef(oid) ~ 'waiting' AS queued_is_given_up FROM pg_trigger WHERE tgrelid = 'retried'::regclass;
SELECT rgrid_unwatch_jobs('retried');
SELECT count(*) AS fences FROM pg_trigger WHERE tgrelid = 'retried'::regclass;
SELECT rgrid_watch_jobs('retried', running_status => 'at work', dead_status => 'lost', queued_status => 'waiting',
    on_death => 'requeue', started_column => 'started_at', max_attempts => 1);
SELECT die('r3');
SELECT worker_id, job_table, jobs_failed, jobs_requeued FROM rgrid_sweep();
SELECT id, status, worker_id, execution_error, retry_count FROM retried ORDER BY id;
-- Also for a worker that comes back, and past rows that others have locked (see the tests with real servers).
UPDATE retried SET status = 'at work', worker_id = 'r3' WHERE id = 1;
UPDATE retried SET retry_count = 0 WHERE id = 1;
SELECT rgrid_heartbeat('r3', 'host');
SELECT id, status, worker_id, execution_error, retry_count FROM retried WHERE id = 1;
SELECT incarnation, jobs_failed, jobs_requeued FROM rgrid_worker_deaths WHERE worker_id = 'r3';

-- What is refused.
CREATE TABLE plain (id int, status text, worker_id text, execution_error text, completed_at timestamp, tags int4range,
    retry_count int, max_retries text);
SELECT rgrid_watch_jobs(NULL);
SELECT rgrid_watch_jobs('plain', status_column => NULL);
SELECT rgrid_watch_jobs('plain', on_death => NULL);
SELECT rgrid_watch_jobs('no_table');
SELECT rgrid_watch_jobs(1);
SELECT rgrid_watch_jobs('plain', worker_column => 'runner');
SELECT rgrid_watch_jobs('plain', worker_column => 'tags');
SELECT rgrid_watch_jobs('plain', status_column => 'id');
SELECT rgrid_watch_jobs('plain', error_column => 'id');
SELECT rgrid_watch_jobs('plain', finished_column => 'execution_error');
SELECT rgrid_watch_jobs('plain', on_death => 'forget');
SELECT rgrid_watch_jobs('plain', dead_status => 'running');
SELECT rgrid_watch_jobs('plain', on_death => 'requeue', queued_status => 'running');
SELECT rgrid_watch_jobs('plain', on_death => 'requeue', queued_status => 'failed');
SELECT rgrid_watch_jobs('plain', on_death => 'requeue');
SELECT rgrid_watch_jobs('plain', on_death => 'requeue', attempts_column => NULL);
SELECT rgrid_watch_jobs('plain', on_death => 'requeue', attempts_column => 'worker_id');
SELECT rgrid_watch_jobs('plain', on_death => 'requeue', max_attempts_column => NULL, max_attempts => -1);
SELECT rgrid_watch_jobs('retried', dead_status => 'failed');
SELECT rgrid_watch_jobs('typed', 'runner', 'state', 'at work', 'done', 'note', 'gone', 'ended');
CREATE TABLE short (status varchar(6), worker_id text NOT NULL, retry_count int);
SELECT rgrid_watch_jobs('short', error_column => NULL, finished_column => NULL);
SELECT rgrid_watch_jobs('short', error_column => NULL, finished_column => NULL, running_status => 'run',
    max_attempts_column => NULL, on_death => 'requeue');
-- What could never work: a column that only PostgreSQL writes, one column for two purposes.
CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY, status text, attempted_by text[], error text,
    worker_id text GENERATED ALWAYS AS (attempted_by[cardinality(attempted_by)]) STORED, retry_count int, started_at date,
    late text GENERATED ALWAYS AS (error || '!') STORED);
SELECT rgrid_watch_jobs('made', error_column => 'late', finished_column => NULL);
SELECT rgrid_watch_jobs('made', error_column => NULL, finished_column => NULL, worker_column => 'error',
    on_death => 'requeue', max_attempts_column => NULL, attempts_column => 'id');
SELECT rgrid_watch_jobs('made', error_column => 'status', finished_column => NULL);
SELECT rgrid_watch_jobs('made', error_column => 'worker_id', finished_column => NULL);
SELECT rgrid_watch_jobs('made', worker_column => 'error', error_column => NULL, on_death => 'requeue',
    max_attempts_column => 'retry_count', finished_column => NULL);
SELECT rgrid_watch_jobs('made', error_column => 'error', finished_column => NULL);
CREATE VIEW seen AS TABLE plain;
SELECT rgrid_watch_jobs('seen');
CREATE MATERIALIZED VIEW kept AS TABLE plain;
SELECT rgrid_watch_jobs('kept');
SELECT rgrid_watch_jobs('pg_class');
CREATE TEMP TABLE fleeting (LIKE plain);
\set VERBOSITY sqlstate
SELECT rgrid_watch_jobs('fleeting');
\set VERBOSITY default
SELECT rgrid_unwatch_jobs(NULL);
SELECT rgrid_unwatch_jobs('plain');
BEGIN READ ONLY;
SELECT rgrid_watch_jobs('plain');
ROLLBACK;
BEGIN READ ONLY;
SELECT rgrid_unwatch_jobs('plain');
ROLLBACK;
SELECT job_table FROM rgrid_job_tables ORDER BY job_table::text;

-- The owner alone, and a superuser; a member of the owner is the owner.
CREATE ROLE rgrid_regress_owner;
CREATE ROLE rgrid_regress_member IN ROLE rgrid_regress_owner;
CREATE ROLE rgrid_regress_other;
GRANT EXECUTE ON FUNCTION rgrid_watch_jobs, rgrid_unwatch_jobs TO rgrid_regress_owner, rgrid_regress_other;
ALTER TABLE plain OWNER TO rgrid_regress_owner;
SET ROLE rgrid_regress_other;
SELECT rgrid_watch_jobs('plain');
SELECT rgrid_unwatch_jobs('plain');
SET ROLE rgrid_regress_member;
SELECT rgrid_watch_jobs('plain');
SELECT rgrid_unwatch_jobs('plain');
INSERT INTO rgrid_job_tables VALUES ('plain');
RESET ROLE;
-- Checks of a domain run as the table's owner.
CREATE FUNCTION who() RETURNS text LANGUAGE sql AS 'SELECT current_user::text';
CREATE DOMAIN own_state AS text CHECK (who() = 'rgrid_regress_owner');
GRANT ALL ON DOMAIN own_state TO PUBLIC;
DROP VIEW seen;
DROP MATERIALIZED VIEW kept;
ALTER TABLE plain ALTER status TYPE own_state;
SET search_path = pg_catalog;
SELECT public.rgrid_watch_jobs('public.plain');
RESET search_path;
SELECT job_table FROM rgrid_job_tables WHERE job_table::regclass = 'plain'::regclass;

SELECT forget_all();
SET client_min_messages = warning;
DROP TABLE typed, numbered, retried, plain, short, made CASCADE;
DROP FUNCTION who CASCADE;
DROP TYPE state CASCADE;
REVOKE ALL ON FUNCTION rgrid_watch_jobs, rgrid_unwatch_jobs FROM rgrid_regress_owner, rgrid_regress_other;
DROP ROLE rgrid_regress_owner, rgrid_regress_member, rgrid_regress_other;
