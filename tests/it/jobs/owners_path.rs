//! The search_path of a table's triggers while its jobs are settled: the one with which it was watched, or its own
//! schema, without the schemas that its owner cannot trust.

use crate::cluster::*;
use postgres::Client;

fn server() -> Shared {
    Shared::of(Cluster::quick)
}

/// A trigger on executions whose body names another table without its schema.
fn audited(client: &mut Client) {
    run(
        client,
        "CREATE TABLE audit (job bigint);
         CREATE FUNCTION note_job() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NULL; END$$;
         CREATE TRIGGER note_job AFTER UPDATE ON executions FOR EACH ROW WHEN (NEW.status = 'failed')
             EXECUTE FUNCTION note_job()",
    );
}

/// The same with the other table in a schema of its own, `records`, and executions watched with that in the
/// search_path.
fn audited_elsewhere(client: &mut Client) {
    audited(client);
    run(
        client,
        "CREATE SCHEMA records; ALTER TABLE audit SET SCHEMA records;
         SET search_path = records, public; SELECT rgrid_watch_jobs('executions'); RESET search_path",
    );
}

fn audits(client: &mut Client) -> i64 {
    ask(client, "SELECT count(*) FROM records.audit", &[])
}

/// Status, detail and hint of the check of executions.
fn check(client: &mut Client) -> (String, String, String) {
    let sql = "SELECT status, detail, coalesce(hint, '') FROM rgrid_health() WHERE check_name = 'job table public.executions'";
    let row = client.query_one(sql, &[]).expect("there is such a check");
    (row.get(0), row.get(1), row.get(2))
}

#[test]
fn a_trigger_finds_what_lies_in_the_schema_of_its_table() {
    let cluster = server();
    let mut client = cluster.database("own_schema").connect();
    audited(&mut client);
    claim_jobs(&mut client, "victim", 2);
    silent_worker(&mut client, "victim");
    wait_until("both jobs to be noted", || ask::<i64>(&mut client, "SELECT count(*) FROM audit", &[]) == 2);
    assert_eq!(failed_jobs(&mut client, "victim"), 2);
    run(&mut client, "SELECT rgrid_register('next')");
    claim_jobs(&mut client, "next", 1);
    run(&mut client, "SELECT rgrid_register('next')");
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM audit", &[]), 3, "also in a worker's session");
}

#[test]
fn a_schema_in_which_other_roles_create_objects_is_not_searched_and_a_check_says_so() {
    let cluster = server();
    let mut client = cluster.database("shared_schema").connect();
    audited(&mut client);
    assert!(check(&mut client).1.contains("search_path public, pg_temp"));
    run(&mut client, "GRANT CREATE ON SCHEMA public TO PUBLIC");
    let (status, detail, _) = check(&mut client);
    assert!(
        status == "warning" && detail.contains("the schema public, in which PUBLIC may create"),
        "{status}: {detail}"
    );
    claim_jobs(&mut client, "victim", 1);
    silent_worker(&mut client, "victim");
    wait_until("the table to fail", || check(&mut client).0 == "error");
    run(&mut client, "REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    wait_until("the job to be settled", || failed_jobs(&mut client, "victim") == 1);
}

#[test]
fn what_the_owner_puts_into_the_schema_catches_no_name_of_our_statements() {
    let cluster = server();
    let database = cluster.database("catching");
    let mut client = database.connect();
    audited(&mut client);
    claim_jobs(&mut client, "victim", 1);
    claim_jobs(&mut client, "living", 1);
    run(
        &mut client,
        "CREATE TABLE caught (what text);
         CREATE FUNCTION catch(text, text) RETURNS boolean LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO public.caught VALUES ($1); RETURN true; END$$;
         CREATE FUNCTION catch(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO public.caught VALUES ($1); RETURN true; END$$;
         CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = catch);
         CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = catch);
         CREATE FUNCTION timezone(text, timestamptz) RETURNS timestamp LANGUAGE plpgsql AS
             $$BEGIN INSERT INTO public.caught VALUES ($1); RETURN NULL; END$$",
    );
    let beats = Beating::calling(database.connect(), "living");
    silent_worker(&mut client, "victim");
    // Without a comparison: those of this session are caught.
    let statuses = "SELECT string_agg(status, ' ' ORDER BY id) FROM executions";
    wait_until("the job to be settled", || ask::<String>(&mut client, statuses, &[]) == "failed running");
    drop(beats);
    run(&mut client, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT rgrid_deregister('living'); COMMIT");
    assert_eq!(ask::<String>(&mut client, statuses, &[]), "failed failed");
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM caught", &[]), 0);
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM audit", &[]), 2);
}

#[test]
fn a_trigger_finds_what_the_search_path_had_when_its_table_was_watched() {
    let cluster = server();
    let mut client = cluster.database("other_schema").connect();
    audited_elsewhere(&mut client);
    let stored = "SELECT search_path::text FROM rgrid_job_tables";
    assert_eq!(ask::<String>(&mut client, stored, &[]), "{records,public}");
    claim_jobs(&mut client, "victim", 2);
    silent_worker(&mut client, "victim");
    wait_until("both jobs to be noted", || audits(&mut client) == 2);
    for (sessions, level) in (3..).zip(["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]) {
        run(&mut client, "SELECT rgrid_register('next')");
        claim_jobs(&mut client, "next", 1);
        run(&mut client, &format!("BEGIN ISOLATION LEVEL {level}; SELECT rgrid_register('next'); COMMIT"));
        assert_eq!(audits(&mut client), sessions, "{level}");
    }
}

#[test]
fn the_user_in_a_search_path_is_the_owner_of_the_table() {
    let cluster = server();
    let mut client = cluster.database("users_schema").connect();
    audited(&mut client);
    run(
        &mut client,
        "CREATE ROLE app LOGIN; CREATE SCHEMA app AUTHORIZATION app;
         ALTER TABLE executions OWNER TO app; ALTER TABLE audit OWNER TO app; ALTER TABLE audit SET SCHEMA app;
         CREATE SCHEMA postgres; CREATE TABLE postgres.audit (job bigint);
         SET search_path = \"$user\", public; SELECT rgrid_watch_jobs('executions')",
    );
    claim_jobs(&mut client, "victim", 1);
    silent_worker(&mut client, "victim");
    wait_until("the job to be noted", || ask::<i64>(&mut client, "SELECT count(*) FROM app.audit", &[]) == 1);
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM postgres.audit", &[]), 0);
    assert_eq!(failed_jobs(&mut client, "victim"), 1);
}

#[test]
fn a_temporary_table_catches_no_name_of_a_trigger() {
    let cluster = server();
    let mut client = cluster.database("temporary").connect();
    audited_elsewhere(&mut client);
    run(
        &mut client,
        "CREATE TEMP TABLE audit (job bigint);
         SET search_path = pg_temp, records, public; SELECT rgrid_watch_jobs('executions')",
    );
    let stored = "SELECT search_path::text FROM rgrid_job_tables";
    assert_eq!(ask::<String>(&mut client, stored, &[]), "{records,public}");
    run(&mut client, "SELECT rgrid_register('w1')");
    claim_jobs(&mut client, "w1", 1);
    run(&mut client, "SELECT rgrid_register('w1')");
    assert_eq!(audits(&mut client), 1);
    // A name that somebody wrote into the registry.
    run(
        &mut client,
        "UPDATE rgrid_job_tables SET search_path = ARRAY[pg_my_temp_schema()::regnamespace::text, 'records', NULL]",
    );
    claim_jobs(&mut client, "w1", 1);
    run(&mut client, "SELECT rgrid_register('w1')");
    assert_eq!(audits(&mut client), 2);
}

#[test]
fn a_schema_of_the_path_is_left_out_while_another_role_may_create_objects_there() {
    let cluster = server();
    let mut client = cluster.database("left_out").connect();
    audited_elsewhere(&mut client);
    let (_, detail, _) = check(&mut client);
    assert!(detail.contains("search_path records, public, pg_temp."), "{detail}");
    run(&mut client, "CREATE ROLE \"A guest\"; GRANT CREATE ON SCHEMA records TO \"A guest\"");
    let (status, detail, hint) = check(&mut client);
    assert!(
        status == "warning" && detail.contains("without the schema records, in which \"A guest\" may"),
        "{status}: {detail}"
    );
    claim_jobs(&mut client, "victim", 1);
    silent_worker(&mut client, "victim");
    wait_until("the table to fail", || check(&mut client).0 == "error");
    assert_eq!(failed_jobs(&mut client, "victim"), 0);
    run(&mut client, hint.split_once(';').expect("a statement").0);
    wait_until("the job to be settled", || failed_jobs(&mut client, "victim") == 1);
    assert_eq!(audits(&mut client), 1);
}
