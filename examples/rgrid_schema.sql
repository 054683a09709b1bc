-- The tables of an existing RGrid installation, as its SQLAlchemy models create them, to try rgrid_heartbeat on.
--
-- What matters to the extension:
--   * every timestamp is "timestamp without time zone" and holds UTC;
--   * worker_heartbeats has no hostname column; the extension adopts the table as it is;
--   * the application sets the NOT NULL columns; the database has no defaults for them.
--
-- Some installations also have an index on worker_heartbeats (last_heartbeat_at) and a foreign key from
-- worker_heartbeats to workers. The extension needs neither. With the foreign key, a worker must have a row in
-- workers before its first heartbeat.

CREATE TABLE workers (
    worker_id           varchar(64) PRIMARY KEY,
    node_id             varchar(128),
    ray_node_id         varchar(128),
    ip_address          varchar(45),
    max_concurrent      integer NOT NULL,
    status              varchar(32) NOT NULL,
    created_at          timestamp NOT NULL,
    terminated_at       timestamp,
    billing_hour_start  timestamp,
    hourly_cost_micros  bigint NOT NULL
);

CREATE TABLE worker_heartbeats (
    worker_id                varchar(64) PRIMARY KEY,
    last_heartbeat_at        timestamp NOT NULL,
    ray_available_resources  json
);

CREATE TABLE executions (
    id                     bigserial PRIMARY KEY,
    execution_id           varchar(255) NOT NULL UNIQUE,
    user_id                varchar(128) NOT NULL,
    project_id             varchar(128) NOT NULL,

    -- what to run
    script_content         text NOT NULL,
    runtime                varchar(50) NOT NULL,
    args                   json NOT NULL,
    env_vars               json NOT NULL,
    input_files            json NOT NULL,
    requirements_content   text,
    batch_id               varchar(255),

    -- where it stands: 'queued', 'running', 'completed' or 'failed'
    status                 varchar(50) NOT NULL,
    worker_id              varchar(64),
    ray_task_id            varchar(128),
    retry_count            integer NOT NULL,
    max_retries            integer NOT NULL,
    created_at             timestamp NOT NULL,
    started_at             timestamp,
    completed_at           timestamp,

    -- how it ended
    exit_code              integer,
    execution_error        text,
    stdout                 text,
    stderr                 text,
    output_truncated       boolean NOT NULL,
    duration_seconds       integer,
    worker_hostname        varchar(128),
    execution_metadata     json,
    cost_micros            bigint NOT NULL,
    finalized_cost_micros  bigint,
    cost_finalized_at      timestamp
);

CREATE INDEX ix_executions_status ON executions (status);
CREATE INDEX ix_executions_batch_id ON executions (batch_id);

-- Nothing has to be added to these tables for rgrid_heartbeat. docs/tasks.md recommends an index for large tables, on
-- executions (worker_id) WHERE status = 'running'. It makes a sweep cheaper, but is not needed for a few thousand jobs.
-- The owner of the table decides, so neither this file nor the extension creates it.
