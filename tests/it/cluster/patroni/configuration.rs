//! The files of etcd's, Patroni's and HAProxy's processes, and how these are called. What the documents show to
//! operators is taken from there.

use super::super::programs;
use super::super::server::SUPERUSER;
use super::node::Node;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The page for operators.
const PAGE: &str = include_str!("../../../../docs/patroni.md");

/// As short as Patroni allows, so that a failover takes half a minute.
const IMPATIENT: &str = "ttl: 20\nloop_wait: 1\nretry_timeout: 3\n";

/// What throw-away servers need. These lines follow the documented parameters, which are the last of their block.
const SMALL: [&str; 3] = ["shared_buffers: 32MB", "fsync: 'off'", "wal_retrieve_retry_interval: 500ms"];

/// The start of the names of this extension's settings.
const OWN: &str = "rgrid_heartbeat";

/// Copies the programs to where the server's user may read them.
pub fn copy_programs(dir: &Path) {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/patroni");
    assert!(programs.join("usr/bin/patroni").is_file(), "{programs:?} lacks Patroni: run `make deps`");
    programs::run_program(Command::new("cp").arg("-R").arg(programs).arg(dir.join("programs")));
    programs::run_program(Command::new("chmod").args(["-R", "a+rX"]).arg(dir.join("programs")));
}

/// A command of the server's user, which finds the programs.
pub fn command(dir: &Path, program: &str) -> Command {
    let programs = dir.join("programs/usr").display().to_string();
    let mut command = programs::as_server_user(Path::new("env"));
    command.args(["-i", "LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"]);
    command
        .arg(format!("PATH={programs}/bin:{programs}/sbin:{}:/usr/bin:/bin", programs::bindir().display()));
    command.arg(format!("PYTHONPATH={programs}/lib/python3/dist-packages"));
    command.arg(format!("HOME={}", dir.display()));
    // Debian's etcd of 2023 asks for it on arm64.
    command.arg("ETCD_UNSUPPORTED_ARCH=arm64");
    command.arg(program);
    command
}

/// An agent's file.
pub fn write_agent(node: &Node, etcd: u16, dynamic: &str) {
    let text = format!(
        "scope: rgrid
name: {name}
restapi: {{listen: '127.0.0.1:{rest}', connect_address: '127.0.0.1:{rest}'}}
etcd3: {{hosts: ['127.0.0.1:{etcd}']}}
bootstrap:
    dcs:
{dynamic}
    initdb: [{{encoding: UTF8}}, {{locale: C}}, {{auth: trust}}, no-sync]
postgresql:
    listen: 127.0.0.1:{port}
    connect_address: 127.0.0.1:{port}
    data_dir: {data}
    bin_dir: {bindir}
    pgpass: {own}/pgpass
    authentication: {{superuser: {{username: {SUPERUSER}}}, replication: {{username: {SUPERUSER}}}}}
    basebackup: [{{checkpoint: fast}}, no-sync]
    pg_hba: ['local all all trust', 'host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust']
    parameters: {{unix_socket_directories: '{own}', log_line_prefix: '%m [%p] %b: '}}
",
        dynamic = indented(&format!("{IMPATIENT}{dynamic}"), 8),
        name = node.name,
        rest = node.rest_port,
        port = node.port,
        data = node.dir.join("data").display(),
        bindir = programs::bindir().display(),
        own = node.dir.display(),
    );
    write(&node.configuration(), &text);
}

/// HAProxy's file: the lines of the documents, with the addresses of these nodes.
pub fn write_haproxy(path: &Path, nodes: &[Node], port: u16) {
    let documented = block("haproxy");
    let own = documented.lines().filter(|line| !line.trim_start().starts_with("server "));
    let lines = own
        .map(|line| if line.contains("bind ") { format!("    bind 127.0.0.1:{port}") } else { line.into() });
    let server = |node: &Node| {
        format!("    server {} 127.0.0.1:{} check port {}", node.name, node.port, node.rest_port)
    };
    let text: Vec<String> = lines.chain(nodes.iter().map(server)).collect();
    write(path, &format!("{}\n", text.join("\n")));
}

/// The dynamic configuration that the documents show, in a file.
pub fn documented_file(dir: &Path) -> String {
    let path = dir.join("dynamic.yml");
    write(&path, &block("yaml"));
    path.display().to_string()
}

/// The same as text, and then parameters of the server.
pub fn documented_and(parameters: &[&str]) -> String {
    with_parameters(&block("yaml"), &[&SMALL, parameters].concat())
}

/// The same without anything of this extension.
pub fn without_extension() -> String {
    let documented = block("yaml");
    let lines: Vec<&str> = documented.lines().filter(|line| !line.contains(OWN)).collect();
    with_parameters(&format!("{}\n", lines.join("\n")), &SMALL)
}

fn with_parameters(documented: &str, parameters: &[&str]) -> String {
    format!("{documented}{}", indented(&parameters.join("\n"), 4))
}

fn indented(text: &str, width: usize) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("{:width$}{line}", "")).collect();
    lines.join("\n")
}

/// The one block of the page that is of this kind.
fn block(kind: &str) -> String {
    let (_, after) = PAGE.split_once(&format!("```{kind}\n")).expect("the page has such a block");
    after.split_once("```").expect("the block ends").0.to_owned()
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{path:?} cannot be written: {error}"));
    programs::run_program(Command::new("chmod").arg("644").arg(path));
}
