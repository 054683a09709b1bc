-- Shows on one screen what rgrid_heartbeat does in this database, for psql. A role needs membership in pg_monitor, and
-- nothing else. These show it once, and then again every two seconds until Ctrl-C:
--
--     psql -d rgrid
--     rgrid=> \i examples/top.sql
--     rgrid=> \watch 2
--
-- Without shared_preload_libraries the parts that are counted in memory are missing.
SELECT page.line AS "rgrid_heartbeat"
  FROM (
    -- 1: the database and its sweeps.
    SELECT 1 AS part, 1 AS place,
           format('%s   %s   sweeping is %s, every %s; dead after %s', current_database(),
                  to_char(clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS'), current_setting('rgrid_heartbeat.enabled'),
                  current_setting('rgrid_heartbeat.check_interval'), current_setting('rgrid_heartbeat.stale_threshold'))
    UNION ALL
    SELECT 1, 2,
           format('SWEEPS    %s, last %s s ago, took %s s; rounds with an error %s', s.sweeps,
                  round(extract(epoch FROM clock_timestamp() - s.last_sweep_finished_at)::numeric, 1),
                  round(s.last_sweep_seconds::numeric, 3), s.errors)
      FROM pg_stat_rgrid_heartbeat AS s WHERE s.datname = current_database()
    UNION ALL
    SELECT 1, 3, format('HELD      %s workers until %s', s.held_workers, to_char(s.held_until, 'HH24:MI:SS'))
      FROM pg_stat_rgrid_heartbeat AS s WHERE s.datname = current_database() AND s.held_workers > 0

    -- 2: the fleet.
    UNION ALL
    SELECT 2, 1, format('WORKERS   alive %s   stale %s   dead %s   attached %s',
                        count(*) FILTER (WHERE w.state = 'alive'), count(*) FILTER (WHERE w.state = 'stale'),
                        count(*) FILTER (WHERE w.state = 'dead'), count(w.attached_at))
      FROM rgrid_workers AS w
    UNION ALL
    (SELECT 2, 1 + row_number() OVER (ORDER BY w.seconds_since_heartbeat DESC),
            format('  %-30s %-20s stale for %s s', w.worker_id, w.hostname, round(w.seconds_since_heartbeat::numeric))
       FROM rgrid_workers AS w WHERE w.state = 'stale' ORDER BY w.seconds_since_heartbeat DESC LIMIT 5)

    -- 3: the deaths of the last hour.
    UNION ALL
    SELECT 3, 1, format('DEATHS    last hour %s: jobs failed %s, requeued %s; came back %s', count(*),
                        coalesce(sum(d.jobs_failed), 0), coalesce(sum(d.jobs_requeued), 0), count(d.returned_at))
      FROM rgrid_worker_deaths AS d WHERE d.declared_dead_at > now() - interval '1 hour'
    UNION ALL
    (SELECT 3, 1 + row_number() OVER (ORDER BY d.declared_dead_at DESC),
            format('  %s %-30s %-20s %-12s jobs %s%s', to_char(d.declared_dead_at, 'HH24:MI:SS'), d.worker_id, d.hostname,
                   d.reason, d.jobs_failed + d.jobs_requeued,
                   CASE WHEN d.returned_at IS NOT NULL THEN ', came back' END)
       FROM rgrid_worker_deaths AS d WHERE d.declared_dead_at > now() - interval '1 hour'
      ORDER BY d.declared_dead_at DESC LIMIT 10)

    -- 4: what is wrong.
    UNION ALL
    SELECT 4, 1, CASE count(*) WHEN 0 THEN 'PROBLEMS  none' ELSE format('PROBLEMS  %s', count(*)) END
      FROM rgrid_health() AS h WHERE h.status <> 'ok'
    UNION ALL
    (SELECT 4, 1 + row_number() OVER (ORDER BY h.status, h.check_name),
            format('  %-8s %s: %s', h.status, h.check_name, left(h.detail, 200))
       FROM rgrid_health() AS h WHERE h.status <> 'ok' ORDER BY h.status, h.check_name LIMIT 12)
  ) AS page (part, place, line)
 ORDER BY page.part, page.place;
