-- What Solid Queue's schema has, as far as it matters here.
CREATE TABLE solid_queue_jobs (
    id              bigserial PRIMARY KEY,
    queue_name      varchar NOT NULL,
    class_name      varchar NOT NULL,
    priority        integer NOT NULL DEFAULT 0,
    concurrency_key varchar,
    created_at      timestamp(6) NOT NULL DEFAULT now(),
    updated_at      timestamp(6) NOT NULL DEFAULT now()
);

CREATE TABLE solid_queue_claimed_executions (
    id         bigserial PRIMARY KEY,
    job_id     bigint NOT NULL UNIQUE REFERENCES solid_queue_jobs ON DELETE CASCADE,
    process_id bigint,
    created_at timestamp(6) NOT NULL DEFAULT now()
);

CREATE TABLE solid_queue_ready_executions (
    id         bigserial PRIMARY KEY,
    job_id     bigint NOT NULL UNIQUE REFERENCES solid_queue_jobs ON DELETE CASCADE,
    queue_name varchar NOT NULL,
    priority   integer NOT NULL DEFAULT 0,
    created_at timestamp(6) NOT NULL
);

CREATE TABLE solid_queue_semaphores (
    id    bigserial PRIMARY KEY,
    key   varchar NOT NULL UNIQUE,
    value integer NOT NULL DEFAULT 1
);

INSERT INTO solid_queue_jobs (class_name, queue_name, priority, concurrency_key) VALUES
    ('claimed',   'mail', 5, 'key'),
    ('of others', 'mail', 0, NULL),
    ('orphaned',  'mail', 0, NULL),
    ('ready',     'mail', 0, NULL);
INSERT INTO solid_queue_claimed_executions (job_id, process_id) VALUES (1, 7), (2, 70), (3, NULL);
INSERT INTO solid_queue_ready_executions (job_id, queue_name, created_at) VALUES (4, 'mail', now());
INSERT INTO solid_queue_semaphores (key, value) VALUES ('key', 0);
