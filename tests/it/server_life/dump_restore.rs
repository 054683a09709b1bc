//! Dump and restore: what was known of deaths comes back as it was, and kills no worker.

use crate::cluster::*;
use postgres::Client;

#[test]
fn a_restored_dump_has_every_death_and_kills_no_worker() {
    let cluster = Cluster::quick().start();
    let (database, restored) = (cluster.database("grid"), cluster.empty_database("restored"));
    let mut client = database.connect();
    let beats = Life::lead(&database, &mut client);
    let before = State::of(&mut client);
    cluster.restore(&cluster.dump("grid"), "restored");
    drop(beats);
    it_is_as_it_was(&before, &mut restored.connect());
    it_goes_on_as_before(&mut restored.connect());
}

#[test]
fn a_restored_pg_dumpall_has_every_death_and_kills_no_worker() {
    let (cluster, other) = (Cluster::quick().start(), Cluster::quick().start());
    let database = cluster.database("grid");
    let mut client = database.connect();
    let _beats = Life::lead(&database, &mut client);
    let before = State::of(&mut client);
    cluster.dump_all_into(&other);
    it_is_as_it_was(&before, &mut other.connect("grid"));
    it_goes_on_as_before(&mut other.connect("grid"));
}

#[test]
fn an_adopted_table_is_restored_first_and_gives_a_whole_threshold() {
    let cluster = Cluster::quick().start();
    let (database, restored) = (cluster.rgrid_database("rgrid"), cluster.empty_database("restored"));
    let mut client = database.connect();
    upsert_like_python(&mut client, "gone", HOUR);
    await_death(&mut client, "gone");
    let beats = Beating::upserting(database.connect(), "healthy");
    claim_jobs(&mut client, "healthy", 2);
    let file = cluster.dump("rgrid");
    drop(beats);
    await_death(&mut client, "healthy");

    let dump = file.display();
    cluster.run_script(&format!(
        "pg_restore --list {dump} >list
         grep -E  '[0-9] (TABLE|CONSTRAINT) public worker_heartbeats ' list >first
         grep -vE '[0-9] (TABLE|CONSTRAINT) public worker_heartbeats ' list >rest
         cat first rest >order
         pg_restore --exit-on-error --single-transaction --use-list=order --dbname=restored {dump}"
    ));
    let mut client = restored.connect();
    let back = server_time(&mut client);
    assert_eq!(jobs(&mut client, "healthy", "running"), 2);
    let sql = "SELECT count(ray_available_resources) FROM worker_heartbeats";
    assert_eq!(ask::<i64>(&mut client, sql, &[]), 2, "it is RGrid's table, with the rows");
    await_death(&mut client, "healthy");
    let sql = "SELECT declared_dead_at - $1 >= interval '1.5 seconds' FROM rgrid_worker_deaths
               WHERE worker_id = 'healthy'";
    assert!(ask::<bool>(&mut client, sql, &[&back]), "silence counts from the end of the restore");
    assert_eq!(ledger(&mut client, "gone"), ["1 stale 0 gone"]);
}

#[test]
fn a_restored_dump_leaves_ids_to_their_owners() {
    let cluster = Cluster::quick().start();
    let (database, restored) = (cluster.database("grid"), cluster.empty_database("restored"));
    let (mut first, mut second) = (tenant(&database, "first_user"), tenant(&database, "second_user"));
    beat(&mut first, "w");
    beat(&mut second, "handed over");
    run(&mut database.connect(), "SELECT rgrid_reassign_worker('handed over', 'first_user')");
    cluster.restore(&cluster.dump("grid"), "restored");
    let (mut first, mut second) = (restored.connect_as("first_user"), restored.connect_as("second_user"));
    for worker in ["w", "handed over"] {
        assert_eq!(sqlstate(&mut second, &format!("SELECT rgrid_register('{worker}')")), "42501", "{worker}");
        assert_eq!(beat(&mut first, worker), 1, "{worker}");
    }
    drop(tenant(&restored, "third_user"));
    let mut client = restored.connect();
    run(
        &mut client,
        "INSERT INTO rgrid_worker_owners VALUES ('not back yet', 'first_user'), ('orphan', 'no such role')",
    );
    run(&mut client, "SELECT rgrid_reassign_worker('not back yet', 'third_user')");
    let mut third = restored.connect_as("third_user");
    assert_eq!((beat(&mut third, "not back yet"), beat(&mut third, "orphan")), (1, 1));
    assert_eq!(sqlstate(&mut first, "SELECT rgrid_heartbeat('not back yet')"), "42501");
}

#[test]
fn a_restored_watch_counts_when_the_role_that_made_it_is_there() {
    let (cluster, other) = (Cluster::quick().start(), Cluster::quick().start());
    let (database, restored) = (cluster.database("grid"), other.empty_database("grid"));
    run(
        &mut database.connect(),
        "CREATE ROLE clerk; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO clerk;
         CREATE TABLE tasks (worker_id text, status text); INSERT INTO tasks VALUES ('silent', 'running');
         ALTER TABLE tasks OWNER TO clerk; SET ROLE clerk;
         SELECT rgrid_watch_jobs('tasks', error_column => NULL, finished_column => NULL)",
    );
    let dump = cluster.dump("grid");
    other.run_script(&format!("pg_restore --exit-on-error --no-owner --no-acl -d grid {}", dump.display()));
    let mut client = restored.connect();
    let entries = rows(&mut client, "rgrid_job_tables");
    assert_eq!(entries, rows(&mut database.connect(), "rgrid_job_tables"));
    assert!(entries[0].contains(",clerk,"), "{entries:?}");
    await_sweep(&mut client, "silent");
    let status = "SELECT status FROM tasks";
    assert_eq!(ask::<String>(&mut client, status, &[]), "running", "nobody has watched it here");
    wait_until("a message about the role", || {
        !other.log_lines_with(&["settle jobs in table public.tasks", "made by role \"clerk\""]).is_empty()
    });
    run(&mut client, "CREATE ROLE clerk; ALTER TABLE tasks OWNER TO clerk");
    wait_until("the job to be settled", || ask::<String>(&mut client, status, &[]) == "failed");
}

#[test]
fn a_dump_without_a_watched_table_loses_that_watch_alone() {
    let cluster = Cluster::quick().start();
    let (database, restored) = (cluster.database("grid"), cluster.empty_database("restored"));
    run(
        &mut database.connect(),
        "CREATE TABLE big (status text, worker_id text, execution_error text, completed_at date, retry_count int, max_retries int);
         CREATE TABLE tasks (LIKE big);
         SELECT rgrid_watch_jobs('big'), rgrid_watch_jobs('tasks', on_death => 'requeue'),
                rgrid_watch_jobs('executions', on_death => 'requeue')",
    );
    cluster.run_script(
        "pg_dump -Fc --exclude-table=big -f without_big grid && pg_restore --exit-on-error -d restored without_big",
    );
    let mut client = restored.connect();
    run(&mut client, "INSERT INTO tasks VALUES ('running', 'silent')");
    claim_jobs(&mut client, "silent", 1);
    silent_worker(&mut client, "silent");
    await_death(&mut client, "silent");
    assert_eq!(jobs(&mut client, "silent", "failed"), 0);
    assert_eq!(ask::<String>(&mut client, "SELECT status FROM tasks", &[]), "queued");
    let health = "SELECT status || ': ' || detail FROM rgrid_health() WHERE check_name = 'job tables'";
    let said = "error: 1 watched tables are not in this database: public.big.";
    assert_eq!(ask::<String>(&mut client, health, &[]), said);
    let line = ["could not settle jobs in table public.big", "does not exist"];
    wait_until("a line in the log", || cluster.log_lines_with(&line).len() == 1);
    // It comes later.
    run(&mut client, "CREATE TABLE big (LIKE tasks); INSERT INTO big VALUES ('running', 'silent')");
    wait_until("its job", || ask::<String>(&mut client, "SELECT status FROM big", &[]) == "failed");
}

/// A database in use: one worker runs jobs, one has died with its jobs and come back, one has died for good, and a
/// second table is watched.
struct Life;

impl Life {
    fn lead(database: &Database<'_>, client: &mut Client) -> Beating {
        run(
            client,
            "CREATE TABLE tasks (runner text, state text, note text);
             CREATE SCHEMA records; CREATE TABLE records.lost (runner text);
             CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO lost VALUES (NEW.runner); RETURN NULL; END';
             CREATE TRIGGER record AFTER UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION record();
             SET search_path = public, records;
             SELECT rgrid_watch_jobs('tasks', worker_column => 'runner', status_column => 'state',
                                     running_status => 'busy', dead_status => 'lost', error_column => 'note',
                                     error_message => 'the runner is gone', finished_column => NULL);
             RESET search_path",
        );
        for worker in ["phoenix", "gone"] {
            claim_jobs(client, worker, 2);
            await_sweep(client, worker);
        }
        assert_eq!(beat(client, "phoenix"), 2);
        run(client, "SELECT rgrid_deregister('phoenix')");
        let beats = Beating::calling(database.connect(), "healthy");
        claim_jobs(client, "healthy", 3);
        run(client, "INSERT INTO tasks VALUES ('healthy', 'busy'), ('later', 'busy')");
        beats
    }
}

#[derive(Debug, PartialEq)]
struct State([Vec<String>; 4]);

impl State {
    fn of(client: &mut Client) -> Self {
        Self(
            ["rgrid_worker_deaths", "rgrid_job_tables", "executions", "tasks"]
                .map(|table| rows(client, table)),
        )
    }
}

fn it_is_as_it_was(before: &State, client: &mut Client) {
    assert_eq!(State::of(client), *before);
    assert!(rows(client, "rgrid_tried_tables").is_empty(), "no table was tried where it is now");
    assert!(rows(client, "worker_heartbeats").is_empty(), "heartbeats are no part of a dump");
    let sql = "SELECT count(*) FROM pg_depend WHERE deptype = 'e' AND objid = 'worker_heartbeats'::regclass";
    assert_eq!(ask::<i64>(client, sql, &[]), 1, "the table is the extension's own");
}

fn it_goes_on_as_before(client: &mut Client) {
    await_sweep(client, "later");
    assert_eq!(deaths(client, "healthy"), 0, "a restore kills no worker");
    assert_eq!(jobs(client, "healthy", "running"), 3);
    let sql = "SELECT string_agg(runner || ' ' || state, ', ' ORDER BY runner) FROM tasks";
    assert_eq!(ask::<String>(client, sql, &[]), "healthy busy, later lost", "the table is watched");
    let recorded: String = ask(client, "SELECT string_agg(runner, ' ') FROM records.lost", &[]);
    assert_eq!(recorded, "later", "its trigger has the search_path with which it was watched");
    assert_eq!(beat(client, "healthy"), 1);
    for worker in ["phoenix", "gone"] {
        let number = beat(client, worker);
        assert!(number > NEW_BASE, "{worker} may have been told another number after the dump: {number}");
    }
}
