-- Once in each database that is to be watched, as a superuser, when RGrid's tables are there: they are adopted as they
-- are, and whoever creates them later would find tables of the extension's shape. The role has no password here: set
-- one, or grant the same to the role that the workers have.
CREATE EXTENSION rgrid_heartbeat;

CREATE ROLE rgrid_worker LOGIN;
GRANT EXECUTE ON FUNCTION
    rgrid_register(text, text),
    rgrid_register(text[], text),
    rgrid_heartbeat(text, text),
    rgrid_heartbeat(text[], text),
    rgrid_deregister(text),
    rgrid_attach(text, text),
    rgrid_detach(text)
TO rgrid_worker;
