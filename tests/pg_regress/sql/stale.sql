-- Who is silent, by the plain clock.
SELECT rgrid_heartbeat('alive', 'host');
INSERT INTO worker_heartbeats (worker_id, hostname, last_heartbeat_at) VALUES
    ('quiet', 'host', clock_timestamp() - interval '3 minutes'), ('silent', 'host', clock_timestamp() - interval '1 hour');
-- The longest silence first.
SELECT worker_id, hostname, round(seconds_since_heartbeat) AS seconds, state,
       last_heartbeat_at < clock_timestamp() - interval '2 minutes' AS before
FROM rgrid_stale_workers();
SELECT worker_id FROM rgrid_stale_workers('30 minutes');
SELECT worker_id FROM rgrid_stale_workers(threshold => '1 day');
SET rgrid_heartbeat.stale_threshold = '10min';
SELECT worker_id FROM rgrid_stale_workers();
RESET rgrid_heartbeat.stale_threshold;
-- The session's time zone changes nothing.
SET TimeZone = 'Asia/Kolkata';
SELECT worker_id, round(seconds_since_heartbeat) AS seconds FROM rgrid_stale_workers();
RESET TimeZone;
-- One who beats is not silent, whatever its row says by now.
UPDATE worker_heartbeats SET last_heartbeat_at = clock_timestamp() - interval '1 day' WHERE worker_id = 'alive';
SELECT rgrid_heartbeat('alive', 'host');
SELECT worker_id FROM rgrid_stale_workers();
-- Reading needs no right to write.
BEGIN READ ONLY;
SELECT worker_id, state FROM rgrid_stale_workers();
COMMIT;
SELECT rgrid_stale_workers('0');
SELECT rgrid_stale_workers('-1 minute');
-- The infinities are no reason to stumble.
UPDATE worker_heartbeats SET last_heartbeat_at = 'infinity' WHERE worker_id = 'quiet';
UPDATE worker_heartbeats SET last_heartbeat_at = '-infinity' WHERE worker_id = 'silent';
SELECT worker_id, state FROM rgrid_stale_workers();
SELECT forget_all();
