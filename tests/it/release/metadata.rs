//! What a release states about itself, in every place that states it. No server is needed.

use super::root;
use serde_json::Value;
use std::fs;

fn file(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// Every text of a file that stands between `before` and the next `after`.
///
/// # Panics
/// When there is none: then it is stated in another way, and nothing would be compared.
fn stated(path: &str, before: &str, after: char) -> Vec<String> {
    let text = file(path);
    let rest = text.split(before).skip(1);
    let found: Vec<String> = rest.filter_map(|rest| Some(rest.split_once(after)?.0.to_owned())).collect();
    assert!(!found.is_empty(), "{path} does not say \"{before}...{after}\"");
    found
}

#[track_caller]
fn all_say(wanted: &str, places: &[(&str, &str, char)]) {
    for (path, before, after) in places {
        for found in stated(path, before, *after) {
            assert_eq!(found, wanted, "{path}, after \"{before}\"");
        }
    }
}

#[test]
fn the_library_and_its_tests_are_of_one_version_of_pgrx() {
    let pgrx = &stated("Cargo.toml", "\npgrx = \"=", '"')[0];
    all_say(pgrx, &[("Cargo.toml", "\npgrx-tests = \"=", '"')]);
}

#[test]
fn whoever_builds_is_told_the_compiler_of_cargo_toml() {
    let rust = env!("CARGO_PKG_RUST_VERSION");
    all_say(
        rust,
        &[
            ("README.md", "with Rust ", ' '),
            ("CONTRIBUTING.md", "With Rust ", ' '),
            ("docs/install.md", "with Rust ", '\n'),
            ("scripts/install-deps", "install Rust ", ' '),
            ("packaging/docker/Dockerfile", "RUST_IMAGE=rust:", '-'),
            (".devcontainer/devcontainer.json", "\"rust:", '-'),
            (".github/workflows/check.yml", "RUST_VERSION: \"", '"'),
        ],
    );
}

/// With a channel, rustup would download a compiler where there is another one that does.
#[test]
fn no_file_pins_the_compiler() {
    let toolchain = file("rust-toolchain.toml");
    let settings = toolchain.lines().filter(|line| !line.starts_with('#')).collect::<String>();
    assert!(!settings.contains("channel") && !settings.contains("path"), "{settings}");
}

fn meta() -> Value {
    serde_json::from_str(&file("META.json")).expect("META.json is JSON")
}

/// The required fields and the forms of the PGXN Meta Spec, version 1.0.0.
#[test]
fn meta_json_is_what_pgxn_demands() {
    let meta = meta();
    for field in ["name", "abstract", "maintainer", "license", "version"] {
        assert!(meta[field].as_str().is_some_and(|text| !text.is_empty()), "{field} is required");
    }
    assert_eq!(meta["license"], "postgresql", "one of the licences that the specification knows");
    assert!(["stable", "testing", "unstable"].map(Value::from).contains(&meta["release_status"]));
    assert_eq!(meta["meta-spec"]["version"], "1.0.0");
    assert!(is_semantic(&meta["version"]), "{}", meta["version"]);
    let provides = meta["provides"].as_object().expect("provides is an object");
    assert_eq!(provides.len(), 1);
    for (name, extension) in provides {
        assert!(is_semantic(&extension["version"]), "{name} {}", extension["version"]);
        for field in ["file", "docfile"] {
            let path = extension[field].as_str().expect("a path");
            assert!(!file(path).is_empty(), "{field} of {name}");
        }
    }
    let tags = meta["tags"].as_array().expect("tags are a list");
    let fits = |tag: &Value| {
        tag.as_str().is_some_and(|tag| (1..256).contains(&tag.len()) && !tag.contains(['/', '\\']))
    };
    assert!(tags.iter().all(fits), "{tags:?}");
    for (phase, relations) in meta["prereqs"].as_object().expect("prereqs is an object") {
        assert!(["configure", "build", "test", "runtime", "develop"].contains(&phase.as_str()), "{phase}");
        let required = relations["requires"].as_object().expect("requires is an object");
        assert!(required.values().all(is_semantic), "{required:?}");
    }
}

fn is_semantic(version: &Value) -> bool {
    let Some((numbers, _)) = version.as_str().map(|text| text.split_once(['-', '+']).unwrap_or((text, "")))
    else {
        return false;
    };
    let numbers: Vec<&str> = numbers.split('.').collect();
    numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok())
}
