//! Prometheus and its exporter, as Debian ships them, with the queries and rules of examples/monitoring: a death is
//! seen in a scrape over HTTP, its alert fires, and each panel of the dashboard shows something.

use crate::cluster::*;
use postgres::config::Host;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What a process that watches may do: what pg_monitor may.
const ROLE: &str = "rgrid_operator";

#[test]
fn a_death_is_seen_in_a_scrape_and_fires_an_alert() {
    let cluster = Cluster::quick().setting("rgrid_heartbeat.stale_threshold", "3s").start();
    let database = cluster.database("watched");
    let mut client = database.connect();
    run(&mut client, &format!("CREATE ROLE {ROLE} LOGIN IN ROLE pg_monitor"));
    let exporter = Exporter::start(&database);
    let prometheus = Prometheus::start(&exporter);
    wait_until("the first scrape", || exporter.ledger("deaths_10m", "stale") == Some(0.0));
    assert_eq!(exporter.ledger("dead", "stale"), Some(0.0));

    let healthy = Beating::calling(database.connect(), "healthy");
    beat(&mut client, "doomed");
    claim_jobs(&mut client, "doomed", 3);
    wait_until("the death in a scrape", || exporter.ledger("deaths_10m", "stale") == Some(1.0));
    assert_eq!(exporter.ledger("jobs_failed_10m", "stale"), Some(3.0));
    assert_eq!(exporter.ledger("dead", "stale"), Some(1.0));
    assert_eq!(exporter.ledger("deaths_10m", "restarted"), Some(0.0));
    for alert in ["RgridWorkerDied", "RgridJobsFailed"] {
        wait_until(&format!("{alert} to fire"), || prometheus.fires(alert));
    }
    assert!(!prometheus.fires("RgridFalseDeaths"), "no worker has come back");

    assert_eq!(beat(&mut client, "doomed"), 2);
    wait_until("the return in a scrape", || exporter.ledger("returned_1h", "stale") == Some(1.0));
    assert_eq!(exporter.ledger("dead", "stale"), Some(0.0));
    wait_until("RgridFalseDeaths to fire", || prometheus.fires("RgridFalseDeaths"));
    for expression in expressions_of_the_dashboard() {
        wait_until(&format!("the dashboard to show {expression}"), || prometheus.answers(&expression));
    }
    drop(healthy);
}

#[test]
fn every_metric_of_the_queries_is_scraped() {
    let cluster = Cluster::quick().start();
    let database = cluster.database("scraped");
    let mut client = database.connect();
    run(&mut client, &format!("CREATE ROLE {ROLE} LOGIN IN ROLE pg_monitor"));
    beat(&mut client, "healthy");
    await_sweep(&mut client, "silent");
    let exporter = Exporter::start(&database);
    let metrics = metrics_of_queries();
    let missing = |scrape: &str| -> Vec<String> {
        let is_missing =
            |metric: &&String| !scrape.lines().any(|line| line.starts_with(&format!("{metric}{{")));
        metrics.iter().filter(is_missing).cloned().collect()
    };
    wait_until("a scrape that misses no metric", || missing(&exporter.server.get("/metrics")).is_empty());

    let scrape = exporter.server.get("/metrics");
    let is_positive = |start: &str| {
        let line = scrape.lines().find(|line| line.starts_with(start));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).is_some_and(|value| value > 0.0)
    };
    for metric in ["sweeps_total", "deaths_total", "enabled", "buffer_capacity", "stale_threshold_seconds"] {
        assert!(is_positive(&format!("rgrid_heartbeat_{metric}{{")), "{metric}: {scrape}");
    }
}

#[test]
fn every_metric_of_the_rules_and_of_the_dashboard_is_one_of_the_queries() {
    let queries = metrics_of_queries();
    for file in ["alerts.yml", "dashboard.json"] {
        let text = fs::read_to_string(example(file)).unwrap();
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let metrics: Vec<&str> = words.filter(|word| word.starts_with("rgrid_heartbeat_")).collect();
        assert!(metrics.len() > 10, "{file} has metrics: {metrics:?}");
        for metric in metrics {
            assert!(queries.iter().any(|known| known == metric), "{file}: no query answers {metric}");
        }
    }
}

/// What the panels of the dashboard ask Prometheus, with a value for each variable.
fn expressions_of_the_dashboard() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(example("dashboard.json")).unwrap()).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let targets =
        panels.iter().flat_map(|panel| panel["targets"].as_array().expect("a panel asks something"));
    let expressions = targets.map(|target| target["expr"].as_str().expect("a target has an expression"));
    expressions.map(|text| text.replace("$datname", ".*").replace("$__rate_interval", "1m")).collect()
}

/// The metrics of queries.yaml by the names that the exporter gives them: the query's, then the column's.
fn metrics_of_queries() -> Vec<String> {
    let text = fs::read_to_string(example("queries.yaml")).unwrap();
    let (mut query, mut column, mut metrics) = ("", "", Vec::new());
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            query = name;
        } else if let Some(name) = line.strip_prefix("    - ") {
            column = name.trim_end_matches(':');
        } else if line.starts_with("        usage: ") && !line.ends_with("LABEL") {
            metrics.push(format!("{query}_{column}"));
        }
    }
    metrics
}

/// The exporter, on a port of the loopback interface.
struct Exporter {
    server: WebServer,
}

impl Exporter {
    fn start(database: &Database<'_>) -> Self {
        let config = database.config();
        let [Host::Unix(socket)] = config.get_hosts() else { panic!("one socket is wanted: {config:?}") };
        let name = config.get_dbname().unwrap();
        let source = format!("host={} port=5432 user={ROLE} dbname={name} sslmode=disable", socket.display());
        let port = free_port();
        let mut command = monitoring_program("prometheus-postgres-exporter");
        command.env("DATA_SOURCE_NAME", source);
        command.args(["--disable-default-metrics", "--disable-settings-metrics"]);
        command.arg("--extend.query-path").arg(example("queries.yaml"));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        Self { server: WebServer::start(command, port) }
    }

    /// A metric that is taken from the ledger, as the last scrape has it.
    fn ledger(&self, metric: &str, reason: &str) -> Option<f64> {
        let name = format!("rgrid_heartbeat_ledger_{metric}{{");
        let label = format!("reason=\"{reason}\"");
        let scrape = self.server.get("/metrics");
        let line = scrape.lines().find(|line| line.starts_with(&name) && line.contains(&label))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

/// Prometheus, which scrapes an exporter every second by the rules of the example.
struct Prometheus {
    server: WebServer,
    dir: PathBuf,
}

impl Prometheus {
    fn start(exporter: &Exporter) -> Self {
        let port = free_port();
        let dir = std::env::temp_dir().join(format!("rgh-prometheus-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let configuration = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{rules}']\n\
             scrape_configs: [{{job_name: rgrid, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n",
            rules = example("alerts.yml").display(),
            target = exporter.server.port,
        );
        fs::write(dir.join("prometheus.yml"), configuration).unwrap();
        let mut command = monitoring_program("prometheus");
        command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        Self { server: WebServer::start(command, port), dir }
    }

    fn fires(&self, alert: &str) -> bool {
        self.answers(&format!("ALERTS{{alertstate=\"firing\",alertname=\"{alert}\"}}"))
    }

    /// Whether there is a value for an expression.
    fn answers(&self, expression: &str) -> bool {
        let query: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.server.get(&format!("/api/v1/query?query={query}")).contains("\"value\":[")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.server.stop();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A process that answers HTTP. It ends with this value, or with the thread that started it.
struct WebServer {
    process: Child,
    port: u16,
}

impl WebServer {
    fn start(mut command: Command, port: u16) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("what `make deps` unpacks can be started");
        Self { process, port }
    }

    /// What it answers, or nothing while it does not listen yet.
    fn get(&self, path: &str) -> String {
        http_request(self.port, "GET", path).1
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One of the programs that scripts/install-deps unpacks, killed by the kernel when the test dies.
fn monitoring_program(name: &str) -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/monitoring/usr/bin").join(name);
    assert!(program.is_file(), "{program:?} is missing: run `make deps`");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring").join(name)
}
