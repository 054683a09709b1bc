//! `scripts/release-check`: it passes for this tree, and says what is missing in another one. Needs no server.
//!
//! A database somewhere has the objects that a released script made, and updates start from exactly those. So these
//! scripts are kept as they were, and ways lead from each of them to this version.

use super::root;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The script's exit code and what it prints of a tree.
fn check(tree: &Path, options: &[&str]) -> (bool, String) {
    let output = Command::new(root().join("scripts/release-check")).args(options).arg(tree).output();
    let output = output.expect("the script can be run");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn missing(tree: &Path) -> Vec<String> {
    let (passed, answer) = check(tree, &["--before-release"]);
    let lines = answer.lines().filter_map(|line| line.strip_prefix("missing  "));
    let missing: Vec<String> = lines.map(str::to_owned).collect();
    assert_eq!(passed, missing.is_empty(), "{answer}");
    missing
}

#[test]
fn nothing_is_missing_between_releases() {
    let (passed, answer) = check(root(), &["--before-release"]);
    assert!(passed, "{answer}");
    assert!(answer.lines().count() > 5 && answer.lines().all(|line| line.starts_with("ok ")), "{answer}");
}

#[test]
fn what_is_missing_for_a_release_is_said() {
    let version = env!("CARGO_PKG_VERSION");
    let script = |from: &str| format!("sql/rgrid_heartbeat--{from}.sql");
    let cases: [(&str, &str, Change<'_>); 8] = [
        ("META.json", "every file states", Some(("\"version\": \"0", "\"version\": \"9"))),
        ("clients/node/package.json", "every file states", Some((version, "9.9.9"))),
        ("README.md", "name no other version", Some(("", "rgrid_heartbeat 9.9.9\n"))),
        ("docs/README.md", "META.json names files", None),
        (&script(version), "sql/ has the script", None),
        ("sql/archive/rgrid_heartbeat--0.1.0.sql", "unchanged", Some(("", "-- edited\n"))),
        ("sql/rgrid_heartbeat--0.1.0--0.2.0.sql", "unchanged", Some(("", "-- edited\n"))),
        ("sql/archive/SHA256SUMS", "unchanged", Some(("archive/rgrid_heartbeat--0.2.0", "archive/other"))),
    ];
    for (path, said, change) in cases {
        let tree = Tree::new();
        assert_eq!(missing(&tree.0), [""; 0]);
        tree.change(path, change);
        let missing = missing(&tree.0);
        assert!(missing.len() == 1 && missing[0].contains(said), "{path}: {missing:?}");
    }
    let tree = Tree::new();
    tree.change("sql/rgrid_heartbeat--0.1.0--0.2.0.sql", None);
    let missing = missing(&tree.0);
    assert!(missing.iter().any(|item| item.starts_with("update scripts lead")), "{missing:?}");
}

#[test]
fn a_release_needs_changes_a_date_and_a_clean_checkout() {
    let tree = Tree::new();
    tree.change("CHANGELOG.md", Some(("\n## [", "\n## [9.9.9] - Unreleased\n## [")));
    tree.change("Cargo.toml", Some((env!("CARGO_PKG_VERSION"), "9.9.9")));
    let (passed, answer) = check(&tree.0, &[]);
    assert!(!passed);
    let last = [
        "CHANGELOG.md has changes",
        "the changelogs have a date",
        "the script in sql/ is what",
        "everything is committed",
    ];
    for item in last {
        assert!(answer.contains(&format!("missing  {item}")), "{item}: {answer}");
    }
}

/// Some words of a file, and what takes their place; `None` where the file is removed.
type Change<'a> = Option<(&'a str, &'a str)>;

/// A copy of the files that the script reads.
struct Tree(PathBuf);

impl Tree {
    fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("rgh-release-{}", uuid::Uuid::new_v4()));
        let tree = Self(directory);
        let files = "Cargo.toml Cargo.lock META.json CHANGELOG.md README.md rgrid_heartbeat.control sql docs
                     clients/python/pyproject.toml clients/node/package.json clients/node/package-lock.json
                     packaging/debian/changelog.in";
        for file in files.split_whitespace() {
            let to = tree.0.join(file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            let copied = Command::new("cp").arg("-R").arg(root().join(file)).arg(to).status().unwrap();
            assert!(copied.success(), "{file}");
        }
        tree
    }

    /// Replaces the first of some words in a file, or removes it.
    fn change(&self, path: &str, change: Change<'_>) {
        let path = self.0.join(path);
        let Some((from, to)) = change else { return fs::remove_file(path).unwrap() };
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{path:?}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
