//! The layers of the source: a module imports what is below it, never what is above or beside it. Needs no server.

use std::fs;
use std::path::Path;

/// The layers, lowest first, each a folder of `src` or a file, and what each may import of this crate beside itself. A
/// name in capitals is a constant of `lib.rs`, which belongs to no layer and may import everything.
const LAYERS: [(&str, &str); 11] = [
    ("rules", ""),
    ("error", "VERSION"),
    ("pg", "error"),
    ("settings", "error pg rules"),
    ("shmem", "error pg rules settings"),
    ("installation", "error pg VERSION"),
    ("tables", "error installation pg rules settings shmem VERSION"),
    ("jobs", "error installation pg rules settings shmem tables VERSION"),
    ("sweep", "error installation jobs pg rules settings shmem tables VERSION"),
    ("processes", "error installation jobs pg rules settings shmem sweep tables VERSION"),
    ("api", "error installation jobs pg rules settings shmem sweep tables VERSION"),
];

#[test]
fn every_layer_imports_only_lower_ones() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let sources = sources(&src, "");
    let problems: Vec<String> = sources.iter().flat_map(|(path, text)| problems(path, text)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    for (layer, _) in LAYERS {
        let homes = [format!("{layer}.rs"), format!("{layer}/mod.rs")];
        assert!(sources.iter().any(|(path, _)| homes.contains(path)), "there is no layer {layer}");
    }
    let rules = sources.iter().find(|(path, _)| path == "rules/mod.rs").expect("there are rules");
    assert!(rules.1.contains("#![forbid(unsafe_code)]"), "the rules are plain Rust");
}

/// All Rust files below a directory: path relative to `src`, and text.
fn sources(directory: &Path, relative: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("the source is there") {
        let path = entry.expect("the source can be listed").path();
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(sources(&path, &format!("{relative}{name}/")));
        } else if name.ends_with(".rs") {
            found.push((format!("{relative}{name}"), fs::read_to_string(&path).expect("it can be read")));
        }
    }
    found
}

/// Every import of one file that its layer may not have.
fn problems(path: &str, text: &str) -> Vec<String> {
    if path == "lib.rs" {
        return Vec::new();
    }
    let module = module_of(path);
    let Some((layer, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == module[0]) else {
        return vec![format!("src/{path} belongs to no layer")];
    };
    let mut imported = imports(&module, text);
    imported.retain(|name| name != layer && !allowed.split(' ').any(|allowed| allowed == name));
    imported.sort();
    imported.dedup();
    imported.iter().map(|name| format!("src/{path}: `{layer}` may not import `{name}`")).collect()
}

/// The path of a file's module in the crate.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs");
    path.trim_end_matches("/mod").split('/').map(String::from).collect()
}

/// The modules and items of the crate's root that a source names, by `crate::` or by as many `super::` as lead there.
fn imports(module: &[String], text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    // Where a token is: the module, and the depths of the braces in which inline modules begin.
    let mut here = module.to_vec();
    let mut inline = Vec::new();
    let mut depth = 0_usize;
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at..] {
            ["mod", name, "{", ..] => {
                here.push((*name).to_owned());
                inline.push(depth);
            }
            ["{", ..] => depth += 1,
            ["}", ..] => {
                depth = depth.saturating_sub(1);
                if inline.pop_if(|outer| *outer == depth).is_some() {
                    here.pop();
                }
            }
            ["crate" | "super" | "self", "::", ..] if !is_visibility(&tokens[..at]) => {
                at = follow(&tokens, at, &here, &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Whether what comes next is the path of `pub(in path)`, which imports nothing.
fn is_visibility(before: &[&str]) -> bool {
    matches!(before, [.., "pub", "(", "in"])
}

/// Follows a path, or a tree of paths, from the module `from` on, and notes what it names in the crate's root. Returns
/// where it ends.
fn follow(tokens: &[&str], mut at: usize, from: &[String], found: &mut Vec<String>) -> usize {
    let token = |at: usize| tokens.get(at).copied().unwrap_or("}");
    let mut path = from.to_vec();
    loop {
        match token(at) {
            "crate" => path.clear(),
            "super" => drop(path.pop()),
            "self" if !path.is_empty() => {}
            "{" => {
                at += 1;
                while token(at) != "}" {
                    at = follow(tokens, at, &path, found);
                    while ![",", "}"].contains(&token(at)) {
                        at += 1;
                    }
                    at += usize::from(token(at) == ",");
                }
                return at + 1;
            }
            name => {
                if path.is_empty() {
                    found.push(name.to_owned());
                }
                path.push(name.to_owned());
            }
        }
        if token(at + 1) != "::" {
            return at + 1;
        }
        at += 2;
    }
}

/// The words and signs of a source, without its comments and texts; `::` is one sign.
fn tokens(source: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while !rest.is_empty() {
        let mut length = meaningless(rest);
        if length == 0 {
            let end_of_word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let sign = if rest.starts_with("::") { 2 } else { rest.chars().next().map_or(1, char::len_utf8) };
            length = if end_of_word > 0 { end_of_word } else { sign };
            tokens.push(&rest[..length]);
        }
        rest = &rest[length..];
    }
    tokens
}

/// The length of the space, comment or text that a source begins with; 0 when it begins with something else.
fn meaningless(source: &str) -> usize {
    let after = |end: &str, from: usize| {
        source.get(from..).and_then(|rest| rest.find(end)).map_or(source.len(), |at| from + at + end.len())
    };
    if source.starts_with("//") {
        return after("\n", 0);
    }
    if source.starts_with("/*") {
        return after("*/", 2);
    }
    if let Some(raw) = source.strip_prefix(['b', 'c']).unwrap_or(source).strip_prefix('r') {
        let text = raw.trim_start_matches('#');
        if text.starts_with('"') {
            return after(
                &format!("\"{}", "#".repeat(raw.len() - text.len())),
                source.len() - text.len() + 1,
            );
        }
    }
    let mut characters = source.char_indices().skip(1);
    match source.chars().next() {
        Some('"') => {
            while let Some((at, character)) = characters.next() {
                match character {
                    '\\' => drop(characters.next()),
                    '"' => return at + 1,
                    _ => {}
                }
            }
            source.len()
        }
        // A character, or the sign of a lifetime.
        Some('\'') if source[1..].starts_with('\\') => after("'", 3),
        Some('\'') => match (characters.next(), characters.next()) {
            (Some(_), Some((at, '\''))) => at + 1,
            _ => 1,
        },
        _ => source.len() - source.trim_start().len(),
    }
}

/// The problems of a made-up file.
fn found_in(path: &str, text: &str) -> Vec<String> {
    let prefix = format!("src/{path}: ");
    problems(path, text).iter().map(|problem| problem.replace(&prefix, "")).collect()
}

#[test]
fn an_upward_import_is_found_in_each_of_its_forms() {
    let wrong = "`pg` may not import `settings`";
    for text in [
        "use crate::settings;",
        "use crate::settings::{statement_timeout as timeout, *};",
        "pub(crate) use crate::{\n    error::{Error, Result},\n    settings::{self, enabled},\n};",
        "use crate::{error as e, settings as s};",
        "use {crate::settings::enabled};",
        "fn f() -> crate::error::Result<crate::settings::Limit> { todo() }",
        "fn f() { let limit = 1 as crate::settings::Limit; }",
        "use super::super::settings;",
        "use super::{catalog, super::settings::enabled};",
        "#[cfg(test)]\nmod tests {\n    use super::super::super::settings;\n}",
        "#[cfg(test)]\nmod tests {\n    use crate::settings;\n}",
        "macro_rules! m { () => { $crate::settings::enabled() } }",
        "const QUOTE: char = '\"'; use crate::settings; const END: &str = \"\\\"\";",
    ] {
        assert_eq!(found_in("pg/sql.rs", text), [wrong], "{text}");
    }
    assert_eq!(found_in("pg/mod.rs", "use super::settings;"), [wrong]);
    assert_eq!(found_in("pg/sql.rs", "use crate::*;"), ["`pg` may not import `*`"]);
    assert_eq!(
        found_in("api/health/jobs.rs", "use crate::processes::launcher;"),
        ["`api` may not import `processes`"],
        "beside it"
    );
    assert_eq!(found_in("rules/time.rs", "use crate::VERSION;"), ["`rules` may not import `VERSION`"]);
    assert_eq!(problems("odd.rs", ""), ["src/odd.rs belongs to no layer"]);
}

#[test]
fn what_looks_like_an_upward_import_and_is_none_is_left_alone() {
    for text in [
        "use crate::error::{self, Error};\nuse crate::pg::catalog;\nuse super::names::{self, allow};",
        "pub(in crate::settings) fn f() {}",
        "// use crate::settings;\n/// [`crate::settings`]\n/* crate::settings */",
        "const A: &str = \"use crate::settings;\"; const B: &str = r#\"\" crate::settings\"#;",
        "mod inner {\n    use super::super::names;\n}\nuse super::names;",
        "fn f<'a>(x: &'a str) -> self::Thing<'a> { Thing('\\'', x) }",
    ] {
        assert!(found_in("pg/sql.rs", text).is_empty(), "{text}: {:?}", found_in("pg/sql.rs", text));
    }
    assert!(found_in("lib.rs", "use crate::api::health;").is_empty());
}
