//! The search_path of a table's triggers while its jobs are settled: its own schema, as long as its owner can trust that.

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

fn check(client: &mut Client) -> (String, String) {
    let sql = "SELECT status, detail FROM rgrid_health() WHERE check_name = 'job table public.executions'";
    let row = client.query_one(sql, &[]).expect("there is such a check");
    (row.get(0), row.get(1))
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
    assert_eq!(check(&mut client).0, "ok");
    run(&mut client, "GRANT CREATE ON SCHEMA public TO PUBLIC");
    let (status, detail) = check(&mut client);
    assert!(status == "warning" && detail.contains("other roles may create objects"), "{status}: {detail}");
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
    let _beats = Beating::calling(database.connect(), "living");
    silent_worker(&mut client, "victim");
    // Without a comparison: those of this session are caught.
    let statuses = "SELECT string_agg(status, ' ' ORDER BY id) FROM executions";
    wait_until("the job to be settled", || ask::<String>(&mut client, statuses, &[]) == "failed running");
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM caught", &[]), 0);
    assert_eq!(ask::<i64>(&mut client, "SELECT count(*) FROM audit", &[]), 1);
}
