-- The numbers that must outlive the ledger's rows. The row with an empty id has the floor, the number that an unknown
-- worker gets. The others have the numbers of workers that have died, and of those that were first heard when the floor
-- was above 1.
CREATE TABLE @extschema@.rgrid_incarnations (
    worker_id text COLLATE pg_catalog."C" PRIMARY KEY,
    incarnation bigint NOT NULL CHECK (incarnation OPERATOR(pg_catalog.>) 0)
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_incarnations', '');

COMMENT ON TABLE @extschema@.rgrid_incarnations IS
    'Incarnations that stay known when rows of the ledger are pruned or removed by hand';
COMMENT ON COLUMN @extschema@.rgrid_incarnations.worker_id IS
    'The worker''s id; empty for the incarnation of unknown workers';
COMMENT ON COLUMN @extschema@.rgrid_incarnations.incarnation IS 'The number that its heartbeats return';

-- From which number on a worker gets a new one, a row for each time that the database went on from a copy or from an
-- earlier moment. In dumps: where one is restored, its rows are those of another origin.
CREATE TABLE @extschema@.rgrid_incarnation_bases (
    base bigint NOT NULL CHECK (base OPERATOR(pg_catalog.>) 0),
    origin text COLLATE pg_catalog."C" NOT NULL,
    since timestamp with time zone NOT NULL,
    transaction xid8 NOT NULL,
    -- Two sessions may add the same base at the same time.
    PRIMARY KEY (base, origin, transaction)
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_incarnation_bases', '');

COMMENT ON TABLE @extschema@.rgrid_incarnation_bases IS
    'Where incarnations begin: one row, and one more for each failover, restore, upgrade or copy';
COMMENT ON COLUMN @extschema@.rgrid_incarnation_bases.base IS
    'The lowest number of a worker that is new, or that was declared dead';
COMMENT ON COLUMN @extschema@.rgrid_incarnation_bases.origin IS
    'System identifier, timeline, OID of the database and OID of this table';
COMMENT ON COLUMN @extschema@.rgrid_incarnation_bases.since IS
    'When this base was added: when the first number after that event was needed';
COMMENT ON COLUMN @extschema@.rgrid_incarnation_bases.transaction IS 'The transaction that added it';
