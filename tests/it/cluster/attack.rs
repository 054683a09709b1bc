//! Roles of workers, and roles that mean harm.

use super::{Database, ask, run};
use postgres::Client;

/// A session of a new role that may call the functions of workers.
pub fn tenant(database: &Database<'_>, role: &str) -> Client {
    let sql = "CREATE ROLE @role LOGIN;
               GRANT EXECUTE ON FUNCTION rgrid_heartbeat(text, text), rgrid_heartbeat(text[], text),
                   rgrid_register(text, text), rgrid_register(text[], text), rgrid_deregister(text),
                   rgrid_attach(text, text), rgrid_detach(text) TO @role";
    run(&mut database.connect(), &sql.replace("@role", &format!("\"{role}\"")));
    database.connect_as(role)
}

/// The role that a worker's id belongs to.
pub fn owner(client: &mut Client, worker: &str) -> String {
    let sql = "SELECT coalesce(max(owner), 'nobody') FROM rgrid_worker_owners WHERE worker_id = $1";
    ask(client, sql, &[&worker])
}

/// A role with a schema, and functions that make it a superuser if the role that runs them may do that.
pub fn create_attacker(client: &mut Client, me: &str) {
    let sql = "CREATE ROLE @me LOGIN;
               CREATE SCHEMA @me AUTHORIZATION @me;
               GRANT CREATE ON SCHEMA public TO @me;
               CREATE FUNCTION @me.climb(text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN
                   BEGIN ALTER ROLE @me SUPERUSER; EXCEPTION WHEN insufficient_privilege THEN NULL; END;
                   RETURN true; END$$;
               CREATE FUNCTION @me.climbing() RETURNS trigger LANGUAGE plpgsql AS
                   $$BEGIN PERFORM @me.climb('by trigger'); RETURN NEW; END$$";
    run(client, &sql.replace("@me", me));
}

pub fn is_superuser(client: &mut Client, role: &str) -> bool {
    ask(client, "SELECT rolsuper FROM pg_roles WHERE rolname = $1", &[&role])
}
