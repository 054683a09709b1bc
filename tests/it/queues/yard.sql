-- What the jobs of the tests do. A job calls begin_run(), then run_may_end() until it says yes, then end_run().

CREATE TABLE runs (
    run    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job    text NOT NULL,
    began  timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended  timestamptz
);

-- Jobs whose first run may end.
CREATE TABLE released (job text PRIMARY KEY);

CREATE FUNCTION begin_run(job text) RETURNS bigint
LANGUAGE sql AS 'INSERT INTO runs (job) VALUES ($1) RETURNING run';

-- The first run of a job goes on until the job is released, unless its name begins with "quick"; each run of one whose
-- name begins with "long" does. Others end at once.
CREATE FUNCTION run_may_end(run bigint) RETURNS boolean
LANGUAGE sql AS
$$
SELECT this.job LIKE 'quick%'
    OR this.job NOT LIKE 'long%'
       AND EXISTS (SELECT FROM runs AS earlier WHERE earlier.job = this.job AND earlier.run < this.run)
    OR EXISTS (SELECT FROM released WHERE released.job = this.job)
  FROM runs AS this WHERE this.run = $1
$$;

CREATE FUNCTION end_run(run bigint) RETURNS void
LANGUAGE sql AS 'UPDATE runs SET ended = clock_timestamp() WHERE run = $1';
