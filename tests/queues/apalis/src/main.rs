//! Apalis, for the tests; see tests/it/queues/mod.rs.

use std::env;
use std::thread;
use std::time::Duration;

use apalis::prelude::*;
use apalis_postgres::{Config, PgPool, PostgresStorage};
use sqlx::{Connection, PgConnection};
use tokio::time::{sleep, timeout};

const URL: &str = "postgresql:///";
const INTERVAL: Duration = Duration::from_millis(500);

/// Ends when the connection does, or when the server does not answer in time.
async fn beat(worker: &str) -> Option<()> {
    let deadline = Duration::from_secs(10);
    let mut connection = timeout(deadline, PgConnection::connect(URL)).await.ok()?.ok()?;
    loop {
        let call = sqlx::query("SELECT rgrid_attach('apalis:' || $1)").bind(worker).execute(&mut connection);
        timeout(deadline, call).await.ok()?.ok()?;
        sleep(INTERVAL).await;
    }
}

/// In a thread of its own, which no job blocks.
fn start_heartbeat(worker: String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                beat(&worker).await;
                sleep(Duration::from_secs(1)).await;
            }
        })
    });
}

/// What a job of the tests does; see yard.sql.
async fn run(job: String, pool: Data<PgPool>) -> Result<(), BoxDynError> {
    let begin = sqlx::query_scalar("SELECT begin_run($1)").bind(job);
    let number: i64 = begin.fetch_one(&*pool).await?;
    while !sqlx::query_scalar("SELECT run_may_end($1)").bind(number).fetch_one(&*pool).await? {
        sleep(Duration::from_millis(50)).await;
    }
    sqlx::query("SELECT end_run($1)").bind(number).execute(&*pool).await?;
    Ok(())
}

#[tokio::main]
async fn main() {
    let pool = PgPool::connect(URL).await.expect("a connection");
    let mut storage: PostgresStorage<String> =
        PostgresStorage::new(&pool).with_config(Config::default().queue("jobs"));
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments[0].as_str() {
        "install" => PostgresStorage::setup(&pool).await.expect("tables"),
        "enqueue" => {
            let options: serde_json::Value = serde_json::from_str(&arguments[2]).expect("JSON");
            let attempts = options["max_attempts"].as_u64().unwrap_or(5);
            let task = TaskBuilder::new(arguments[1].clone()).max_attempts(attempts as usize).build();
            storage.push_task(task).await.expect("a job");
        }
        _ => {
            let name = format!("worker-{}", std::process::id());
            start_heartbeat(name.clone());
            let worker = WorkerBuilder::new(name.as_str()).backend(storage.with_pubsub());
            let worker = worker.data(pool).concurrency(1).build(run);
            worker.run().await.expect("an end");
        }
    }
}
