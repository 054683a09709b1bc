-- Every death once. A worker is dead while one of its rows has no returned_at.
CREATE TABLE @extschema@.rgrid_worker_deaths (
    worker_id text COLLATE pg_catalog."C" NOT NULL,
    incarnation bigint NOT NULL CHECK (incarnation OPERATOR(pg_catalog.>) 0),
    hostname text,
    last_heartbeat_at timestamp with time zone,
    declared_dead_at timestamp with time zone NOT NULL,
    reason text NOT NULL
        CHECK (reason OPERATOR(pg_catalog.=) ANY ('{stale,restarted,deregistered,disconnected}'::pg_catalog.text[])),
    jobs_failed bigint NOT NULL DEFAULT 0,
    jobs_requeued bigint NOT NULL DEFAULT 0,
    returned_at timestamp with time zone,
    notified boolean NOT NULL DEFAULT true,
    PRIMARY KEY (worker_id, incarnation)
);
CREATE UNIQUE INDEX rgrid_worker_deaths_dead ON @extschema@.rgrid_worker_deaths (worker_id)
    WHERE returned_at IS NULL;
-- Finds deaths that are old enough to be pruned without reading the others.
CREATE INDEX rgrid_worker_deaths_declared ON @extschema@.rgrid_worker_deaths (declared_dead_at);
-- Kept by pg_dump: the numbers of the incarnations must never go back.
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_worker_deaths', '');

COMMENT ON TABLE @extschema@.rgrid_worker_deaths IS
    'Ledger of deaths, each once; a worker is dead while it has a row without returned_at';
COMMENT ON INDEX @extschema@.rgrid_worker_deaths_dead IS 'Dead workers, each once';
COMMENT ON INDEX @extschema@.rgrid_worker_deaths_declared IS 'Deaths by time, to find those to prune';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.worker_id IS 'The worker''s id';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.incarnation IS
    'The incarnation that ended; the next one is higher';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.hostname IS 'The worker''s host; NULL if it is unknown';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.last_heartbeat_at IS 'When it was last heard';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.declared_dead_at IS 'When it was declared dead';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.reason IS
    'stale: silent for longer than the threshold; restarted: registered again; '
    'deregistered: left with running jobs; disconnected: its session was lost, and it was not heard again';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.jobs_failed IS 'How many of its running jobs were marked as failed';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.jobs_requeued IS
    'How many of its running jobs went back to the queue';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.returned_at IS 'When it was heard again; NULL while it is dead';
COMMENT ON COLUMN @extschema@.rgrid_worker_deaths.notified IS
    'Whether listeners were notified; false when PostgreSQL''s queue of notifications was nearly full';
