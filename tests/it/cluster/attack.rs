//! Roles that mean harm.

use super::{ask, run};
use postgres::Client;

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
