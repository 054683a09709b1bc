//! The recipes of CONTRIBUTING.md, "To add a setting" and the like: each thing that there is has been added in every
//! place that its recipe names, and a place where all of them are is named. Needs no server.

use super::root;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of files in the recipe of a thing.
fn places(thing: &str) -> BTreeSet<String> {
    let text = read("CONTRIBUTING.md");
    let recipe = text.split(&format!("\n## To add a {thing}\n")).nth(1).expect("there is such a recipe");
    let recipe = recipe.split("\n## ").next().unwrap();
    let words = recipe.split('`').skip(1).step_by(2);
    words.filter(|word| word.contains('/')).map(str::to_owned).collect()
}

/// The files below a directory of the repository that are written by hand or compared.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("it can be listed") {
        let path = entry.expect("an entry can be read").path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" || name == "node_modules" || name == "results" {
            continue;
        }
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// What is quoted by `before` and the next `after`, at each place of a text.
fn quoted<'a>(text: &'a str, before: &str, after: &str) -> BTreeSet<&'a str> {
    text.split(before).skip(1).filter_map(|rest| Some(rest.split_once(after)?.0)).collect()
}

#[test]
fn the_recipe_of_settings_names_each_file_that_has_all_of_them() {
    let source = read("src/settings.rs");
    let settings: BTreeSet<&str> =
        quoted(&source, "c\"rgrid_heartbeat.", "\"").into_iter().filter(|name| !name.is_empty()).collect();
    assert!(settings.len() > 10, "{settings:?}");
    let mut all = Vec::new();
    files(root(), &mut all);
    let has_all = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        settings.iter().all(|name| text.contains(&format!("rgrid_heartbeat.{name}")))
    };
    let know: BTreeSet<String> = all
        .iter()
        .filter(|path| has_all(path))
        .map(|path| path.strip_prefix(root()).unwrap().display().to_string())
        .collect();
    let named = places("setting");
    assert!(
        know.len() > 2 && know.is_subset(&named),
        "{know:?} have all settings; the recipe names {named:?}"
    );
    for file in ["src/settings.rs", "tests/pg_regress/expected/install.out", "docs/reference.md"] {
        let text = read(file);
        let missing: Vec<_> = settings.iter().filter(|name| !text.contains(**name)).collect();
        assert!(named.contains(file) && missing.is_empty(), "{file} lacks {missing:?}");
    }
}

#[test]
fn each_check_is_in_the_places_of_its_recipe() {
    let named = places("check");
    for place in ["src/api/health/", "tests/it/operators/health", "docs/operating.md"] {
        assert!(named.contains(place), "{named:?}");
    }
    let text_below = |directory: &str| {
        let mut all = Vec::new();
        files(&root().join(directory), &mut all);
        all.iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect::<String>()
    };
    let (source, tests) = (text_below("src/api/health"), text_below("tests/it"));
    let document = read("docs/operating.md");
    let table = document.split("| check | status | ").nth(1).expect("it has a table of checks");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let checks: Vec<&str> = rows.map(|row| row.split('`').nth(1).unwrap().trim_end_matches(" ...")).collect();
    assert!(checks.len() > 20, "{checks:?}");
    let is_in =
        |text: &str, check: &str| text.contains(&format!("\"{check}")) || text.contains(&format!("'{check}"));
    let without: Vec<&&str> =
        checks.iter().filter(|check| !is_in(&source, check) || !is_in(&tests, check)).collect();
    assert!(without.is_empty(), "no source or no test has {without:?}");
}

#[test]
fn each_queue_is_in_the_places_of_its_recipe() {
    let named = places("queue");
    let (source, page) = ("src/jobs/queues/NAME.rs", "docs/queues/NAME.md");
    let tests = ["tests/it/queues/NAME.rs", "tests/it/queues/by_schema.rs"];
    assert!([source, page].iter().chain(&tests).all(|place| named.contains(*place)), "{named:?}");
    let list = read("src/jobs/queues/mod.rs");
    for entry in fs::read_dir(root().join("src/jobs/queues")).expect("there is a folder of queues") {
        let path = entry.expect("an entry can be read").path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if name == "mod" {
            continue;
        }
        assert!(list.contains(&format!("mod {name};")), "{name} is not listed");
        assert!(root().join(page.replace("NAME", &name)).is_file(), "{name} has no page");
        let of_its_own = root().join(tests[0].replace("NAME", &name)).is_file();
        assert!(of_its_own || read(tests[1]).contains(&format!("\"{name}\"")), "{name} has no test");
    }
}

/// The cells of the rows that begin with a queue's name, without emphasis.
fn rows(document: &str) -> Vec<Vec<String>> {
    let text = read(document).replace('*', "");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn the_times_of_the_first_screen_are_those_of_the_queues() {
    let measured = rows("docs/queues/README.md");
    let shown = rows("README.md");
    assert!(shown.len() > 5, "{shown:?}");
    for row in shown {
        let of_queue = measured.iter().find(|other| other[1] == row[1]).expect("the queue has a page");
        assert_eq!([&row[2], &row[3], &row[4]], [&of_queue[4], &of_queue[2], &of_queue[3]], "{}", row[1]);
    }
}
