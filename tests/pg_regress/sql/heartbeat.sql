-- A worker's life: first heartbeat, heartbeats, deregistration.
SELECT rgrid_heartbeat('worker-1', 'host-1');
SELECT worker_id, hostname, last_heartbeat_at > clock_timestamp() - interval '10 seconds' AS just_now
FROM worker_heartbeats;
-- A new hostname replaces the old one; none leaves it.
UPDATE worker_heartbeats SET last_heartbeat_at = '2000-01-01';
SELECT rgrid_heartbeat('worker-1', 'host-2');
SELECT worker_id, hostname, last_heartbeat_at > '2001-01-01' AS moved FROM worker_heartbeats;
SELECT rgrid_heartbeat('worker-1');
SELECT worker_id, hostname FROM worker_heartbeats;
-- On a Unix socket, nobody knows the host of a worker that does not name it.
SELECT rgrid_heartbeat('worker-2');
SELECT hostname IS NULL AS unknown FROM worker_heartbeats WHERE worker_id = 'worker-2';
-- Named arguments.
SELECT rgrid_heartbeat(hostname => 'host-3', worker_id => 'worker-3');
-- A long hostname is cut.
SELECT rgrid_heartbeat('worker-3', repeat('x', 10000));
SELECT length(hostname) FROM worker_heartbeats WHERE worker_id = 'worker-3';
-- What looks like SQL is data, and so is anything in another alphabet.
SELECT rgrid_heartbeat($$'; DROP TABLE worker_heartbeats; --$$, $$"$1'@table@@extschema@$$);
SELECT rgrid_heartbeat('arbeiter-ä-работник-働', 'höst');
SELECT worker_id, hostname FROM worker_heartbeats WHERE worker_id NOT LIKE 'worker%' ORDER BY worker_id COLLATE "C";
-- 255 characters are possible, of whatever length in bytes.
SELECT rgrid_heartbeat(repeat('ä', 255), 'host');
-- A first heartbeat that is rolled back never was.
BEGIN;
SELECT rgrid_heartbeat('worker-4', 'host');
ROLLBACK;
SELECT count(*) FROM worker_heartbeats WHERE worker_id = 'worker-4';
-- One call for many workers, in their order.
SELECT rgrid_heartbeat(ARRAY['worker-7', 'worker-6', 'worker-7', 'worker-1'], 'host-7');
SELECT worker_id, hostname FROM worker_heartbeats WHERE hostname = 'host-7' ORDER BY worker_id;
SELECT rgrid_heartbeat('{}'::text[]);
SELECT rgrid_heartbeat(ARRAY['worker-8', '']);
SELECT rgrid_heartbeat(ARRAY['worker-8', NULL]);
SELECT rgrid_heartbeat(NULL::text[]);
SELECT count(*) FROM worker_heartbeats WHERE worker_id = 'worker-8';
-- Registration makes up an id, or takes the worker's own.
SELECT id ~ '^worker-[0-9a-f]{8}$' AS like_rgrids, incarnation FROM rgrid_register(hostname => 'host');
SELECT * FROM rgrid_register('worker-5', 'host');
-- Whoever registers again is another process: the earlier one is given up.
SELECT * FROM rgrid_register('worker-5', 'host');
SELECT rgrid_heartbeat('worker-5', 'host');
SELECT worker_id, incarnation, reason, jobs_failed, returned_at IS NOT NULL AS returned FROM rgrid_worker_deaths
WHERE worker_id LIKE 'worker-%';
-- Many at once, in their order; one that is there already is another process, too.
SELECT * FROM rgrid_register(ARRAY['worker-11', 'worker-10', 'worker-5', 'worker-11'], 'host-10');
SELECT worker_id, hostname FROM worker_heartbeats WHERE hostname = 'host-10' ORDER BY worker_id;
SELECT * FROM rgrid_register('{}'::text[]);
SELECT * FROM rgrid_register(ARRAY['worker-12', '']);
SELECT * FROM rgrid_register(ARRAY['worker-12', NULL]);
SELECT * FROM rgrid_register(NULL::text[]);
SELECT count(*) FROM worker_heartbeats WHERE worker_id = 'worker-12';
-- Deregistration: the row goes, nobody died.
SELECT rgrid_deregister('worker-1');
SELECT rgrid_deregister('worker-1');
SELECT count(*) FROM worker_heartbeats WHERE worker_id = 'worker-1';
SELECT count(*) FROM rgrid_worker_deaths WHERE worker_id = 'worker-1';
-- Not in a read-only transaction.
BEGIN READ ONLY;
SELECT rgrid_heartbeat('worker-2', 'host');
ROLLBACK;
BEGIN READ ONLY;
SELECT rgrid_register();
ROLLBACK;
BEGIN READ ONLY;
SELECT rgrid_register('{worker-2}'::text[]);
ROLLBACK;
BEGIN READ ONLY;
SELECT rgrid_deregister('worker-2');
ROLLBACK;
SELECT forget_all();
