-- What River's migrations make, as far as it matters here.
CREATE TYPE river_job_state AS ENUM (
    'available', 'cancelled', 'completed', 'discarded', 'pending', 'retryable', 'running', 'scheduled');

CREATE TABLE river_job (
    id           bigserial PRIMARY KEY,
    state        river_job_state NOT NULL DEFAULT 'available',
    attempt      smallint NOT NULL DEFAULT 0,
    max_attempts smallint NOT NULL DEFAULT 25,
    attempted_by text[],
    errors       jsonb[],
    scheduled_at timestamptz NOT NULL DEFAULT now(),
    finalized_at timestamptz,
    metadata     jsonb NOT NULL DEFAULT '{}',
    queue        text NOT NULL DEFAULT 'default',
    kind         text NOT NULL,
    CHECK ((finalized_at IS NOT NULL) = (state IN ('cancelled', 'completed', 'discarded')))
);

INSERT INTO river_job (kind, state, attempt, max_attempts, attempted_by, metadata, finalized_at, scheduled_at) VALUES
    ('first',     'running',   1, 25, '{one}',      '{}', NULL, now() - interval '1 hour'),
    ('moved on',  'running',   2, 25, '{two,one}',  '{}', NULL, now() - interval '1 hour'),
    ('last',      'running',   3,  3, '{one}',      '{}', NULL, now() - interval '1 hour'),
    ('unwanted',  'running',   1, 25, '{one}',      '{"cancel_attempted_at": "2026-01-01T00:00:00Z"}', NULL, now()),
    ('of others', 'running',   2, 25, '{one,two}',  '{}', NULL, now()),
    ('over',      'completed', 1, 25, '{one}',      '{}', now(), now()),
    ('waiting',   'available', 0, 25, NULL,         '{}', NULL, now());
