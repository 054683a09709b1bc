-- Columns whose collation takes different texts for equal; such collations need ICU.
DO $$BEGIN
    CREATE COLLATION regress_ignoring_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END$$;
SELECT NOT EXISTS (SELECT FROM pg_collation WHERE collname = 'regress_ignoring_case') AS is_without_icu \gset
\if :is_without_icu
\quit
\endif
SET rgrid_heartbeat.stale_threshold = '100ms';
SELECT wait_until_judging();
CREATE TABLE folded (id int, worker_id text, status text, execution_error text COLLATE regress_ignoring_case,
                     completed_at timestamptz);
SELECT rgrid_watch_jobs('folded');
SELECT rgrid_fence('folded');
INSERT INTO folded VALUES (1, 'w1', 'running', NULL), (2, 'w1', 'running', NULL), (3, 'w2', 'failed', 'exit 1'),
                          (4, 'w2', 'failed', 'WORKER DIED UNEXPECTEDLY');
SELECT die('w1');
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
-- Given up: no late result; an operator may queue it again.
UPDATE folded SET status = 'completed' WHERE id = 1;
UPDATE folded SET status = 'queued' WHERE id = 1;
UPDATE folded SET status = 'failed', execution_error = 'worker died unexpectedly' WHERE id = 2;
-- Not by a sweep, whose words are compared as they are.
UPDATE folded SET status = 'queued' WHERE id = 3;
UPDATE folded SET status = 'completed' WHERE id = 4;
SELECT id, status, execution_error FROM folded ORDER BY id;
DROP TABLE folded;
DROP COLLATION regress_ignoring_case;
SELECT forget_all();
