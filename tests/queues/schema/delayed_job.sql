-- What the migrations of Delayed Job make, as far as it matters here.
CREATE TABLE delayed_jobs (
    id         bigserial PRIMARY KEY,
    attempts   integer NOT NULL DEFAULT 0,
    handler    text NOT NULL,
    last_error text,
    run_at     timestamp(6),
    locked_at  timestamp(6),
    failed_at  timestamp(6),
    locked_by  varchar,
    queue      varchar
);

INSERT INTO delayed_jobs (handler, attempts, locked_by, locked_at, failed_at) VALUES
    ('first',     0,  'host:a pid:1', now(), NULL),
    ('last',      24, 'host:a pid:1', now(), NULL),
    ('of others', 0,  'host:b pid:1', now(), NULL),
    ('failed',    25, 'host:a pid:1', now(), now()),
    ('waiting',   0,  NULL, NULL, NULL);
