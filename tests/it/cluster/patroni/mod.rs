//! Three servers under Patroni: etcd, an agent for each server, HAProxy in front of them, and what becomes of them. All
//! listen on TCP ports of the loopback interface and have their files in directories of their own.
//!
//! `configuration` writes their files, `node` is one server with its agent.

mod configuration;
mod node;

use super::database::{ask, run};
use super::programs::{self, Leashed, Stopped};
use super::rgrid::executions_table;
use super::server::{SUPERUSER, next_number};
use super::{http_request, wait_within};
use node::Node;
use postgres::{Client, Config, NoTls};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A failover takes a `ttl` and an election, and a node that comes back may have to be copied anew: far above that.
const DEADLINE: Duration = Duration::from_secs(100);

/// The sessions of standbys. Those of `pg_basebackup`, with which Patroni copies one, are "streaming", too.
const STANDBYS: &str = "pg_stat_replication WHERE application_name LIKE 'node_'";

/// What an agent says each second while all is well.
const ROUTINE: [&str; 2] = ["INFO: no action", "INFO: Lock owner"];

pub struct Patroni {
    /// The files of etcd and HAProxy, all logs, and a copy of the programs that the server's user may read.
    dir: PathBuf,
    nodes: [Node; 3],
    etcd_ports: [u16; 2],
    etcd: Option<Leashed>,
    haproxy_port: u16,
    haproxy: Option<Leashed>,
}

impl Patroni {
    /// Three nodes with the dynamic configuration that docs/patroni.md shows, and then `parameters` of the server, such
    /// as `rgrid_heartbeat.stale_threshold: 8s`. The first is the primary, has the extension and RGrid's `executions`.
    pub fn start(parameters: &[&str]) -> Self {
        let patroni = Self::start_with(&configuration::documented_and(parameters));
        let mut client = patroni.primary();
        run(&mut client, "CREATE EXTENSION rgrid_heartbeat");
        executions_table(&mut client);
        patroni
    }

    /// The same without anything of this extension.
    pub fn start_bare() -> Self {
        Self::start_with(&configuration::without_extension())
    }

    fn start_with(dynamic: &str) -> Self {
        let dir = programs::new_empty_directory(next_number());
        configuration::copy_programs(&dir);
        let mut patroni = Self {
            nodes: ["node1", "node2", "node3"].map(|name| Node::new(&dir, name)),
            etcd_ports: [(); 2].map(|()| programs::free_port()),
            haproxy_port: programs::free_port(),
            dir,
            etcd: None,
            haproxy: None,
        };
        patroni.start_etcd();
        for index in 0..3 {
            configuration::write_agent(&patroni.nodes[index], patroni.etcd_ports[0], dynamic);
            patroni.nodes[index].start_agent();
            if index == 0 {
                patroni.await_primary(0);
            }
        }
        configuration::write_haproxy(&patroni.dir.join("haproxy.cfg"), &patroni.nodes, patroni.haproxy_port);
        patroni.start_haproxy();
        patroni.await_members();
        patroni.await_followers();
        patroni.await_haproxy();
        patroni
    }

    /// `patronictl` with a command of its own; what it says.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut ctl = configuration::command(&self.dir, "patronictl");
        programs::run_program(ctl.arg("-c").arg(self.nodes[0].configuration()).args(arguments))
    }

    /// `patronictl edit-config`: Patroni's dynamic configuration, which goes to all nodes.
    pub fn configure(&self, changes: &[&str]) {
        self.ctl(&[&["edit-config", "--force", "--quiet"], changes].concat());
    }

    /// `patronictl edit-config --apply` with the file that the documents show, and `patronictl restart` of all nodes
    /// when all of them want one.
    pub fn apply_documented_configuration(&self) {
        self.await_members();
        self.configure(&["--apply", &configuration::documented_file(&self.dir)]);
        wait_within(DEADLINE, "all nodes to want a restart", || {
            self.nodes.iter().all(|node| node.get("/patroni").1.contains("\"pending_restart\": true"))
        });
        self.ctl(&["restart", "--force", "rgrid"]);
        self.await_followers();
    }

    /// Returns when each node says that it runs.
    pub fn await_members(&self) {
        wait_within(DEADLINE, "each node to run", || {
            self.nodes.iter().all(|node| node.get("/patroni").1.contains("\"state\": \"running\""))
        });
    }

    /// `patronictl switchover` to a node. Returns when it is the primary and the others follow it.
    pub fn switch_over_to(&self, index: usize) {
        let primary = self.primary_index().expect("there is a primary");
        let [from, to] = [primary, index].map(|index| self.nodes[index].name);
        self.ctl(&["switchover", "--force", "--leader", from, "--candidate", to, "rgrid"]);
        self.await_primary(index);
        self.await_followers();
    }

    /// `patronictl reinit`: throws a standby's files away and copies the primary. Returns when it follows again.
    pub fn reinitialize(&self, index: usize) {
        let age = || {
            fs::metadata(self.nodes[index].dir.join("data/PG_VERSION")).and_then(|file| file.modified()).ok()
        };
        let before = age();
        self.ctl(&["reinit", "--force", "rgrid", self.nodes[index].name]);
        wait_within(DEADLINE, "the files of the node to be new ones", || age() > before);
        self.await_members();
        self.await_followers();
    }

    /// Returns when both standbys have replayed what the primary has written until now.
    pub fn await_replay(&self) {
        let mut client = self.primary();
        let written: String = ask(&mut client, "SELECT pg_current_wal_insert_lsn()::text", &[]);
        let sql = format!("SELECT count(*) FROM {STANDBYS} AND replay_lsn >= $1::text::pg_lsn");
        wait_within(DEADLINE, "both standbys to replay", || ask::<i64>(&mut client, &sql, &[&written]) == 2);
    }

    /// From now on a primary sends nothing to its standbys, until the handle is dropped or the server is killed.
    pub fn stop_replication(&self, index: usize) -> Stopped {
        let sql = format!("SELECT array_agg(pid) FROM {STANDBYS}");
        Stopped::new(ask(&mut self.node(index), &sql, &[]))
    }

    /// Which node says of itself that it is the primary and has the leader's lock.
    pub fn primary_index(&self) -> Option<usize> {
        self.nodes.iter().position(Node::is_primary)
    }

    /// Returns when this node is the primary and writes, and how long that took.
    pub fn await_primary(&self, index: usize) -> Duration {
        let node = &self.nodes[index];
        wait_within(DEADLINE, &format!("{} to be the primary", node.name), || {
            node.is_primary() && self.try_node(index).is_ok_and(|mut client| is_writable(&mut client))
        })
    }

    /// Returns when a node is the primary and writes; which one.
    pub fn await_any_primary(&self) -> usize {
        self.await_other_primary(usize::MAX)
    }

    /// The same, and it has to be another node than this one.
    pub fn await_other_primary(&self, index: usize) -> usize {
        let others = || (0..3).filter(move |other| *other != index);
        let mut next = None;
        wait_within(DEADLINE, "another primary", || {
            next = others().find(|other| self.nodes[*other].is_primary());
            let client = next.map(|next| self.try_node(next));
            client.is_some_and(|client| client.is_ok_and(|mut client| is_writable(&mut client)))
        });
        next.expect("it was awaited")
    }

    /// Returns when there is a primary and two nodes stream from it.
    pub fn await_followers(&self) {
        wait_within(DEADLINE, "two standbys that stream from the primary", || {
            let client = self.primary_index().map(|index| self.try_node(index));
            let sql = format!("SELECT count(*) FROM {STANDBYS} AND state = 'streaming'");
            client.is_some_and(|client| {
                client.is_ok_and(|mut client| {
                    client.query_one(&sql, &[]).is_ok_and(|row| row.get::<_, i64>(0) == 2)
                })
            })
        });
    }

    /// Returns when HAProxy lets sessions through to the primary.
    pub fn await_haproxy(&self) {
        let config: Config = self.through_haproxy().parse().expect("it is a connection string");
        wait_within(DEADLINE, "HAProxy to know the primary", || {
            config.connect(NoTls).is_ok_and(|mut client| is_writable(&mut client))
        });
    }

    /// A connection string that names HAProxy, which knows the primary.
    pub fn through_haproxy(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user={SUPERUSER} dbname=postgres connect_timeout=5",
            self.haproxy_port
        )
    }

    /// A connection string that names all nodes and asks for the primary.
    pub fn of_all_nodes(&self) -> String {
        let ports: Vec<String> = self.nodes.iter().map(|node| node.port.to_string()).collect();
        format!(
            "host=127.0.0.1,127.0.0.1,127.0.0.1 port={} user={SUPERUSER} dbname=postgres \
             target_session_attrs=read-write connect_timeout=2",
            ports.join(",")
        )
    }

    /// A session on a node, whatever its state.
    pub fn node(&self, index: usize) -> Client {
        self.try_node(index).expect("the node takes connections")
    }

    pub fn try_node(&self, index: usize) -> Result<Client, postgres::Error> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.nodes[index].port).user(SUPERUSER).dbname("postgres");
        config.connect_timeout(Duration::from_secs(2)).connect(NoTls)
    }

    /// A session on the primary.
    pub fn primary(&self) -> Client {
        self.node(self.primary_index().expect("there is a primary"))
    }

    /// The status with which a node's agent answers a request.
    pub fn status_of(&self, index: usize, path: &str) -> u16 {
        self.nodes[index].get(path).0
    }

    /// `kill -9` of a node's postmaster and all its children, while its agent lives on.
    pub fn kill_server(&self, index: usize) {
        self.nodes[index].kill_server();
    }

    /// `kill -9` of a node's agent, while its server lives on.
    pub fn kill_agent(&mut self, index: usize) {
        self.nodes[index].agent = None;
    }

    /// `kill -9` of both: a machine that loses its power.
    pub fn kill_node(&mut self, index: usize) {
        self.kill_agent(index);
        self.kill_server(index);
    }

    /// Starts a node's agent, as a machine that boots would.
    pub fn start_agent(&mut self, index: usize) {
        self.nodes[index].start_agent();
    }

    /// Stops all processes of a node, as those of a virtual machine that is suspended, until the handle is dropped.
    ///
    /// The agent has just ended a round. That of Debian 12 may take the leader's lock back when it goes on, if it is
    /// stopped between reading who has it and renewing it, and sometimes otherwise.
    pub fn freeze(&self, index: usize) -> [Stopped; 2] {
        let rounds = || self.log(index).matches("INFO: no action").count();
        let before = rounds();
        wait_within(DEADLINE, "the agent to end a round", || rounds() > before);
        let agent = Stopped::new(vec![self.nodes[index].agent_process()]);
        [agent, Stopped::with_children(self.postmaster(index).expect("the server runs"))]
    }

    /// The process of the postmaster of a node.
    pub fn postmaster(&self, index: usize) -> Option<i32> {
        self.nodes[index].postmaster()
    }

    pub fn stop_etcd(&mut self) {
        self.etcd = None;
    }

    /// Starts etcd with what it has stored.
    pub fn start_etcd(&mut self) {
        let [client, peer] = self.etcd_ports.map(|port| format!("http://127.0.0.1:{port}"));
        let data = self.dir.join("etcd").display().to_string();
        let cluster = format!("default={peer}");
        let shell = configuration::command(&self.dir, "sh");
        let arguments = [
            ["--data-dir", &data],
            ["--listen-client-urls", &client],
            ["--advertise-client-urls", &client],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", &cluster],
        ];
        let program = [&["etcd"], arguments.as_flattened()].concat();
        self.etcd = Some(Leashed::start(shell, &program, programs::open_log(&node::log(&self.dir, "etcd"))));
        let port = self.etcd_ports[0];
        wait_within(DEADLINE, "etcd", || http_request(port, "GET", "/health").1.contains("\"true\""));
    }

    fn start_haproxy(&mut self) {
        let file = self.dir.join("haproxy.cfg").display().to_string();
        self.haproxy = Some(node::start(&self.dir, "haproxy", &["haproxy", "-db", "-f", &file]));
    }

    /// The log of an agent, which has its server's, too.
    pub fn log(&self, index: usize) -> String {
        let log = fs::read(node::log(&self.dir, self.nodes[index].name)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        for name in ["node1", "node2", "node3", "etcd", "haproxy"] {
            programs::print_tail(name, &node::log(&self.dir, name), &ROUTINE);
        }
        for index in 0..3 {
            self.kill_node(index);
            let _ = fs::remove_dir_all(&self.nodes[index].dir);
        }
        (self.haproxy, self.etcd) = (None, None);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Whether a session is on a server that takes writes.
fn is_writable(client: &mut Client) -> bool {
    client.query_one("SELECT NOT pg_is_in_recovery()", &[]).is_ok_and(|row| row.get(0))
}
