-- What workers, sweepers and operators have left in a database of 0.2.0: written down from a server that had that
-- library. Deaths were pruned there, so unknown workers get 2. "steady" was known before, "late" was first heard
-- afterwards. "phoenix" has returned, "dead" has not, "silent" has fallen silent since.
INSERT INTO worker_heartbeats (worker_id, hostname, last_heartbeat_at)
SELECT w, 'host', now() - interval '1 hour' FROM unnest('{steady,phoenix,late,silent,dead}'::text[]) AS w;
INSERT INTO rgrid_worker_deaths (worker_id, incarnation, hostname, last_heartbeat_at, declared_dead_at, reason,
                                 jobs_failed, jobs_requeued, returned_at)
VALUES ('dead', 2, 'host', now() - interval '70 minutes', now() - interval '69 minutes', 'stale', 2, 1, NULL),
       ('phoenix', 1, 'host', now() - interval '80 minutes', now() - interval '79 minutes', 'stale', 1, 0,
        now() - interval '78 minutes');
INSERT INTO rgrid_incarnations (worker_id, incarnation) VALUES ('', 2), ('steady', 1);

CREATE ROLE boss LOGIN;
CREATE ROLE dashboard LOGIN;
CREATE ROLE night_shift LOGIN;
GRANT CREATE ON SCHEMA public TO boss;
GRANT EXECUTE ON FUNCTION rgrid_watch_jobs, rgrid_unwatch_jobs, rgrid_fence, rgrid_unfence TO boss;
GRANT EXECUTE ON FUNCTION rgrid_sweep(boolean, boolean) TO night_shift WITH GRANT OPTION;
GRANT SELECT ON rgrid_workers, rgrid_worker_deaths TO dashboard;
GRANT SELECT (datname, deaths, typical_gap_seconds) ON pg_stat_rgrid_heartbeat TO dashboard;
GRANT EXECUTE ON FUNCTION rgrid_worker_states(), rgrid_stat_databases() TO dashboard;
CREATE VIEW gaps AS SELECT datname, typical_gap_seconds FROM pg_stat_rgrid_heartbeat;
CREATE VIEW states AS SELECT worker_id, state FROM rgrid_workers;

-- Jobs go back to the queue; one attempt is a retry in 0.2.0, whatever the column's name.
CREATE TABLE mails (id bigint PRIMARY KEY, status text NOT NULL, worker_id text, attempts integer NOT NULL,
                    max_attempts integer, error text, done timestamptz);
CREATE TABLE letters (id bigint PRIMARY KEY, status text NOT NULL, worker_id text, execution_error text,
                      completed_at timestamptz);
ALTER TABLE mails OWNER TO boss;
ALTER TABLE letters OWNER TO boss;
INSERT INTO rgrid_job_tables (job_table, error_column, finished_column, on_death, attempts_column, max_attempts_column)
VALUES ('mails', 'error', 'done', 'requeue', 'attempts', 'max_attempts');
INSERT INTO rgrid_job_tables (job_table) VALUES ('letters');
INSERT INTO mails
VALUES (1, 'queued', NULL, 1, 1, 'Worker died unexpectedly (attempts used: 1 of 1)', NULL),
       (2, 'failed', 'dead', 1, 1, 'Worker died unexpectedly (attempts used: 1 of 1)', now() - interval '69 minutes'),
       (3, 'running', 'silent', 0, 1, NULL, NULL),
       (4, 'running', 'silent', 1, 1, NULL, NULL);
INSERT INTO letters
VALUES (1, 'failed', 'dead', 'Worker died unexpectedly', now() - interval '69 minutes'),
       (2, 'running', 'silent', NULL, NULL);
-- What rgrid_fence() made.
CREATE TRIGGER rgrid_fence AFTER UPDATE OF status ON mails FOR EACH ROW
    WHEN (OLD.status::pg_catalog.text IN ('failed', 'queued')
          AND pg_catalog.starts_with(OLD.error::pg_catalog.text,
                                     CAST('Worker died unexpectedly' AS text)::pg_catalog.text)
          AND (NEW.status::pg_catalog.text IN ('running', 'queued')) IS NOT TRUE
          AND (NEW.status::pg_catalog.text = OLD.status::pg_catalog.text
               AND pg_catalog.starts_with(NEW.error::pg_catalog.text,
                                          CAST('Worker died unexpectedly' AS text)::pg_catalog.text)) IS NOT TRUE)
    EXECUTE FUNCTION rgrid_fence_violated();
CREATE TRIGGER rgrid_fence AFTER UPDATE OF status ON letters FOR EACH ROW
    WHEN (OLD.status::pg_catalog.text IN ('failed')
          AND pg_catalog.starts_with(OLD.execution_error::pg_catalog.text,
                                     CAST('Worker died unexpectedly' AS text)::pg_catalog.text)
          AND (NEW.status::pg_catalog.text IN ('running', 'queued')) IS NOT TRUE
          AND (NEW.status::pg_catalog.text = OLD.status::pg_catalog.text
               AND pg_catalog.starts_with(NEW.execution_error::pg_catalog.text,
                                          CAST('Worker died unexpectedly' AS text)::pg_catalog.text)) IS NOT TRUE)
    EXECUTE FUNCTION rgrid_fence_violated();
