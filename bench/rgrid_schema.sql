-- The tables of an RGrid installation that a sweep touches, with its types and indexes. Columns that no sweep reads
-- are fewer than RGrid's, and stand for the rest of a row's width, which an UPDATE has to copy.

CREATE TABLE executions (
    id              bigint NOT NULL,
    execution_id    varchar(255) NOT NULL,
    user_id         varchar(128) NOT NULL,
    project_id      varchar(128) NOT NULL,
    script_content  text NOT NULL,
    runtime         varchar(50) NOT NULL,
    args            json NOT NULL,
    env_vars        json NOT NULL,
    status          varchar(50) NOT NULL,
    worker_id       varchar(64),
    retry_count     integer NOT NULL,
    max_retries     integer NOT NULL,
    created_at      timestamp NOT NULL,
    started_at      timestamp,
    completed_at    timestamp,
    execution_error text,
    cost_micros     bigint NOT NULL
);
