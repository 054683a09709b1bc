-- Workers that are attached to this session: what the calls answer, and what the view shows.
CREATE VIEW ties AS
    SELECT worker_id, state, attached_at IS NOT NULL AS attached, disconnected_at IS NOT NULL AS disconnected
    FROM rgrid_workers WHERE worker_id LIKE 'tied-%' ORDER BY worker_id COLLATE "C";
SELECT rgrid_attach('tied-1', 'host-1');
SELECT * FROM ties;
SELECT worker_id, hostname FROM worker_heartbeats WHERE worker_id = 'tied-1';
-- An attach is a heartbeat, and answers the same number.
SELECT rgrid_heartbeat('tied-1') = rgrid_attach('tied-1') AS same_number;
-- Many workers may be attached to one session.
SELECT rgrid_attach(worker_id => 'tied-2');
SELECT * FROM ties;
-- It is a matter of the commit.
BEGIN;
SELECT rgrid_detach('tied-1');
SELECT rgrid_attach('tied-3');
SELECT * FROM ties;
ROLLBACK;
SELECT * FROM ties;
SELECT rgrid_detach('tied-1');
SELECT rgrid_detach('tied-1');
SELECT rgrid_detach('tied-unknown');
SELECT * FROM ties;
-- Who registers anew is not attached, and who deregisters is nowhere.
SELECT incarnation FROM rgrid_register('tied-2');
SELECT * FROM ties;
SELECT rgrid_deregister('tied-2');
-- A worker of whom nothing fits in memory is not attached, and alive all the same.
SELECT rgrid_attach(rpad('tied-long-', 65, 'x'));
SELECT attached FROM ties WHERE worker_id LIKE 'tied-long-%';
-- Bad arguments.
SELECT rgrid_attach(NULL);
SELECT rgrid_attach('');
SELECT rgrid_detach(NULL);
SELECT rgrid_detach('');
-- Settings of a superuser.
SHOW rgrid_heartbeat.disconnect_grace;
SHOW rgrid_heartbeat.max_disconnected_fraction;
SET rgrid_heartbeat.disconnect_grace = -1;
SELECT detail, hint FROM rgrid_health() WHERE check_name = 'attached workers';
SELECT rgrid_attach('tied-1');
SELECT status, detail, hint FROM rgrid_health() WHERE check_name = 'attached workers';
RESET rgrid_heartbeat.disconnect_grace;
SELECT attached_workers, sessions_lost, workers_lost_together
FROM pg_stat_rgrid_heartbeat WHERE datname = current_database();
DROP VIEW ties;
SELECT count(rgrid_deregister(worker_id)) FROM worker_heartbeats WHERE worker_id LIKE 'tied-%';
