-- What GoodJob's migrations make, as far as it matters here.
CREATE TABLE good_jobs (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    queue_name   text,
    job_class    text,
    performed_at timestamp(6),
    finished_at  timestamp(6),
    locked_by_id uuid,
    locked_at    timestamp(6),
    created_at   timestamp(6) NOT NULL DEFAULT now(),
    updated_at   timestamp(6) NOT NULL DEFAULT now()
);

INSERT INTO good_jobs (job_class, queue_name, performed_at, finished_at, locked_by_id, locked_at) VALUES
    ('running',   'mail', now(), NULL,  '00000000-0000-0000-0000-000000000001', now()),
    ('claimed',   'mail', NULL,  NULL,  '00000000-0000-0000-0000-000000000001', now()),
    ('of others', 'mail', now(), NULL,  '00000000-0000-0000-0000-000000000002', now()),
    ('over',      'mail', now(), now(), '00000000-0000-0000-0000-000000000001', now()),
    ('waiting',   'mail', NULL,  NULL,  NULL, NULL);
