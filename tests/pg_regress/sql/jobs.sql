-- Tables of jobs, and what is wrong with some.
SET rgrid_heartbeat.stale_threshold = '1s';
SELECT wait_until_judging();
-- A second table, with other names and a time zone, beside the default one.
CREATE SCHEMA "Odd ""names""";
CREATE TABLE "Odd ""names"""."jobs @table@ $1" (
    "who's" text, "State" text, finished timestamptz, note text
);
SELECT rgrid_watch_jobs('"Odd ""names"""."jobs @table@ $1"', worker_column => 'who''s', status_column => 'State',
    running_status => 'at work', dead_status => 'it''s over', error_column => 'note', error_message => 'gone',
    finished_column => 'finished');
INSERT INTO "Odd ""names"""."jobs @table@ $1" VALUES ('w1', 'at work'), ('w1', 'waiting'), ('w2', 'at work');
INSERT INTO executions (status, worker_id) VALUES ('running', 'w1');
SELECT die('w1');
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep() ORDER BY job_table COLLATE "C";
SELECT "who's", "State", note, finished > clock_timestamp() - interval '10 seconds' AS now
FROM "Odd ""names"""."jobs @table@ $1" ORDER BY 1, 2;
SELECT jobs_failed FROM rgrid_worker_deaths;
-- Partitioned, with jobs in two partitions.
CREATE TABLE parted (id int, status text, worker_id text, execution_error text, completed_at timestamp)
    PARTITION BY LIST (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
SELECT rgrid_watch_jobs('parted');
INSERT INTO parted VALUES (1, 'running', 'w3'), (2, 'running', 'w3'), (2, 'running', 'w4');
SELECT die('w3');
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
SELECT id, status, worker_id, execution_error FROM parted ORDER BY 1, 3;
-- A column that is missing stops that table, not the others, and is taken up again when it is back.
ALTER TABLE executions RENAME COLUMN completed_at TO finished_at;
INSERT INTO executions (status, worker_id) VALUES ('running', 'w5');
INSERT INTO parted VALUES (1, 'running', 'w5');
SELECT die('w5');
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
ALTER TABLE executions RENAME COLUMN finished_at TO completed_at;
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
-- So does a column of another type.
ALTER TABLE executions ALTER COLUMN completed_at TYPE text;
SELECT die('w6');
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
ALTER TABLE executions ALTER COLUMN completed_at TYPE timestamp USING completed_at::timestamp;
-- And a constraint or trigger that refuses.
ALTER TABLE executions ADD CONSTRAINT never_failed CHECK (status <> 'failed') NOT VALID;
INSERT INTO executions (status, worker_id) VALUES ('running', 'w7');
SELECT die('w7');
SELECT worker_id, job_table, jobs_failed FROM rgrid_sweep();
ALTER TABLE executions DROP CONSTRAINT never_failed;
-- A worker that comes back is not kept away by a table that fails.
ALTER TABLE executions ALTER COLUMN completed_at TYPE text;
SELECT rgrid_heartbeat('w7', 'host');
ALTER TABLE executions ALTER COLUMN completed_at TYPE timestamp USING completed_at::timestamp;
SELECT rgrid_deregister('w7');
-- A dropped table is no problem.
DROP TABLE parted;
SELECT die('w8');
SELECT worker_id, job_table FROM rgrid_sweep();
-- Something else in the place of the default table.
DROP TABLE executions;
CREATE VIEW executions AS SELECT 'running' AS status, 'w9' AS worker_id, NULL AS execution_error, now() AS completed_at;
SELECT die('w9');
SELECT worker_id, job_table FROM rgrid_sweep();
DROP VIEW executions;
-- Or nothing at all.
SELECT die('w10');
SELECT worker_id, job_table FROM rgrid_sweep();
CREATE TABLE executions (
    id bigserial PRIMARY KEY, status varchar(50) NOT NULL, worker_id varchar(64), execution_error text,
    completed_at timestamp
);
-- One call settles one batch, and says when there is more.
SET rgrid_heartbeat.max_dead_fraction = 1;
INSERT INTO worker_heartbeats (worker_id, last_heartbeat_at) SELECT 'many-' || i, '2000-01-01' FROM generate_series(1, 1500) i;
SELECT rgrid_heartbeat('w7', 'host');
SELECT count(*) FROM rgrid_sweep();
SELECT rgrid_heartbeat('w7', 'host');
SELECT count(*) FROM rgrid_sweep();
SELECT rgrid_heartbeat('w7', 'host');
SELECT count(*) FROM rgrid_sweep();
SELECT forget_all();
DROP SCHEMA "Odd ""names""" CASCADE;
