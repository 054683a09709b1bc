//! PgBouncer, as Debian ships it, in front of a server: on a socket of its own and on a port of the loopback
//! interface.

use super::programs::{self, Leashed};
use super::server::{SUPERUSER, next_number};
use super::{Cluster, wait_until};
use postgres::{Client, Config, NoTls, SimpleQueryMessage};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The database in which PgBouncer takes commands.
const CONSOLE: &str = "pgbouncer";

/// A pooler that does not outlive its handle.
pub struct Pooler {
    dir: PathBuf,
    /// The directory of the server's socket.
    server: PathBuf,
    port: u16,
    process: Option<Leashed>,
}

impl Pooler {
    /// Returns when it takes connections. `settings` are lines of pgbouncer.ini, as `pool_mode = transaction`. All
    /// roles of the server may connect.
    pub fn start(cluster: &Cluster, settings: &str) -> Self {
        let dir = programs::new_empty_directory(next_number());
        let server = cluster.socket_directory().to_path_buf();
        let mut pooler = Self { dir, server, port: programs::free_port(), process: None };
        // The server's user may not be allowed to look into the directory that it was unpacked in.
        fs::copy(program(), pooler.program()).expect("PgBouncer can be copied");
        pooler.configure(settings);
        pooler.restart();
        pooler
    }

    fn program(&self) -> PathBuf {
        self.dir.join("pgbouncer")
    }

    /// Whether it can carry prepared statements in transaction mode, with `max_prepared_statements`.
    pub fn carries_prepared_statements() -> bool {
        let answer = programs::run_program(Command::new(program()).arg("--version"));
        let version = answer.split_whitespace().nth(1).and_then(|version| version.split_once('.'));
        let version = version.map(|(major, rest)| (major.parse(), rest.split('.').next().map(str::parse)));
        let Some((Ok::<u32, _>(major), Some(Ok::<u32, _>(minor)))) = version else {
            panic!("PgBouncer tells no version: {answer}");
        };
        (major, minor) >= (1, 21)
    }

    /// How to connect through its Unix socket. In transaction mode `ask` is not for such sessions: it names statements.
    pub fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.dir).port(self.port).user(SUPERUSER).dbname(database);
        config
    }

    pub fn connect(&self, database: &str) -> Client {
        self.config(database).connect(NoTls).expect("the pooler takes connections")
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(format!(".s.PGSQL.{}", self.port))
    }

    /// A connection string for drivers, through TCP.
    pub fn connection_string(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user={SUPERUSER} dbname={database}", self.port)
    }

    /// Gives a command to its console, as `PAUSE`, or asks it, as `SHOW LISTS`: each row as the values of its columns.
    pub fn command(&self, command: &str) -> Vec<Vec<String>> {
        let answer = self.connect(CONSOLE).simple_query(command);
        let messages = answer.unwrap_or_else(|error| panic!("{command}: {error:?}"));
        let values = |row: postgres::SimpleQueryRow| {
            (0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect()
        };
        messages
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(values(row)),
                _ => None,
            })
            .collect()
    }

    /// Takes other settings, without losing a client.
    pub fn reload(&self, settings: &str) {
        self.configure(settings);
        self.command("RELOAD");
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it, also after [`Pooler::kill`].
    pub fn restart(&mut self) {
        let log = programs::open_log(&self.dir.join("log"));
        let (program, ini) = (self.program().display().to_string(), self.dir.join("pgbouncer.ini"));
        // A connection is a file, of client and server.
        let script = r#"ulimit -n "$(ulimit -Hn)" && exec "$@""#;
        let shell = programs::as_server_user(Path::new("sh"));
        let started = ["sh", "-c", script, "sh", &program, &ini.display().to_string()];
        self.process = Some(Leashed::start(shell, &started, log));
        wait_until("the pooler", || self.config(CONSOLE).connect(NoTls).is_ok());
    }

    fn configure(&self, settings: &str) {
        let (dir, server, port) = (self.dir.display(), self.server.display(), self.port);
        let ini = format!(
            "[databases]\n* = host={server} port=5432\n[pgbouncer]\nunix_socket_dir = {dir}\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = trust\nauth_user = {SUPERUSER}\n\
             auth_file = {dir}/users\nadmin_users = {SUPERUSER}\nmax_client_conn = 3000\n{settings}\n"
        );
        fs::write(self.dir.join("users"), format!("\"{SUPERUSER}\" \"\"\n")).expect("users can be written");
        fs::write(self.dir.join("pgbouncer.ini"), ini).expect("a configuration can be written");
    }
}

/// scripts/install-deps unpacks it: the package would start a service.
fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pooler/usr/sbin/pgbouncer");
    assert!(program.is_file(), "{program:?} is missing: run `make deps`");
    program
}

impl Drop for Pooler {
    fn drop(&mut self) {
        programs::print_tail("the pooler", &self.dir.join("log"), &[]);
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
