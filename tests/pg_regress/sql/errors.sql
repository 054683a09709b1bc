-- What is refused, and how.
\set SHOW_CONTEXT never
CREATE FUNCTION refusal(statement text) RETURNS TABLE (code text, message text, detail text, hint text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RAISE 'was not refused';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
                            hint = PG_EXCEPTION_HINT;
    RETURN NEXT;
END
$$;
\x on
SELECT * FROM refusal($$SELECT rgrid_heartbeat(NULL)$$);
SELECT * FROM refusal($$SELECT rgrid_heartbeat('')$$);
SELECT * FROM refusal($$SELECT rgrid_heartbeat(repeat('x', 256))$$);
SELECT * FROM refusal($$SELECT rgrid_heartbeat(E'a\nb')$$);
SELECT * FROM refusal($$SELECT rgrid_heartbeat(E'a\x7f')$$);
SELECT * FROM refusal($$SELECT rgrid_heartbeat(U&'a\0085')$$);
SELECT * FROM refusal($$SELECT rgrid_heartbeat('a', E'b\tc')$$);
SELECT * FROM refusal($$SELECT rgrid_register('')$$);
SELECT * FROM refusal($$SELECT rgrid_register(repeat('x', 256), 'host')$$);
SELECT * FROM refusal($$SELECT rgrid_deregister(NULL)$$);
SELECT * FROM refusal($$SELECT rgrid_deregister('')$$);
SELECT * FROM refusal($$SELECT rgrid_stale_workers('0 seconds')$$);
SELECT * FROM refusal($$SELECT rgrid_fence_violated()$$);
-- Since 18 the bounds have a unit.
SELECT code, regexp_replace(message, '([(.] ?[0-9]+) ms', '\1', 'g') AS message
FROM refusal($$SET rgrid_heartbeat.stale_threshold = '0'$$);
SELECT * FROM refusal($$SET rgrid_heartbeat.stale_threshold = 'soon'$$);
SELECT * FROM refusal($$SET rgrid_heartbeat.check_interval = '1s'$$);
SELECT * FROM refusal($$SET rgrid_heartbeat.check_intervall = '1s'$$);
-- The table of heartbeats is gone, or something else.
ALTER TABLE worker_heartbeats RENAME TO elsewhere;
SELECT * FROM refusal($$SELECT rgrid_heartbeat('a')$$);
SELECT * FROM refusal($$SELECT rgrid_sweep()$$);
SELECT * FROM refusal($$SELECT rgrid_stale_workers()$$);
CREATE VIEW worker_heartbeats AS SELECT * FROM elsewhere;
SELECT * FROM refusal($$SELECT rgrid_heartbeat('a')$$);
DROP VIEW worker_heartbeats;
ALTER TABLE elsewhere RENAME TO worker_heartbeats;
ALTER TABLE worker_heartbeats RENAME COLUMN last_heartbeat_at TO seen;
SELECT * FROM refusal($$SELECT rgrid_heartbeat('a')$$);
ALTER TABLE worker_heartbeats RENAME COLUMN seen TO last_heartbeat_at;
\x off
-- Nothing is left of all that.
SELECT count(*) FROM worker_heartbeats;
DROP FUNCTION refusal(text);
