-- Who may do what.
\set SHOW_CONTEXT never
CREATE ROLE rgrid_regress_nobody;
CREATE ROLE rgrid_regress_worker;
CREATE ROLE rgrid_regress_monitor IN ROLE pg_monitor;
CREATE ROLE rgrid_regress_owner;
CREATE ROLE rgrid_regress_other;
GRANT EXECUTE ON FUNCTION rgrid_heartbeat(text, text), rgrid_register(text, text), rgrid_deregister(text)
    TO rgrid_regress_worker, rgrid_regress_other;
-- Loads the library, without which a setting is only a name.
SELECT count(*) FROM rgrid_stale_workers();
-- Nobody may do nothing.
SET ROLE rgrid_regress_nobody;
SELECT rgrid_heartbeat('a', 'host');
SELECT rgrid_register();
SELECT rgrid_deregister('a');
SELECT rgrid_sweep();
SELECT rgrid_sweep(dry_run => true);
SELECT rgrid_stale_workers();
TABLE worker_heartbeats;
TABLE rgrid_worker_deaths;
TABLE rgrid_job_tables;
TABLE pg_stat_rgrid_problems;
SELECT rgrid_stat_problems();
SET rgrid_heartbeat.stale_threshold = '1s';
-- The function of fences is there to be named by the owner of a table, and does nothing but refuse.
SELECT rgrid_fence_violated();
ALTER FUNCTION rgrid_fence_violated() RENAME TO mine;
GRANT EXECUTE ON FUNCTION rgrid_fence_violated() TO rgrid_regress_worker;
CREATE TRIGGER mine BEFORE UPDATE ON executions FOR EACH ROW EXECUTE FUNCTION rgrid_fence_violated();
CREATE TEMP TABLE mine AS SELECT 'w1' AS worker_id;
CREATE TRIGGER mine BEFORE UPDATE ON mine FOR EACH ROW EXECUTE FUNCTION rgrid_fence_violated();
UPDATE mine SET worker_id = 'w2';
DROP TABLE mine;
-- A worker with EXECUTE alone can live its life.
SET ROLE rgrid_regress_worker;
SELECT rgrid_heartbeat('a', 'host');
SELECT * FROM rgrid_register('b', 'host');
SELECT * FROM rgrid_register('b', 'host');
SELECT rgrid_deregister('b');
-- Its ids are its own.
SET ROLE rgrid_regress_other;
SELECT rgrid_heartbeat('a', 'host');
SELECT rgrid_register('a', 'host');
SELECT rgrid_deregister('a');
SELECT rgrid_reassign_worker('a', 'rgrid_regress_other');
SET rgrid_heartbeat.isolate_roles = off;
SET rgrid_heartbeat.max_workers_per_role = 1000;
RESET ROLE;
TABLE rgrid_worker_owners;
SELECT rgrid_reassign_worker('a', 'rgrid_regress_other');
SELECT rgrid_reassign_worker('unknown', 'rgrid_regress_other');
SELECT rgrid_reassign_worker('a', 'nobody of this name');
SELECT rgrid_reassign_worker('a', NULL);
SET rgrid_heartbeat.max_workers_per_role = 1;
SET ROLE rgrid_regress_other;
SELECT rgrid_heartbeat('a', 'host');
SELECT rgrid_heartbeat('one too many', 'host');
RESET ROLE;
RESET rgrid_heartbeat.max_workers_per_role;
SELECT rgrid_reassign_worker('a', 'rgrid_regress_worker');
-- And no more.
SET ROLE rgrid_regress_worker;
TABLE worker_heartbeats;
TABLE rgrid_worker_deaths;
INSERT INTO rgrid_job_tables VALUES ('pg_class');
SELECT rgrid_sweep();
SELECT rgrid_stale_workers();
-- Its own objects are not run with the extension's rights.
RESET ROLE;
CREATE SCHEMA trap AUTHORIZATION rgrid_regress_worker;
SET ROLE rgrid_regress_worker;
CREATE FUNCTION trap.sprung() RETURNS timestamptz LANGUAGE plpgsql AS
    $$BEGIN RAISE 'sprung as %', current_user; END$$;
CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT trap.sprung()';
CREATE FUNCTION trap.max(bigint) RETURNS timestamptz LANGUAGE sql AS 'SELECT trap.sprung()';
CREATE FUNCTION trap.eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT trap.sprung() IS NULL';
CREATE OPERATOR trap.= (FUNCTION = trap.eq, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION trap.plus(bigint, integer) RETURNS bigint LANGUAGE sql AS 'SELECT 1 FROM trap.sprung()';
CREATE OPERATOR trap.+ (FUNCTION = trap.plus, LEFTARG = bigint, RIGHTARG = integer);
CREATE TEMP TABLE worker_heartbeats (worker_id text PRIMARY KEY, last_heartbeat_at timestamptz);
CREATE TEMP TABLE executions (status text, worker_id text, execution_error text, completed_at timestamp);
SET search_path = trap, public, pg_catalog;
SELECT public.rgrid_heartbeat('a', 'host');
SELECT * FROM public.rgrid_register('a', 'host');
SELECT public.rgrid_deregister('a');
SELECT count(*) FROM pg_temp.worker_heartbeats;
-- The caller keeps what it had.
SELECT current_user;
SHOW search_path;
SHOW row_security;
RESET search_path;
-- Who watches may look.
SET ROLE rgrid_regress_monitor;
SELECT count(*) FROM rgrid_stale_workers();
SELECT count(*) FROM rgrid_worker_deaths;
SELECT has_table_privilege('pg_stat_rgrid_problems', 'SELECT') AS may_read,
       has_function_privilege('rgrid_stat_problems()', 'EXECUTE') AS may_call;
SELECT rgrid_heartbeat('a', 'host');
SELECT rgrid_sweep();
RESET ROLE;
DROP TABLE pg_temp.worker_heartbeats, pg_temp.executions;

-- The owner of a table of jobs gains nothing by owning it.
SET rgrid_heartbeat.stale_threshold = '100ms';
SELECT wait_until_judging();
ALTER TABLE executions OWNER TO rgrid_regress_owner;
GRANT CREATE ON SCHEMA public TO rgrid_regress_owner;
SET ROLE rgrid_regress_owner;
CREATE FUNCTION greedy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    ALTER ROLE rgrid_regress_owner SUPERUSER;
    RETURN NEW;
EXCEPTION
    -- What the server says differs between its versions.
    WHEN insufficient_privilege THEN RAISE insufficient_privilege USING MESSAGE = 'refused';
END
$$;
CREATE TRIGGER greedy BEFORE UPDATE ON executions FOR EACH ROW EXECUTE FUNCTION greedy();
RESET ROLE;
INSERT INTO executions (status, worker_id) VALUES ('running', 'victim');
INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at) VALUES ('victim', '2000-01-01');
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
SELECT rolsuper FROM pg_roles WHERE rolname = 'rgrid_regress_owner';
-- Nor by changing the role or the session.
SET ROLE rgrid_regress_owner;
CREATE OR REPLACE FUNCTION greedy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RESET ROLE;
    RETURN NEW;
END
$$;
RESET ROLE;
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
SET ROLE rgrid_regress_owner;
CREATE OR REPLACE FUNCTION greedy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.execution_error := NEW.execution_error || ' as ' || current_user || ' in ' || current_setting('search_path');
    RETURN NEW;
END
$$;
RESET ROLE;
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
SELECT status, execution_error FROM executions;
-- A policy that would hide rows from the owner is an error, not silence.
UPDATE executions SET status = 'running';
ALTER TABLE executions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
ALTER TABLE executions DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
-- An owner that gave its rights away is told.
REVOKE UPDATE ON executions FROM rgrid_regress_owner;
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
GRANT UPDATE ON executions TO rgrid_regress_owner;
-- The table changes hands: the present owner counts.
ALTER TABLE executions OWNER TO CURRENT_USER;
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
SELECT status, execution_error FROM executions;
DROP TRIGGER greedy ON executions;
DROP FUNCTION greedy();
SELECT forget_all();
SET client_min_messages = warning;
DROP SCHEMA trap CASCADE;
REVOKE ALL ON FUNCTION rgrid_heartbeat(text, text), rgrid_register(text, text), rgrid_deregister(text)
    FROM rgrid_regress_worker, rgrid_regress_other;
REVOKE CREATE ON SCHEMA public FROM rgrid_regress_owner;
DROP ROLE rgrid_regress_nobody, rgrid_regress_worker, rgrid_regress_monitor, rgrid_regress_owner, rgrid_regress_other;
