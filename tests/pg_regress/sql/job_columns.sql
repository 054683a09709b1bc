-- What queues mean by their columns: attempts, statuses, workers, times, and what else they set.
\set VERBOSITY default
SET rgrid_heartbeat.stale_threshold = '100ms';
SELECT wait_until_judging();
CREATE FUNCTION settled(job_table regclass) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM die('w1');
    PERFORM rgrid_sweep();
    RETURN QUERY EXECUTE format('SELECT t::text FROM %s t ORDER BY id', job_table);
END
$$;

-- A limit of retries lets a job run once more than a limit of attempts.
CREATE TABLE counted (id int PRIMARY KEY, status text, worker_id text, execution_error text, attempts int, maximum int);
CREATE FUNCTION fill() RETURNS void LANGUAGE sql AS $$
    TRUNCATE counted;
    INSERT INTO counted VALUES (1, 'running', 'w1', NULL, 0, 1), (2, 'running', 'w1', NULL, 1, 2),
        (3, 'running', 'w1', NULL, 2, 2), (4, 'running', 'w1', NULL, NULL, NULL);
$$;
CREATE FUNCTION watched(meaning text, counted_at text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT fill();
    SELECT rgrid_watch_jobs('counted', finished_column => NULL, on_death => 'requeue', attempts_column => 'attempts',
        max_attempts_column => 'maximum', max_attempts => 2, max_attempts_means => meaning,
        attempts_counted_at => counted_at);
    SELECT settled('counted');
$$;
SELECT watched('retries', 'death');
SELECT watched('attempts', 'death');
SELECT watched('retries', 'claim');
SELECT watched('attempts', 'claim');
SELECT fill();
SELECT worker_id, jobs_failed, jobs_requeued FROM rgrid_sweep(dry_run => true);
-- Without a word, a column that is named after attempts limits attempts.
ALTER TABLE counted RENAME maximum TO "Max attempts";
SELECT rgrid_watch_jobs('counted', finished_column => NULL, on_death => 'requeue', attempts_column => 'attempts',
    max_attempts_column => 'Max attempts');
SELECT settled('counted') LIMIT 1;
SELECT fill();
SELECT rgrid_watch_jobs('counted', finished_column => NULL, on_death => 'requeue', attempts_column => 'attempts',
    max_attempts_column => 'Max attempts', max_attempts_means => 'retries');
SELECT settled('counted') LIMIT 1;

-- A table without a counter: the extension counts, until the job fails or is gone.
CREATE TABLE uncounted (id uuid PRIMARY KEY, status text, worker_id text, execution_error text);
SELECT rgrid_watch_jobs('uncounted', finished_column => NULL, on_death => 'requeue', attempts_column => NULL,
    max_attempts_column => NULL, max_attempts => 2);
INSERT INTO uncounted VALUES ('11111111-1111-1111-1111-111111111111', 'running', 'w1'),
    ('22222222-2222-2222-2222-222222222222', 'done', 'w1');
SELECT settled('uncounted');
TABLE rgrid_job_attempts;
UPDATE uncounted SET status = 'running', worker_id = 'w1' WHERE status = 'queued';
SELECT settled('uncounted');
TABLE rgrid_job_attempts;
-- A table that is renamed keeps what was counted.
ALTER TABLE uncounted RENAME TO "Un counted";
SELECT count(*) FROM rgrid_sweep();
UPDATE "Un counted" SET status = 'running', worker_id = 'w1' WHERE status = 'queued';
SELECT worker_id, jobs_failed, jobs_requeued FROM rgrid_sweep(dry_run => true);
SELECT settled('"Un counted"');
TABLE rgrid_job_attempts;
UPDATE "Un counted" SET status = 'running', worker_id = 'w1';
SELECT settled('"Un counted"');
SELECT job_table, count(*) FROM rgrid_job_attempts GROUP BY 1;
SELECT rgrid_unwatch_jobs('"Un counted"');
TABLE rgrid_job_attempts;

-- Jobs that are claimed and not begun are the dead worker's, too.
CREATE TYPE stage AS ENUM ('new', 'claimed', 'begun', 'over', 'odd one');
CREATE TABLE staged (id int PRIMARY KEY, status stage, worker_id text, execution_error text);
SELECT rgrid_watch_jobs('staged', running_status => 'begun', also_running => '{claimed,odd one}', dead_status => 'over',
    queued_status => 'new', finished_column => NULL);
INSERT INTO staged VALUES (1, 'new', 'w1'), (2, 'claimed', 'w1'), (3, 'begun', 'w1'), (4, 'odd one', 'w1'),
    (5, 'claimed', 'w2');
SELECT rgrid_fence('staged');
SELECT settled('staged');
-- The fence lets a job be claimed again, and nothing else.
UPDATE staged SET status = 'claimed' WHERE id = 2;
UPDATE staged SET status = 'new' WHERE id = 3;
UPDATE staged SET status = 'over', execution_error = 'late' WHERE id = 4;
INSERT INTO staged SELECT n, 'over' FROM generate_series(10, 100000) n;
ANALYZE staged;
SELECT hint AS advice FROM rgrid_health() WHERE check_name = 'job index public.staged' \gset
\echo :advice
:advice
SELECT status FROM rgrid_health() WHERE check_name = 'job index public.staged';
SELECT rgrid_unwatch_jobs('staged');

-- Workers in arrays: the last element. They stay in a job that goes back to the queue.
CREATE TABLE tried (id int PRIMARY KEY DEFAULT 0, status text, texts text[], uuids uuid[], worker jsonb, plain json,
    error jsonb, error_json json, finished bigint, retry_count int, max_retries int);
INSERT INTO tried (id, status, texts, uuids, worker, plain) VALUES
    (1, 'running', '{w2,w1}', '{11111111-1111-1111-1111-111111111111}', '["w1"]', '["w2", "w1"]'),
    (2, 'running', '{w1,w2}', NULL, '["w1", "w2"]', '[]'),
    (3, 'running', '[5:6]={w2,w1}', '{}', '{"w2": 1}', '{"w1": 1}'), (4, 'running', NULL, NULL, NULL, NULL);
SELECT die('11111111-1111-1111-1111-111111111111');
SELECT rgrid_watch_jobs('tried', worker_column => 'texts', error_column => 'error', finished_column => NULL,
    on_death => 'requeue', max_attempts_column => NULL);
BEGIN;
SELECT settled('tried');
ROLLBACK;
SELECT rgrid_watch_jobs('tried', worker_column => 'uuids', error_column => 'error_json', finished_column => NULL);
BEGIN;
SELECT settled('tried');
ROLLBACK;
SELECT rgrid_watch_jobs('tried', worker_column => 'worker', error_column => NULL, finished_column => NULL);
BEGIN;
SELECT settled('tried');
ROLLBACK;
SELECT rgrid_watch_jobs('tried', worker_column => 'plain', error_column => 'error', finished_column => 'finished',
    epoch_unit => 'milliseconds');
SELECT rgrid_fence('tried');
SELECT die('w1');
SELECT worker_id, jobs_failed FROM rgrid_sweep() WHERE jobs_failed > 0;
SELECT id, status, error, finished / 1000 - floor(extract(epoch FROM now())) BETWEEN -60 AND 60 AS is_now
FROM tried ORDER BY id;
UPDATE tried SET status = 'done' WHERE id = 1;
SELECT check_name, status, detail FROM rgrid_health() WHERE check_name LIKE 'jobs % public.tried' ORDER BY 1;
SELECT status, detail FROM rgrid_rehearse('tried');
TRUNCATE tried;
SELECT status, detail FROM rgrid_rehearse('tried');
SELECT rgrid_watch_jobs('tried', worker_column => 'uuids', error_column => NULL, finished_column => 'finished',
    epoch_unit => 'seconds');
SELECT status, detail FROM rgrid_rehearse('tried');
INSERT INTO tried (id, status, uuids) VALUES (1, 'running', '{11111111-1111-1111-1111-111111111111}');
SELECT worker_id, jobs_failed FROM rgrid_sweep();
SELECT id, status, finished - floor(extract(epoch FROM now())) BETWEEN -60 AND 60 AS is_now FROM tried;
SELECT rgrid_unwatch_jobs('tried');

-- A generated worker column follows what it is made of, and is not cleared.
CREATE TABLE made (id int PRIMARY KEY, status text, tried_by text[], execution_error text, retry_count int,
    worker_id text NOT NULL GENERATED ALWAYS AS (coalesce(tried_by[array_length(tried_by, 1)], '')) STORED);
SELECT rgrid_watch_jobs('made', finished_column => NULL, on_death => 'requeue', max_attempts_column => NULL);
INSERT INTO made VALUES (1, 'running', '{w2,w1}');
SELECT settled('made');
SELECT rgrid_unwatch_jobs('made');

-- What else is set, at a requeue and at a failure.
CREATE TABLE more (id int PRIMARY KEY, status text, worker_id text, execution_error text, retry_count int, claim uuid,
    queue text, "Run at" timestamptz, lost boolean DEFAULT false, since bigint, cost numeric(5,1), origin text NOT NULL);
CREATE FUNCTION more() RETURNS SETOF more LANGUAGE sql AS $$
    TRUNCATE more;
    INSERT INTO more VALUES (1, 'running', 'w1', '', 0, gen_random_uuid(), NULL, '2000-01-01', false, 7, 1.5, 'a'),
        (2, 'running', 'w1', '', 9, NULL, 'mail', '2000-01-01', false, 7, 1.5, 'b');
    SELECT settled('more');
    SELECT * FROM more ORDER BY id;
$$;
SELECT rgrid_watch_jobs('more', finished_column => NULL, on_death => 'requeue', max_attempts_column => NULL,
    epoch_unit => 'seconds', set_at_requeue => ARRAY['claim = NULL', 'queue = coalesce(queue, origin, ''it''''s'')',
        '"Run at" = now()', 'cost = -2.25', 'since = id'],
    set_at_failure => ARRAY['lost = true', 'cost = NULL', 'queue = ''"; DROP TABLE more; --''']);
SELECT id, status, claim, queue, "Run at" > now() - interval '1 minute' AS is_now, lost, since, cost FROM more();
SELECT rgrid_watch_jobs('more', finished_column => NULL, set_at_requeue => '{queue = 1}', epoch_unit => 'seconds',
    set_at_failure => ARRAY['lost = true', 'since = now()']);
SELECT id, status, queue, lost, since > 1000000000 AS is_now FROM more();

-- What is refused.
SELECT rgrid_watch_jobs('more', finished_column => NULL, max_attempts_means => 'tries');
SELECT rgrid_watch_jobs('more', finished_column => NULL, attempts_counted_at => 'dawn');
SELECT rgrid_watch_jobs('more', finished_column => NULL, attempts_counted_at => NULL);
SELECT rgrid_watch_jobs('more', finished_column => NULL, epoch_unit => 'years');
SELECT rgrid_watch_jobs('more', finished_column => 'since');
SELECT rgrid_watch_jobs('more', finished_column => NULL, also_running => '{paused,failed}');
SELECT rgrid_watch_jobs('more', finished_column => NULL, also_running => '{paused,NULL}');
SELECT rgrid_watch_jobs('more', finished_column => NULL, also_running => NULL);
SELECT rgrid_watch_jobs('staged', finished_column => NULL, running_status => 'begun', dead_status => 'over',
    also_running => '{paused}');
SELECT rgrid_watch_jobs('more', finished_column => NULL, on_death => 'requeue', attempts_column => NULL,
    attempts_counted_at => 'claim');
CREATE TABLE keyless (status text, worker_id text, execution_error text);
SELECT rgrid_watch_jobs('keyless', finished_column => NULL, on_death => 'requeue', attempts_column => NULL);
SELECT rgrid_watch_jobs('more', finished_column => NULL, set_at_failure => '{lost = pg_sleep(10)}');
SELECT rgrid_watch_jobs('more', finished_column => NULL, set_at_failure => '{lost}');
SELECT rgrid_watch_jobs('more', finished_column => NULL, set_at_failure => '{nothing = 1}');
SELECT rgrid_watch_jobs('more', finished_column => NULL, set_at_failure => '{lost = nothing}');
SELECT rgrid_watch_jobs('more', finished_column => NULL, set_at_failure => '{lost = 7.5}');
SELECT rgrid_watch_jobs('more', finished_column => NULL, set_at_failure => '{lost = claim}');
SELECT rgrid_watch_jobs('more', finished_column => NULL, set_at_failure => '{lost = now()}');
SELECT rgrid_watch_jobs('more', finished_column => NULL, set_at_failure => '{origin = NULL}');
SELECT rgrid_watch_jobs('more', finished_column => NULL, set_at_failure => '{lost = true,lost = false}');
SELECT rgrid_watch_jobs('more', finished_column => NULL, set_at_failure => '{status = ''odd''}');
SELECT rgrid_watch_jobs('made', finished_column => NULL, worker_column => 'tried_by',
    set_at_failure => '{worker_id = NULL}');
SELECT rgrid_watch_jobs('more', finished_column => NULL, wake_channel => '');
SELECT rgrid_watch_jobs('more', finished_column => NULL, wake_channel => 'c', wake_payload => repeat('x', 8000));
-- Without these checks, as in a restored dump, such an entry stops nothing but its own table.
UPDATE rgrid_job_tables SET set_at_failure = '{lost = f(1)}' WHERE job_table = 'public.more';
SELECT status, detail, hint FROM rgrid_health() WHERE check_name = 'job table public.more';

SELECT forget_all();
SET client_min_messages = warning;
DROP TABLE counted, "Un counted", staged, tried, made, more, keyless CASCADE;
DROP FUNCTION settled, fill, watched;
DROP TYPE stage;
