-- Which role each worker's id belongs to: the one that first used it. Only ids in the extension's own table of
-- heartbeats have an owner. By name, and kept by pg_dump: where a dump is restored, no other role can take an id first.
CREATE TABLE @extschema@.rgrid_worker_owners (
    worker_id text COLLATE pg_catalog."C" PRIMARY KEY,
    owner name NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_worker_owners', '');

COMMENT ON TABLE @extschema@.rgrid_worker_owners IS
    'The role that each worker''s id belongs to; only roles with its rights can use the id';
COMMENT ON COLUMN @extschema@.rgrid_worker_owners.worker_id IS 'The worker''s id';
COMMENT ON COLUMN @extschema@.rgrid_worker_owners.owner IS
    'The role that first used the id, or was given it; the id is free when that role no longer exists';

CREATE FUNCTION @extschema@.rgrid_reassign_worker(worker_id text, new_owner name) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_reassign_worker_wrapper';
GRANT SELECT ON @extschema@.rgrid_worker_owners TO pg_monitor;
COMMENT ON FUNCTION @extschema@.rgrid_reassign_worker(text, name) IS
    'Gives the id of a worker to another role; for superusers and for members of both roles';
