//! Finds and runs the server's programs (`PG_CONFIG` picks the installation), and keeps the directory of this
//! test process. PostgreSQL refuses to run as root: for root everything of the server runs as user postgres.

use super::wait_until;
use std::env;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

const SERVER_USER: &str = "postgres";

/// A socket's whole path must fit into 107 bytes; this leaves room for its name.
const LONGEST_SOCKET_DIRECTORY: usize = 85;

/// How many lines of a log a failure shows.
const TAIL: usize = 150;

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

/// The postmaster of a server with this directory, if it runs: a file that a killed one left behind may name anybody's
/// process by now.
pub fn postmaster(data: &Path) -> Option<i32> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = file.lines().next()?.trim().parse().ok()?;
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    command.contains(&data.display().to_string()).then_some(pid)
}

/// The processes that it started and that have not ended.
pub fn children_of(pid: i32) -> Vec<i32> {
    let mut list = String::new();
    // It fails when there are none.
    try_program(Command::new("ps").args(["-o", "pid=,stat=", "--ppid", &pid.to_string()]), &mut list);
    let alive = list.lines().filter(|line| !line.contains('Z'));
    alive.filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// Processes that stand still until this is dropped. Those that are gone by then do not matter.
pub struct Stopped(Vec<i32>);

impl Stopped {
    pub fn new(pids: Vec<i32>) -> Self {
        for pid in &pids {
            try_signal(*pid, "STOP");
        }
        Self(pids)
    }

    /// A process and its children, itself first: then it starts no others.
    pub fn with_children(pid: i32) -> Self {
        let mut stopped = Self::new(vec![pid]);
        stopped.0.append(&mut Self::new(children_of(pid)).0);
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in self.0.iter().rev() {
            try_signal(*pid, "CONT");
        }
    }
}

/// Whether there was still a process to get the signal.
fn try_signal(pid: i32, name: &str) -> bool {
    try_program(Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()), &mut String::new())
}

/// `kill -9` of a process and its children, itself first. Returns when all are gone.
pub fn kill_with_children(pid: i32) {
    let processes = [vec![pid], children_of(pid)].concat();
    for pid in &processes {
        try_signal(*pid, "KILL");
    }
    wait_until("killed processes to be gone", || !processes.iter().any(|pid| is_alive(*pid)));
}

pub fn is_alive(pid: i32) -> bool {
    try_program(Command::new("kill").arg("-0").arg(pid.to_string()), &mut String::new())
}

/// The end of a log, without the lines that have one of the texts in `noise`.
pub fn tail(log: &Path, noise: &[&str]) -> String {
    let log = fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> =
        log.lines().filter(|line| !noise.iter().any(|noise| line.contains(noise))).collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// Shows the end of a log when a test fails.
pub fn print_tail(name: &str, log: &Path, noise: &[&str]) {
    if std::thread::panicking() {
        eprintln!("--- end of the log of {name} ---\n{}\n---", tail(log, noise));
    }
}

/// A log to write to; what is in it stays.
pub fn open_log(path: &Path) -> Stdio {
    fs::OpenOptions::new().create(true).append(true).open(path).expect("a log can be opened").into()
}

/// A library from its source in the directory of this file, compiled for the server, once in this process.
pub fn compile(name: &str) -> PathBuf {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let library = workspace().dir.join(format!("{name}.so"));
    if !library.exists() {
        let source = format!("{}/tests/it/cluster/{name}.c", env!("CARGO_MANIFEST_DIR"));
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-I", &pg_config("--includedir-server"), "-o"]);
        run_program(compiler.arg(&library).arg(source));
    }
    library
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
        // The variable is that of `make coverage`.
        command.args(["-n", "--preserve-env=LLVM_PROFILE_FILE", "-u", SERVER_USER, "--"]).arg(program);
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

/// Where the server's programs are.
pub fn bindir() -> &'static Path {
    static BINDIR: OnceLock<PathBuf> = OnceLock::new();
    BINDIR.get_or_init(|| pg_config("--bindir").into())
}

/// What the server's `pg_config` answers.
fn pg_config(what: &str) -> String {
    let program = env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".into());
    run_program(Command::new(program).arg(what))
}

/// Whether a library is installed beside the server.
pub fn has_library(name: &str) -> bool {
    Path::new(&pg_config("--pkglibdir")).join(format!("{name}.so")).exists()
}

/// Where the programs of another installation are.
pub(super) fn bindir_of(pg_config: &str) -> PathBuf {
    run_program(Command::new(pg_config).arg("--bindir")).into()
}
