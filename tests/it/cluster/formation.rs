//! A primary and a standby under pg_auto_failover: its monitor, two servers that keepers of its own make, watch and
//! promote, and what becomes of them. They listen on TCP ports of the loopback interface, as a failover needs.

use super::database::ask;
use super::programs::{self, Leashed};
use super::server::{SUPERUSER, next_number};
use super::wait_until;
use postgres::{Client, Config, NoTls};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The monitor's database and the role that keepers use there are pg_auto_failover's.
const MONITOR_DATABASE: &str = "pg_auto_failover";
const KEEPER_ROLE: &str = "autoctl_node";

/// pg_auto_failover as an operator would set it for a failover within seconds.
const IMPATIENT: &str = "
pgautofailover.health_check_period = '1s'
pgautofailover.health_check_timeout = '1s'
pgautofailover.health_check_max_retries = 1
pgautofailover.health_check_retry_delay = '500ms'
pgautofailover.node_considered_unhealthy_timeout = '3s'
pgautofailover.startup_grace_period = '2s'
pgautofailover.primary_demote_timeout = '3s'
";

/// What throw-away servers need, against what pg_auto_failover computes for a machine of their own.
const SMALL: &str = "shared_buffers = '32MB'\nfsync = off\nmax_worker_processes = 32\n";

pub struct Formation {
    dir: PathBuf,
    monitor: Node,
    nodes: [Node; 2],
}

/// One server and the keeper that runs it.
struct Node {
    name: &'static str,
    port: u16,
    keeper: Option<Leashed>,
}

impl Formation {
    /// Returns when the first node is the primary and the second its synchronous standby. `settings` are lines of
    /// postgresql.conf for both.
    pub fn start(settings: &str) -> Self {
        let dir = programs::new_empty_directory(next_number());
        let [monitor, first, second] = [(); 3].map(|()| programs::free_port());
        let mut formation = Self {
            dir,
            monitor: Node { name: "monitor", port: monitor, keeper: None },
            nodes: [
                Node { name: "node1", port: first, keeper: None },
                Node { name: "node2", port: second, keeper: None },
            ],
        };
        formation.create(&["create", "monitor"], &formation.monitor);
        formation.configure("monitor", &format!("{SMALL}{IMPATIENT}"));
        formation.monitor.keeper = Some(formation.keeper("monitor"));
        wait_until("the monitor", || formation.try_monitor().is_ok());
        for index in 0..2 {
            formation.create_node(index);
            if index == 0 {
                // The second node gets a copy of the first one's settings.
                formation.configure("node1", &format!("{SMALL}{settings}"));
            }
            formation.restart(index);
        }
        formation.await_states(["primary", "secondary"]);
        formation
    }

    /// A connection string for whichever of the nodes is the primary.
    pub fn connection_string(&self, database: &str) -> String {
        let [first, second] = [self.nodes[0].port, self.nodes[1].port];
        format!(
            "host=127.0.0.1,127.0.0.1 port={first},{second} user={SUPERUSER} dbname={database} \
             target_session_attrs=read-write connect_timeout=5"
        )
    }

    /// A session on the primary; an error while there is none.
    pub fn try_primary(&self, database: &str) -> Result<Client, postgres::Error> {
        let config: Config = self.connection_string(database).parse()?;
        config.connect(NoTls)
    }

    pub fn primary(&self, database: &str) -> Client {
        self.try_primary(database).expect("the primary takes connections")
    }

    /// Returns when a node takes connections as the primary, and how long that took.
    pub fn await_primary(&self, index: usize) -> Duration {
        let port = i32::from(self.nodes[index].port);
        wait_until("another primary", || {
            let client = self.try_primary("postgres");
            client.is_ok_and(|mut client| ask::<i32>(&mut client, "SELECT inet_server_port()", &[]) == port)
        })
    }

    /// A session on one of the nodes, whatever its state.
    pub fn node(&self, index: usize, database: &str) -> Client {
        self.try_node(&self.nodes[index], database, SUPERUSER).expect("the node takes connections")
    }

    /// `kill -9` of a node's keeper and postmaster at one moment.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].keeper = None;
    }

    /// Starts a node's keeper, which starts the server, as a machine that boots would.
    pub fn restart(&mut self, index: usize) {
        self.nodes[index].keeper = Some(self.keeper(self.nodes[index].name));
    }

    /// Returns when the monitor has these states from the nodes and wants no others.
    pub fn await_states(&self, states: [&str; 2]) {
        let wanted = states.join(" ");
        let mut client = self.try_monitor().expect("the monitor takes connections");
        let sql = "SELECT coalesce(string_agg(reportedstate::text, ' ' ORDER BY nodename)
                                       FILTER (WHERE reportedstate = goalstate), '')
                   FROM pgautofailover.node";
        wait_until(&format!("the nodes to be {wanted}"), || ask::<String>(&mut client, sql, &[]) == wanted);
    }

    fn try_monitor(&self) -> Result<Client, postgres::Error> {
        self.try_node(&self.monitor, MONITOR_DATABASE, KEEPER_ROLE)
    }

    fn try_node(&self, node: &Node, database: &str, role: &str) -> Result<Client, postgres::Error> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(node.port).user(role).dbname(database);
        config.connect(NoTls)
    }

    fn create_node(&self, index: usize) {
        let port = self.monitor.port;
        let monitor = format!("postgres://{KEEPER_ROLE}@127.0.0.1:{port}/{MONITOR_DATABASE}?sslmode=disable");
        let node = &self.nodes[index];
        self.create(&["create", "postgres", "--name", node.name, "--monitor", &monitor], node);
    }

    fn create(&self, arguments: &[&str], node: &Node) {
        let mut create = self.pg_autoctl();
        create.args(arguments).args(["--hostname", "127.0.0.1", "--auth", "trust", "--no-ssl", "--pgdata"]);
        programs::run_program(
            create.arg(self.dir.join(node.name)).args(["--pgport", &node.port.to_string()]),
        );
    }

    fn configure(&self, node: &str, lines: &str) {
        let path = self.dir.join(node).join("postgresql.conf");
        let mut file = fs::OpenOptions::new().append(true).open(path).expect("postgresql.conf can be opened");
        file.write_all(lines.as_bytes()).expect("postgresql.conf can be written");
    }

    /// A keeper, in a process group that its server's postmaster belongs to, too.
    fn keeper(&self, node: &str) -> Leashed {
        let data = self.dir.join(node);
        let log = programs::open_log(&self.log(node));
        let shell = self.as_operator(Path::new("sh"));
        Leashed::start(shell, &["pg_autoctl", "run", "--pgdata", &data.display().to_string()], log)
    }

    fn pg_autoctl(&self) -> Command {
        self.as_operator(Path::new("pg_autoctl"))
    }

    /// A command whose files and sockets are in the formation's directory.
    fn as_operator(&self, program: &Path) -> Command {
        let dir = self.dir.display();
        let path = format!("PATH={}:/usr/bin:/bin", programs::bindir().display());
        let mut command = programs::as_server_user(Path::new("env"));
        command.args(["-i", &path, "LC_ALL=C.UTF-8"]);
        for variable in
            ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "PG_REGRESS_SOCK_DIR", "PGHOST"]
        {
            command.arg(format!("{variable}={dir}"));
        }
        command.arg(program);
        command
    }

    fn log(&self, node: &str) -> PathBuf {
        self.dir.join(format!("{node}.log"))
    }
}

impl Drop for Formation {
    fn drop(&mut self) {
        for node in ["monitor", "node1", "node2"] {
            programs::print_tail(node, &self.log(node), &[]);
        }
        for node in self.nodes.iter_mut().chain([&mut self.monitor]) {
            node.keeper = None;
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
