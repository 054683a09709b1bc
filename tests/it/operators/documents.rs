//! The programs that the documents show, run as they stand there, beside stand-ins for the reader's own programs.
//! Statements are run by tests/readme.

use crate::cluster::*;
use postgres::Client;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

/// The one block of a language in a document.
fn block(document: &str, language: &str) -> String {
    let path = format!("{}/{document}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).expect("the document is there");
    let begin = format!("```{language}\n");
    let mut blocks = text.split(&begin).skip(1);
    let block = blocks.next().expect("it has such a block").split("```").next().unwrap();
    assert!(blocks.next().is_none(), "{document} has more than one block in {language}");
    block.to_owned()
}

/// Shell that polls until a command succeeds, and fails when it does not.
fn until(command: &str) -> String {
    format!("n=0; until {command}; do n=$((n + 1)); test $n -lt 600; sleep 0.1; done")
}

/// A server with the documents' database, and RGrid's table with jobs in the queue.
fn server(jobs: i32) -> (Cluster, Client) {
    // These workers beat every 30 seconds.
    let cluster = Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "1min").start();
    let mut client = cluster.database("rgrid").connect();
    queue_jobs(&mut client, "nobody", jobs);
    (cluster, client)
}

fn completed(client: &mut Client) -> i64 {
    ask(client, "SELECT count(*) FROM executions WHERE status = 'completed'", &[])
}

fn workers(client: &mut Client) -> i64 {
    ask(client, "SELECT count(*) FROM worker_heartbeats", &[])
}

/// Runs the Python worker of the documents, and then `call`. The client is copied beside it: the server's user may not
/// be allowed to look into the checkout.
fn python_worker(cluster: &Cluster, change: impl Fn(&str) -> String, call: &str) -> String {
    let to = cluster.socket_directory().join("rgrid_heartbeat");
    fs::create_dir(&to).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/rgrid_heartbeat");
    for file in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|file| file.path().is_file()) {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    let program = change(&block("docs/workers.md", "python"));
    cluster.run_script(&format!("python3 - <<'END'\n{program}\n{call}\nEND"))
}

#[test]
fn the_python_worker_of_the_documents_does_the_jobs_and_leaves() {
    let (cluster, mut client) = server(5);
    let said = python_worker(&cluster, str::to_owned, "main(lambda job, heartbeat: None)");
    assert_eq!((said.as_str(), completed(&mut client), workers(&mut client)), ("", 5, 0));
}

#[test]
fn the_python_worker_of_the_documents_drops_a_job_that_was_given_up() {
    let (cluster, mut client) = server(1);
    // A test cannot wait for a heartbeat every 30 seconds: that is all that is changed.
    let impatient = |program: &str| program.replace("Heartbeat(DSN)", "Heartbeat(DSN, interval=0.1)");
    let work = "
import time
def work(job, heartbeat):
    before = heartbeat.incarnation
    while heartbeat.incarnation == before:
        time.sleep(0.01)
main(work)";
    thread::scope(|scope| {
        let said = scope.spawn(|| python_worker(&cluster, impatient, work));
        let running = "SELECT count(*) = 1 FROM executions WHERE status = 'running'";
        wait_until("a job to be claimed", || ask(&mut client, running, &[]));
        run(&mut client, "SELECT rgrid_register(worker_id) FROM worker_heartbeats");
        assert!(said.join().unwrap().starts_with("given up meanwhile: "));
    });
    assert_eq!(completed(&mut client), 0);
}

#[test]
fn the_worker_for_node_of_the_documents_does_the_jobs_and_leaves() {
    let (cluster, mut client) = server(5);
    let program = block("docs/workers.md", "js") + "main(async () => {})";
    let mut node = Command::new("node");
    node.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/node"));
    node.env("PGHOST", cluster.socket_directory()).env("PGUSER", "postgres").env("PGDATABASE", "rgrid");
    let output = node.args(["--eval", &program]).output().expect("node is installed");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!((said.as_str(), completed(&mut client), workers(&mut client)), ("", 5, 0));
}

#[test]
fn the_script_of_the_documents_does_the_jobs_and_leaves() {
    let (cluster, mut client) = server(5);
    let program = block("docs/workers.md", "sh");
    let none_left =
        until("test \"$(psql -XAtc \"SELECT count(*) FROM executions WHERE status <> 'completed'\")\" = 0");
    cluster.run_script(&format!(
        "export PGDATABASE=rgrid PATH=\"$PWD:$PATH\"
         printf '#!/bin/sh\\necho \"$1\" >>done\\n' >do-the-work
         chmod +x do-the-work
         cat >worker <<'END'\n{program}\nEND
         bash worker >said 2>&1 &
         {none_left}
         kill -TERM $!
         wait $!
         test \"$(sort -n done | uniq | wc -l)\" = 5"
    ));
    assert_eq!((completed(&mut client), workers(&mut client)), (5, 0));
}

/// What a notification of a death looks like, from a role that has no right on anything.
const FORGED: &str =
    r#"{\"worker_id\":\"worker-8\",\"incarnation\":1,\"hostname\":\"host-8\",\"reason\":\"stale\"}"#;

#[test]
fn the_listener_of_the_documents_replaces_the_machine_of_a_dead_worker_and_believes_no_forgery() {
    let cluster = Cluster::quick().start();
    let mut client = cluster.database("rgrid").connect();
    run(&mut client, "CREATE ROLE forger LOGIN");
    let program = block("docs/tasks.md", "python");
    let listens = until(
        "test \"$(psql -XAtc \"SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN rgrid_worker_deaths'\")\" = 1",
    );
    let replaced = until("test \"$(cat replaced)\" = host-7");
    cluster.run_script(&format!(
        "export PGDATABASE=rgrid PATH=\"$PWD:$PATH\"
         printf '#!/bin/sh\\necho \"$1\" >>replaced\\n' >replace-machine
         chmod +x replace-machine
         touch replaced
         python3 - <<'END' &\n{program}\nEND
         {listens}
         psql -XqU forger -c \"NOTIFY rgrid_worker_deaths, 'no JSON'\" -c \"NOTIFY rgrid_worker_deaths, '{FORGED}'\"
         psql -Xqc \"SELECT rgrid_heartbeat('worker-7', 'host-7')\" >/dev/null
         {replaced}
         kill $!"
    ));
}
