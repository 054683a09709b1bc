-- A sweep by hand.
SET rgrid_heartbeat.stale_threshold = '1s';
SELECT wait_until_judging();
INSERT INTO worker_heartbeats (worker_id, hostname, last_heartbeat_at) VALUES
    ('alive', 'host', clock_timestamp()), ('dead', 'host', clock_timestamp() - interval '1 hour'),
    ('idle', 'host', clock_timestamp() - interval '1 hour');
INSERT INTO executions (status, worker_id) VALUES
    ('running', 'dead'), ('running', 'dead'), ('queued', 'dead'), ('completed', 'dead'), ('failed', 'dead'),
    ('running', 'alive'), ('running', NULL), ('running', 'unheard of');
-- What it would do, and that it did not.
SELECT worker_id, hostname, last_heartbeat_at IS NOT NULL AS heard_of, job_table, jobs_failed, jobs_requeued
FROM rgrid_sweep(dry_run => true) ORDER BY worker_id;
SELECT count(*) FROM executions WHERE execution_error IS NOT NULL;
SELECT count(*) FROM rgrid_worker_deaths;
BEGIN READ ONLY;
SELECT worker_id FROM rgrid_sweep(dry_run => true) ORDER BY worker_id;
COMMIT;
-- A rolled-back sweep never was. The living worker beats again before each sweep: the threshold is a short one.
UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp() WHERE worker_id = 'alive';
BEGIN;
SELECT count(*) FROM rgrid_sweep();
ROLLBACK;
SELECT count(*) FROM rgrid_worker_deaths;
-- The sweep.
UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp() WHERE worker_id = 'alive';
SELECT worker_id, hostname, job_table, jobs_failed, jobs_requeued FROM rgrid_sweep() ORDER BY worker_id;
SELECT id, status, worker_id, execution_error,
       completed_at > (clock_timestamp() AT TIME ZONE 'UTC') - interval '10 seconds' AS utc_now
FROM executions ORDER BY id;
SELECT worker_id, incarnation, hostname, reason, jobs_failed, jobs_requeued, returned_at,
       declared_dead_at > clock_timestamp() - interval '10 seconds' AS now
FROM rgrid_worker_deaths ORDER BY worker_id;
SELECT worker_id, state FROM rgrid_stale_workers() ORDER BY worker_id;
-- Dead once.
UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp() WHERE worker_id = 'alive';
SELECT * FROM rgrid_sweep();
-- A zombie that claims a job does not keep it.
INSERT INTO executions (status, worker_id) VALUES ('running', 'dead');
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
SELECT jobs_failed FROM rgrid_worker_deaths WHERE worker_id = 'dead';
-- It comes back: what it still ran is settled, and it learns that it died.
INSERT INTO executions (status, worker_id) VALUES ('running', 'dead');
SELECT rgrid_heartbeat('dead', 'host');
SELECT rgrid_heartbeat('dead', 'host');
SELECT incarnation, jobs_failed, returned_at >= declared_dead_at AS returned FROM rgrid_worker_deaths WHERE worker_id = 'dead';
SELECT count(*) FROM executions WHERE status = 'running' AND worker_id = 'dead';
-- What it claims from then on is its own.
INSERT INTO executions (status, worker_id) VALUES ('running', 'dead');
UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp() WHERE worker_id IN ('dead', 'alive');
SELECT count(*) FROM rgrid_sweep();
SELECT count(*) FROM executions WHERE status = 'running' AND worker_id = 'dead';
-- A client that writes its row itself comes back, too, at the next sweep.
UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp() WHERE worker_id IN ('idle', 'dead', 'alive');
SELECT count(*) FROM rgrid_sweep();
SELECT incarnation, returned_at IS NOT NULL AS returned FROM rgrid_worker_deaths WHERE worker_id = 'idle';
-- And dies again.
UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp() - interval '1 hour' WHERE worker_id = 'idle';
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
SELECT incarnation, reason FROM rgrid_worker_deaths WHERE worker_id = 'idle' ORDER BY 1;
-- Deregistering with running jobs settles them.
SELECT rgrid_deregister('dead');
SELECT incarnation, reason, jobs_failed, returned_at IS NOT NULL AS returned
FROM rgrid_worker_deaths WHERE worker_id = 'dead' ORDER BY 1;
-- A worker that beats is not dead, whatever its row says by now.
SELECT rgrid_heartbeat('beating', 'host');
UPDATE worker_heartbeats SET last_heartbeat_at = '2000-01-01' WHERE worker_id = 'beating';
SET rgrid_heartbeat.stale_threshold = '1min';
SELECT count(*) FROM rgrid_sweep() WHERE worker_id = 'beating';
SET rgrid_heartbeat.stale_threshold = '1s';
SELECT rgrid_deregister('beating');
-- Registering settles what still runs under the id, also when nobody ever heard of it.
SELECT * FROM rgrid_register('unheard of', 'host');
SELECT incarnation, reason, jobs_failed, returned_at IS NOT NULL AS returned
FROM rgrid_worker_deaths WHERE worker_id = 'unheard of';
-- Not in a read-only transaction.
BEGIN READ ONLY;
SELECT * FROM rgrid_sweep();
ROLLBACK;
-- Isolation levels.
UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp() - interval '1 hour' WHERE worker_id = 'alive';
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT worker_id, jobs_failed FROM rgrid_sweep();
COMMIT;
-- A heartbeat from the future counts as of now: its worker lives, and is no longer ahead.
INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at) VALUES ('ahead', 'infinity');
SELECT count(*) FROM rgrid_sweep() WHERE worker_id = 'ahead';
SELECT last_heartbeat_at <= clock_timestamp() AS taken_as_of_now FROM worker_heartbeats WHERE worker_id = 'ahead';
-- A dry run leaves it as it is.
UPDATE worker_heartbeats SET last_heartbeat_at = 'infinity' WHERE worker_id = 'ahead';
SELECT count(*) FROM rgrid_sweep(dry_run => true, force => true) WHERE worker_id = 'ahead';
SELECT last_heartbeat_at FROM worker_heartbeats WHERE worker_id = 'ahead';
SELECT forget_all();
