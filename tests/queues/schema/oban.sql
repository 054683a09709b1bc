-- What Oban's migrations make, as far as it matters here.
CREATE TYPE oban_job_state AS ENUM (
    'available', 'suspended', 'scheduled', 'executing', 'retryable', 'completed', 'discarded', 'cancelled');

CREATE TABLE oban_jobs (
    id           bigserial PRIMARY KEY,
    state        oban_job_state NOT NULL DEFAULT 'available',
    queue        text NOT NULL DEFAULT 'default',
    worker       text NOT NULL,
    args         jsonb NOT NULL DEFAULT '{}',
    attempt      integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL DEFAULT 20,
    attempted_by text[],
    discarded_at timestamp
);

INSERT INTO oban_jobs (worker, state, attempt, max_attempts, attempted_by) VALUES
    ('first',     'executing', 1, 20, '{node,one}'),
    ('last',      'executing', 3,  3, '{node,one}'),
    ('of others', 'executing', 1, 20, '{node,two}'),
    ('over',      'completed', 1, 20, '{node,one}'),
    ('waiting',   'available', 0, 20, NULL);
