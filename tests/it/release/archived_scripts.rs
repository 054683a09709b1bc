//! Scripts of released versions: kept as they were, and a way leads from each to the current version. A database
//! somewhere has the objects that such a script made, and the way starts from exactly those.
//!
//! A version is released when the changelog has a date for it. Needs no server.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const CURRENT: &str = env!("CARGO_PKG_VERSION");

#[test]
fn released_scripts_are_kept_unchanged_and_lead_to_the_current_version() {
    assert_eq!(problems(Path::new(env!("CARGO_MANIFEST_DIR")), CURRENT), [""; 0]);
}

#[test]
fn an_edited_or_missing_script_and_a_missing_way_are_noticed() {
    let tree = Tree::new("## [0.3.0] - Unreleased\n## [0.2.0] - 2030-02-01\n## [0.1.0] - 2030-01-01\n");
    assert_eq!(problems(&tree.0, "0.3.0").len(), 4, "two scripts and two ways are missing");
    for version in ["0.1.0", "0.2.0"] {
        tree.write(&format!("sql/archive/rgrid_heartbeat--{version}.sql"), "CREATE");
    }
    tree.write("sql/rgrid_heartbeat--0.1.0--0.2.0.sql", "ALTER");
    tree.write("sql/rgrid_heartbeat--0.2.0--0.3.0.sql", "ALTER");
    assert_eq!(problems(&tree.0, "0.3.0").len(), 3, "three released scripts have no checksum");
    tree.take_checksums(&["archive/rgrid_heartbeat--0.1.0.sql", "archive/rgrid_heartbeat--0.2.0.sql"]);
    tree.take_checksums(&["rgrid_heartbeat--0.1.0--0.2.0.sql"]);
    assert_eq!(problems(&tree.0, "0.3.0"), [""; 0]);

    tree.write("sql/rgrid_heartbeat--0.2.0--0.3.0.sql", "ALTER, and not released yet");
    assert_eq!(problems(&tree.0, "0.3.0"), [""; 0]);
    tree.write("sql/archive/rgrid_heartbeat--0.1.0.sql", "CREATE, edited");
    tree.write("sql/rgrid_heartbeat--0.1.0--0.2.0.sql", "ALTER, edited");
    assert_eq!(problems(&tree.0, "0.3.0").len(), 2);
    fs::remove_file(tree.0.join("sql/rgrid_heartbeat--0.1.0--0.2.0.sql")).unwrap();
    assert_eq!(problems(&tree.0, "0.3.0").len(), 3, "it is gone, and with it the way from 0.1.0");
}

/// What is wrong with the scripts below `root`.
fn problems(root: &Path, current: &str) -> Vec<String> {
    let released = released(root);
    let scripts = root.join("sql");
    let ways: BTreeSet<(String, String)> = upgrades(&scripts);
    let sums = fs::read_to_string(scripts.join("archive/SHA256SUMS")).unwrap_or_default();
    let sums: Vec<(&str, &str)> = sums.lines().filter_map(|line| line.split_once("  ")).collect();

    let base = |version: &String| format!("archive/rgrid_heartbeat--{version}.sql");
    let upgrade = |(from, to): &(String, String)| format!("rgrid_heartbeat--{from}--{to}.sql");
    let settled = ways.iter().filter(|(_, to)| released.contains(to));
    let frozen: BTreeSet<String> = released.iter().map(base).chain(settled.map(upgrade)).collect();

    let mut problems = Vec::new();
    for script in frozen.iter().filter(|script| sums.iter().all(|(_, name)| name != script)) {
        problems.push(format!("{script} was released and has no checksum"));
    }
    for (sum, name) in &sums {
        if sha256(&scripts.join(name)).as_deref() != Some(*sum) {
            problems.push(format!("{name} was released and is not what it was"));
        }
    }
    for version in released.iter().filter(|version| *version != current && !leads(&ways, version, current)) {
        problems.push(format!("no upgrade scripts lead from {version} to {current}"));
    }
    problems
}

/// The versions that the changelog has a date for.
fn released(root: &Path) -> BTreeSet<String> {
    let changelog = fs::read_to_string(root.join("CHANGELOG.md")).expect("there is a changelog");
    let headings = changelog.lines().filter_map(|line| line.strip_prefix("## [")?.split_once("] - "));
    headings.filter(|(_, date)| *date != "Unreleased").map(|(version, _)| version.to_owned()).collect()
}

/// From which version to which there is an upgrade script.
fn upgrades(scripts: &Path) -> BTreeSet<(String, String)> {
    let files = fs::read_dir(scripts).expect("there are scripts");
    let names = files.map(|file| file.expect("it can be listed").file_name().to_string_lossy().into_owned());
    names
        .filter_map(|name| {
            let (from, to) =
                name.strip_prefix("rgrid_heartbeat--")?.strip_suffix(".sql")?.split_once("--")?;
            Some((from.to_owned(), to.to_owned()))
        })
        .collect()
}

fn leads(ways: &BTreeSet<(String, String)>, from: &str, to: &str) -> bool {
    let mut reached = BTreeSet::from([from]);
    loop {
        let further: Vec<&str> =
            ways.iter().filter(|(a, _)| reached.contains(a.as_str())).map(|(_, b)| b.as_str()).collect();
        let before = reached.len();
        reached.extend(further);
        if reached.contains(to) || reached.len() == before {
            return reached.contains(to);
        }
    }
}

fn sha256(file: &Path) -> Option<String> {
    let output = Command::new("sha256sum").arg(file).output().expect("sha256sum can be run");
    String::from_utf8_lossy(&output.stdout).split(' ').next().filter(|sum| !sum.is_empty()).map(str::to_owned)
}

/// A made-up repository in a directory of its own.
struct Tree(PathBuf);

impl Tree {
    fn new(changelog: &str) -> Self {
        let tree = Self(std::env::temp_dir().join(format!("rgh-releases-{}", std::process::id())));
        fs::create_dir_all(tree.0.join("sql/archive")).unwrap();
        tree.write("CHANGELOG.md", changelog);
        tree
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.0.join(path), text).unwrap();
    }

    fn take_checksums(&self, scripts: &[&str]) {
        let sums = self.0.join("sql/archive/SHA256SUMS");
        let mut text = fs::read_to_string(&sums).unwrap_or_default();
        for script in scripts {
            text += &format!("{}  {script}\n", sha256(&self.0.join("sql").join(script)).unwrap());
        }
        fs::write(sums, text).unwrap();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
