-- Fences: triggers on tables of jobs that keep late results away. Their function raises the error; whether there is
-- one to raise is tested by each trigger's WHEN clause. CREATE TRIGGER demands EXECUTE on the function from the table's
-- owner, also when a dump is restored by that role, so PUBLIC keeps it; called by hand it only raises an error.
CREATE FUNCTION @extschema@.rgrid_fence(job_table regclass) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_fence_wrapper';
CREATE FUNCTION @extschema@.rgrid_unfence(job_table regclass) RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_unfence_wrapper';
CREATE FUNCTION @extschema@.rgrid_fence_violated() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'rgrid_fence_violated_wrapper';

COMMENT ON FUNCTION @extschema@.rgrid_fence(regclass) IS
    'Refuses results of jobs that were given up because their worker was declared dead';
COMMENT ON FUNCTION @extschema@.rgrid_unfence(regclass) IS
    'Removes the fence of a table of jobs; returns whether there was one';
COMMENT ON FUNCTION @extschema@.rgrid_fence_violated() IS
    'Trigger function of fences: raises the error for a late result';
