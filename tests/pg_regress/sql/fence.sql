-- Fences.
CREATE TABLE jobs (id int, worker text, state text, message varchar(100));
INSERT INTO rgrid_job_tables (job_table, worker_column, status_column, running_status, dead_status, error_column,
                              error_message, finished_column)
VALUES ('jobs', 'worker', 'state', 'busy', 'it''s "lost"', 'message', 'gone', NULL);
SELECT rgrid_fence('jobs');
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'jobs'::regclass;
INSERT INTO jobs VALUES (1, 'w1', 'it''s "lost"', 'gone'), (2, 'w1', 'it''s "lost"', 'gone with the wind'),
                        (3, 'w1', 'it''s "lost"', 'other'), (4, 'w1', 'it''s "lost"', NULL), (5, 'w1', 'busy', NULL);
-- Given up: no late result.
UPDATE jobs SET state = 'done' WHERE id = 1;
UPDATE jobs SET state = 'done' WHERE id = 2;
UPDATE jobs SET state = NULL WHERE id = 1;
-- Nor one that tells of a failure.
UPDATE jobs SET state = 'it''s "lost"', message = 'out of memory' WHERE id = 1;
UPDATE jobs SET state = 'it''s "lost"', message = NULL WHERE id = 1;
-- Not by a sweep, or not given up.
UPDATE jobs SET state = 'done' WHERE id IN (3, 4, 5);
-- The other columns, the same status, the queue, a new claim.
UPDATE jobs SET worker = 'w2' WHERE id = 1;
UPDATE jobs SET state = state WHERE id = 1;
UPDATE jobs SET state = 'queued' WHERE id = 1;
UPDATE jobs SET state = 'done' WHERE id = 1;
UPDATE jobs SET state = 'busy' WHERE id = 2;
UPDATE jobs SET state = 'done' WHERE id = 2;
SELECT id, state FROM jobs ORDER BY id;
-- Given back by a sweep: neither a late result, nor a late failure; an owner clears the message first.
ALTER TABLE jobs ADD COLUMN tries int;
SELECT rgrid_watch_jobs('jobs', 'worker', 'state', 'busy', 'it''s "lost"', 'message', 'gone', NULL, 'requeue', 'queued',
                        'tries', NULL);
INSERT INTO jobs VALUES (6, NULL, 'queued', 'gone', 1);
UPDATE jobs SET state = 'done' WHERE id = 6;
UPDATE jobs SET state = 'it''s "lost"', message = 'out of memory' WHERE id = 6;
UPDATE jobs SET state = 'it''s "lost"' WHERE id = 6;
UPDATE jobs SET message = NULL WHERE id = 6;
UPDATE jobs SET state = 'it''s "lost"' WHERE id = 6;
-- A message that the column does not take as a whole.
CREATE TABLE narrow (worker_id text, status text, error varchar(6), retry_count int, max_retries int);
SELECT rgrid_watch_jobs('narrow', error_column => 'error', finished_column => NULL);
SELECT rgrid_fence('narrow');
INSERT INTO narrow VALUES ('w1', 'failed', 'Worker');
UPDATE narrow SET status = 'completed';
DROP TABLE narrow;
-- Taken down, once.
SELECT rgrid_unfence('jobs');
SELECT rgrid_unfence('jobs');
-- Not watched, no table, nothing.
CREATE TABLE unwatched (state text);
SELECT rgrid_fence('unwatched');
SELECT rgrid_unfence('unwatched');
SELECT rgrid_fence(0);
SELECT rgrid_fence(NULL);
-- Not the owner's.
CREATE ROLE regress_fencer;
GRANT EXECUTE ON FUNCTION rgrid_fence(regclass), rgrid_unfence(regclass) TO regress_fencer;
SET ROLE regress_fencer;
SELECT rgrid_fence('jobs');
SELECT rgrid_unfence('jobs');
RESET ROLE;
ALTER TABLE jobs OWNER TO regress_fencer;
SET ROLE regress_fencer;
SELECT rgrid_fence('jobs');
RESET ROLE;
-- Its function is for triggers alone.
SELECT rgrid_fence_violated();
-- The trigger depends on the extension.
DROP FUNCTION rgrid_fence_violated();
DROP TABLE jobs, unwatched;
DELETE FROM rgrid_job_tables;
DROP OWNED BY regress_fencer;
DROP ROLE regress_fencer;
