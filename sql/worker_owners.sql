-- Which role each worker's id belongs to: the one that first used it. Only ids in the extension's own table of heartbeats
-- have an owner. By name, and kept by pg_dump: where a dump is restored, no other role can take an id first.
CREATE TABLE @extschema@.rgrid_worker_owners (
    worker_id text COLLATE pg_catalog."C" PRIMARY KEY,
    owner name NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.rgrid_worker_owners', '');

COMMENT ON TABLE @extschema@.rgrid_worker_owners IS
    'Roles that worker ids belong to; other roles without their rights cannot use these ids';
COMMENT ON COLUMN @extschema@.rgrid_worker_owners.worker_id IS 'The worker''s id';
COMMENT ON COLUMN @extschema@.rgrid_worker_owners.owner IS
    'The role that first used it, or that it was handed to; free again when there is no such role';

CREATE FUNCTION @extschema@.rgrid_reassign_worker(worker_id text, new_owner name) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_reassign_worker_wrapper';
GRANT SELECT ON @extschema@.rgrid_worker_owners TO pg_monitor;
COMMENT ON FUNCTION @extschema@.rgrid_reassign_worker(text, name) IS
    'Hands the id of a worker over to another role; for superusers, and members of both roles';
