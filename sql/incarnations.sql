-- The numbers that must outlive the ledger's rows. The row with an empty id has the floor, the number that an unknown
-- worker gets. The others have the numbers of workers that have died, and of those that were alive, and had never died,
-- when the floor was raised.
CREATE TABLE @extschema@.rgrid_incarnations (
    worker_id text COLLATE pg_catalog."C" PRIMARY KEY,
    incarnation bigint NOT NULL CHECK (incarnation OPERATOR(pg_catalog.>) 0)
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_incarnations', '');

COMMENT ON TABLE @extschema@.rgrid_incarnations IS
    'Incarnations that outlive the rows of the ledger, whether these are pruned or removed by hand';
COMMENT ON COLUMN @extschema@.rgrid_incarnations.worker_id IS
    'The worker''s id; empty for the incarnation of unknown workers';
COMMENT ON COLUMN @extschema@.rgrid_incarnations.incarnation IS 'The number that its heartbeats return';
