//! Which PostgreSQL is built for: `scripts/pg-config`, with made-up installations. No server is needed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn the_program_in_the_path_comes_before_newer_ones_of_debian() {
    let machine = Machine::new("path");
    machine.installs("debian/17", "PostgreSQL 17.5", true);
    let own = machine.installs("own", "PostgreSQL 16.9 (own build)", true);
    assert_eq!(machine.chooses("own/bin", None), Ok(own));
}

#[test]
fn without_headers_of_the_server_the_program_in_the_path_does_not_count() {
    let machine = Machine::new("headers");
    machine.installs("client", "PostgreSQL 18.1", false);
    machine.installs("debian/15", "PostgreSQL 15.13", true);
    let newest = machine.installs("debian/17", "PostgreSQL 17.5", true);
    machine.installs("debian/18", "PostgreSQL 18.1", false);
    assert_eq!(machine.chooses("client/bin", None), Ok(newest));
}

#[test]
fn a_version_that_is_not_supported_does_not_count() {
    let machine = Machine::new("version");
    machine.installs("own", "PostgreSQL 14.18", true);
    machine.installs("debian/19", "PostgreSQL 19beta1", true);
    let good = machine.installs("debian/15", "PostgreSQL 15.13", true);
    machine.installs("debian/9.6", "PostgreSQL 9.6.24", true);
    assert_eq!(machine.chooses("own/bin", None), Ok(good));
}

#[test]
fn the_one_of_the_caller_is_taken_or_refused_but_never_replaced() {
    let machine = Machine::new("caller");
    machine.installs("debian/17", "PostgreSQL 17.5", true);
    let given = machine.installs("given", "PostgreSQL 18.1", true);
    assert_eq!(machine.chooses("debian/17/bin", Some(&given)), Ok(given));

    let bare = machine.installs("bare", "PostgreSQL 18.1", false);
    let refused = machine.chooses("debian/17/bin", Some(&bare)).unwrap_err();
    assert!(refused.contains("Debian has them in postgresql-server-dev-18"), "{refused}");
    let old = machine.installs("old", "PostgreSQL 14.18", true);
    let refused = machine.chooses("debian/17/bin", Some(&old)).unwrap_err();
    assert!(
        refused.contains("is of PostgreSQL 14.18; rgrid_heartbeat is for PostgreSQL 15 to 18"),
        "{refused}"
    );
    let refused = machine.chooses("debian/17/bin", Some("nowhere/pg_config")).unwrap_err();
    assert!(refused.contains("there is no program nowhere/pg_config"), "{refused}");
    let refused = machine.chooses("debian/17/bin", Some("/bin/true")).unwrap_err();
    assert!(refused.contains("/bin/true is no pg_config"), "{refused}");
}

#[test]
fn the_program_of_debian_in_the_path_stands_for_the_version_that_it_calls() {
    let machine = Machine::new("wrapper");
    let newest = machine.installs("debian/17", "PostgreSQL 17.5", true);
    machine.writes_program("wrapper/bin/pg_config", &format!("exec {newest} \"$@\""));
    assert_eq!(machine.chooses("wrapper/bin", None), Ok(newest));
}

#[test]
fn where_there_is_none_it_says_how_to_name_one() {
    let machine = Machine::new("none");
    machine.installs("client", "PostgreSQL 17.5", false);
    let refused = machine.chooses("client/bin", None).unwrap_err();
    assert!(refused.contains("say PG_CONFIG=/path/to/pg_config"), "{refused}");
}

/// A made-up machine, whose Debian keeps its PostgreSQLs in the directory `debian`.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("rgh-pg-config-{name}-{}", std::process::id()));
        fs::create_dir_all(root.join("debian")).unwrap();
        Self(root)
    }

    /// An installation in a directory of its own, with the server's headers or without them; its pg_config.
    fn installs(&self, directory: &str, version: &str, headers: bool) -> String {
        let prefix = self.0.join(directory);
        let include = prefix.join("include/server");
        fs::create_dir_all(&include).unwrap();
        if headers {
            fs::write(include.join("postgres.h"), "").unwrap();
        }
        let answers = [("version", version.to_owned()), ("bindir", shown(&prefix.join("bin")))];
        let answers = answers.into_iter().chain([("includedir-server", shown(&include))]);
        let cases: String = answers.map(|(asked, answer)| format!("--{asked}) echo '{answer}';; ")).collect();
        self.writes_program(&format!("{directory}/bin/pg_config"), &format!("case $1 in {cases} esac"))
    }

    fn writes_program(&self, path: &str, text: &str) -> String {
        let program = self.0.join(path);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        shown(&program)
    }

    /// What is chosen with a directory first in the path, and with what the caller says, or why nothing is.
    fn chooses(&self, in_path: &str, given: Option<&str>) -> Result<String, String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/pg-config");
        let mut command = Command::new(script);
        command.arg(self.0.join("debian")).env_remove("PG_CONFIG");
        // Without the machine's own pg_config in /usr/bin, and with what the script calls.
        let tools = self.0.join("tools");
        fs::create_dir_all(&tools).unwrap();
        for tool in ["bash", "env", "realpath", "sort", "sh", "true"] {
            let _ = std::os::unix::fs::symlink(Path::new("/usr/bin").join(tool), tools.join(tool));
        }
        command.env("PATH", format!("{}:{}", shown(&self.0.join(in_path)), shown(&tools)));
        if let Some(given) = given {
            command.env("PG_CONFIG", given);
        }
        let output = command.output().expect("the script can be run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
