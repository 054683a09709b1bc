-- The numbers that must outlive the ledger's rows. The row with an empty id has the number that a worker gets of whom
-- nothing is known; the others have the numbers of workers that were alive, and had never died, when that one grew.
CREATE TABLE @extschema@.rgrid_incarnations (
    worker_id text PRIMARY KEY,
    incarnation bigint NOT NULL CHECK (incarnation OPERATOR(pg_catalog.>) 0)
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_incarnations', '');

COMMENT ON TABLE @extschema@.rgrid_incarnations IS
    'Incarnations that the ledger does not tell, because deaths were pruned from it';
COMMENT ON COLUMN @extschema@.rgrid_incarnations.worker_id IS
    'The worker''s id; empty for the incarnation of workers of whom nothing is known';
COMMENT ON COLUMN @extschema@.rgrid_incarnations.incarnation IS 'The number that its heartbeats answer';
