//! Finds and runs the server's programs (`PG_CONFIG` picks the installation), and keeps the directory of this
//! test process. PostgreSQL refuses to run as root: for root everything of the server runs as user postgres.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const SERVER_USER: &str = "postgres";

/// A socket's whole path must fit into 107 bytes; this leaves room for its name.
const LONGEST_SOCKET_DIRECTORY: usize = 85;

/// Runs a program to its end.
///
/// # Panics
/// With what the program said, when it fails.
pub fn run_program(command: &mut Command) -> String {
    let mut answer = String::new();
    assert!(try_program(command, &mut answer), "{command:?} failed: {answer}");
    answer
}

/// Runs a program to its end, puts what it said into `answer` and tells whether it succeeded.
pub fn try_program(command: &mut Command, answer: &mut String) -> bool {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    *answer = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
    output.status.success()
}

/// One of the server's programs, to be run as the user that the server runs as.
pub fn server_program(name: &str) -> Command {
    as_server_user(&bindir().join(name))
}

pub fn kill(pid: i32) {
    run_program(Command::new("kill").arg("-9").arg(pid.to_string()));
}

/// Sends a process any other signal, by its name.
pub fn signal(pid: i32, name: &str) {
    run_program(Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()));
}

pub fn is_alive(pid: i32) -> bool {
    try_program(Command::new("kill").arg("-0").arg(pid.to_string()), &mut String::new())
}

/// The directory of server `number`, its `data` a fresh copy of the template.
pub fn new_server_directory(number: usize) -> PathBuf {
    let workspace = workspace();
    let dir = workspace.dir.join(number.to_string());
    make_directory(&dir);
    run_program(
        as_server_user(Path::new("cp")).arg("-a").arg(workspace.dir.join("template")).arg(dir.join("data")),
    );
    dir
}

/// The directory of server `number`, for a program that makes its `data` itself.
pub fn new_empty_directory(number: usize) -> PathBuf {
    let dir = workspace().dir.join(number.to_string());
    make_directory(&dir);
    dir
}

/// What this test process owns on disk: the template, made once because initdb takes seconds, and the
/// servers.
struct Workspace {
    dir: PathBuf,
    _janitor: Child,
}

fn workspace() -> &'static Workspace {
    static WORKSPACE: OnceLock<Workspace> = OnceLock::new();
    WORKSPACE.get_or_init(|| {
        let dir = env::temp_dir().join(format!("rgh-{}", std::process::id()));
        assert!(
            dir.as_os_str().len() < LONGEST_SOCKET_DIRECTORY,
            "too long for a socket, set TMPDIR: {dir:?}"
        );
        make_directory(&dir);
        let janitor = start_janitor(&dir);
        let mut initdb = server_program("initdb");
        initdb.args(["-U", SERVER_USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]);
        run_program(initdb.arg(dir.join("template")));
        Workspace { dir, _janitor: janitor }
    })
}

/// A shell that waits for the end of this process, however it ends, then stops the servers that are left.
///
/// Its standard input is a pipe that only this process holds open. Values in statics are never dropped, and a
/// killed process drops nothing: without it servers would stay behind.
fn start_janitor(dir: &Path) -> Child {
    let script = r#"trap '' HUP INT TERM
        cat >/dev/null
        dir=$1; shift
        for data in "$dir"/*/data; do
            [ -f "$data/postmaster.pid" ] && "$@" stop -w -m immediate -D "$data" </dev/null
        done
        rm -rf "$dir""#;
    let pg_ctl = server_program("pg_ctl");
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "janitor"]).arg(dir).arg(pg_ctl.get_program()).args(pg_ctl.get_args());
    shell.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.spawn().expect("a shell can be started")
}

/// A program that does not outlive this process, however that ends, nor the handle: with either it is killed, and
/// with it all others of its process group.
pub struct Leashed {
    /// A shell that waits for the end of its standard input, a pipe that only this process holds open.
    shell: Child,
}

impl Leashed {
    /// `shell` is a command that runs `sh` as the user who is to run the program.
    pub fn start(mut shell: Command, program: &[&str], log: Stdio) -> Self {
        let script = r#"trap '' HUP INT TERM
            setsid "$@" </dev/null 2>&1 &
            cat >/dev/null
            kill -s KILL -- "-$!"
            wait"#;
        shell.args(["-c", script, "leash"]).args(program);
        shell.stdin(Stdio::piped()).stdout(log).stderr(Stdio::null());
        Self { shell: shell.spawn().expect("a shell can be started") }
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

fn make_directory(dir: &Path) {
    fs::create_dir_all(dir).unwrap_or_else(|error| panic!("{dir:?} cannot be made: {error}"));
    if is_root() {
        run_program(Command::new("chown").arg(SERVER_USER).arg(dir));
    }
}

/// The same, with variables in its environment.
pub fn server_program_with(environment: &[(&str, &str)], name: &str) -> Command {
    let mut command = as_server_user(Path::new("env"));
    command.args(environment.iter().map(|(name, value)| format!("{name}={value}"))).arg(bindir().join(name));
    command
}

/// A free port of the loopback interface, for a server that is started later, and no other caller gets it.
///
/// The kernel gives connections ports from 32768 on, so none of them takes it meanwhile; other test processes begin to
/// look elsewhere.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let candidate = (std::process::id() * 8 + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let port = 20_000 + u16::try_from(candidate).expect("it is less than ten thousand");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

pub(super) fn as_server_user(program: &Path) -> Command {
    let mut command = if is_root() { Command::new("sudo") } else { Command::new(program) };
    if is_root() {
        command.args(["-n", "-u", SERVER_USER, "--"]).arg(program);
    }
    // The server's user may not be allowed to look into the directory that the tests are started in.
    command.current_dir("/");
    // With it pgrx adds a backtrace to the details of errors.
    command.env_remove("RUST_BACKTRACE");
    command
}

fn is_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| run_program(Command::new("id").arg("-u")) == "0")
}

pub(super) fn bindir() -> &'static Path {
    static BINDIR: OnceLock<PathBuf> = OnceLock::new();
    BINDIR.get_or_init(|| bindir_of(&env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".into())))
}

/// Whether a library is installed beside the server.
pub fn has_library(name: &str) -> bool {
    let pg_config = env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".into());
    let directory = PathBuf::from(run_program(Command::new(pg_config).arg("--pkglibdir")));
    directory.join(format!("{name}.so")).exists()
}

/// Where the programs of another installation are.
pub(super) fn bindir_of(pg_config: &str) -> PathBuf {
    run_program(Command::new(pg_config).arg("--bindir")).into()
}
