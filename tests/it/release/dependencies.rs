//! What is installed for whom: `scripts/install-deps` and the Makefile, asked what they would do. No server is needed.

use super::root;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::thread;

#[test]
fn who_only_builds_gets_what_compiles_and_nothing_else() {
    let needed = BTreeSet::from(["gcc", "libc6-dev", "clang"].map(String::from));
    assert_eq!(missing_for("build"), needed);
    assert!(missing_for("demo").is_superset(&needed), "the demo is built, too");
}

#[test]
fn every_group_that_the_makefile_asks_for_exists() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let asked = makefile.split("$(call needs,").skip(1).filter_map(|rest| rest.split_once(')'));
    let groups: BTreeSet<&str> = asked.flat_map(|(groups, _)| groups.split(' ')).collect();
    assert!(groups.len() > 5, "{groups:?}");
    for group in groups {
        missing_for(group);
    }
}

#[test]
fn whoever_has_all_tools_is_not_asked_for_apt() {
    let does = make("do-install");
    assert!(does.contains("cargo build") && does.contains("install -D"), "{does}");
    assert!(!does.contains("install-deps") && !does.contains("apt-get"), "{does}");
    assert!(make("build --always-make").contains("scripts/install-deps build"));
}

/// The packages that a group would install on a machine that has none, but Rust and a PostgreSQL.
fn missing_for(group: &str) -> BTreeSet<String> {
    let test = (std::process::id(), thread::current().id());
    let empty = env::temp_dir().join(format!("rgh-dependencies-{test:?}"));
    fs::create_dir_all(&empty).unwrap();
    let query = empty.join("dpkg-query");
    fs::write(&query, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&query, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", empty.display(), env::var("PATH").unwrap());
    let mut command = Command::new(root().join("scripts/install-deps"));
    let said = output(command.args(["--dry-run", group]).env("PATH", path));
    fs::remove_dir_all(&empty).unwrap();
    let packages =
        said.lines().filter_map(|line| line.strip_prefix("apt-get install ")?.strip_suffix(" ..."));
    packages.flat_map(|packages| packages.split(' ')).map(String::from).collect()
}

/// What make would run.
fn make(arguments: &str) -> String {
    let mut command = Command::new("make");
    output(command.arg("-n").args(arguments.split(' ')).current_dir(root()).env_remove("MAKEFLAGS"))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
