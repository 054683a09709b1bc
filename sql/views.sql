-- What operators read. Every column has its meaning, and its unit when it has one, in its comment.
CREATE VIEW @extschema@.rgrid_workers AS
SELECT w.worker_id, w.hostname, w.state, w.incarnation, w.last_heartbeat_at, w.seconds_since_heartbeat,
       w.declared_dead_at, w.attached_at, w.disconnected_at
FROM @extschema@.rgrid_worker_states() AS w;

-- Columns are only ever added at the end: so an update can replace the view, and keeps what depends on it.
CREATE VIEW @extschema@.pg_stat_rgrid_heartbeat AS
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
    'Checks whether everything works here: a row for each check, with status ok, warning or error, what was found, '
    'and how to fix it';

COMMENT ON VIEW @extschema@.rgrid_workers IS
    'Every worker that has a row in worker_heartbeats, with its latest heartbeat from memory';
COMMENT ON COLUMN @extschema@.rgrid_workers.worker_id IS 'The worker''s id';
COMMENT ON COLUMN @extschema@.rgrid_workers.hostname IS
    'The host that the worker named, or the address that it called from; NULL for neither';
COMMENT ON COLUMN @extschema@.rgrid_workers.state IS
    'alive; stale: silent for longer than the threshold, not declared dead yet; dead: in the ledger, not returned';
COMMENT ON COLUMN @extschema@.rgrid_workers.incarnation IS
    'The number that its heartbeats return; of a dead worker, the one that it gets when it returns';
COMMENT ON COLUMN @extschema@.rgrid_workers.last_heartbeat_at IS 'When it was last heard';
COMMENT ON COLUMN @extschema@.rgrid_workers.seconds_since_heartbeat IS 'How long ago that was, in seconds';
COMMENT ON COLUMN @extschema@.rgrid_workers.declared_dead_at IS 'When it was declared dead; NULL while it is not dead';
COMMENT ON COLUMN @extschema@.rgrid_workers.attached_at IS 'Since when it is attached to a session; NULL if it is not';
COMMENT ON COLUMN @extschema@.rgrid_workers.disconnected_at IS
    'When the client of that session vanished; NULL after it was heard again, or declared dead';

COMMENT ON VIEW @extschema@.pg_stat_rgrid_heartbeat IS
    'A row for each database that the launcher knows, counted since stats_reset; lost when the server crashes';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.datid IS 'OID of the database';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.datname IS 'Name of the database';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.has_extension IS
    'Whether the last sweeper found the extension there; NULL before the first';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.observing_since IS
    'Silence before this time does not count: when the server, or its watch over this database, last started';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.sweeps IS 'Sweeps that sweepers have finished';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_sweep_started_at IS 'When the last sweep began';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_sweep_finished_at IS 'When the last completed sweep ended';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_sweep_seconds IS
    'How long it took, in seconds; NULL while another sweep is running, or after one that failed';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.heartbeats_in_row IS
    'Heartbeats that were written to their rows at once, rolled back or not: first ones, returns, other hostnames, '
    'and of workers that do not fit in memory. Heartbeats in memory are not counted';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.calls_refused IS
    'Calls for a worker whose id belongs to another role';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.flushes IS 'Flushes that wrote heartbeats from memory to rows';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.rows_flushed IS
    'Rows that flushes wrote: a worker counts once for each flush, however many heartbeats it has sent';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.deaths IS 'Rows added to the ledger, of every reason';
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
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.jobs_failed IS 'Running jobs that were marked as failed';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.jobs_requeued IS 'Running jobs that went back to the queue';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.workers_pruned IS
    'Rows of dead workers that were removed because they were older than the retention';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.deaths_pruned IS
    'Rows of the ledger that were removed for the same reason';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.median_interval_seconds IS
    'Median interval between heartbeats of a worker in the last hours, in seconds; NULL before enough were seen';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.p99_interval_seconds IS
    'The 99th percentile of these intervals, in seconds; may be up to 20 % plus flush_interval too low, never too high';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.errors IS 'Rounds of sweepers that had a problem or failed';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.failures_in_a_row IS
    'Sweepers that failed since the last one that did not';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_error IS
    'The last problem, which may be over; cut at 448 bytes, complete in the server''s log. Those that last are in '
    'pg_stat_rgrid_problems';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.last_error_at IS 'When that problem was last seen';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.buffer_entries IS
    'Workers of this database whose heartbeats are kept in memory';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.buffer_capacity IS
    'Workers of all databases together that fit there: rgrid_heartbeat.max_workers';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.connections_full_since IS
    'Since when no client could connect to the server; NULL while one can';
COMMENT ON COLUMN @extschema@.pg_stat_rgrid_heartbeat.stats_reset IS 'When counting began';

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
