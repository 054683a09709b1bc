//! What the log may say: each message of the source is in the reference. Needs no server.

use std::fs;
use std::path::Path;

/// Where a text for the log begins in the source: a call, and the literal that follows.
const MARKS: [&str; 5] = [
    "report::log(",
    "log_to_server(format!(",
    "log_at_commit(vec![format!(",
    "lines.push(format!(",
    "Problem::new(",
];
/// Files in which every text that is made is for the log.
const ALL_OF_IT: [&str; 2] = ["sweep/log_lines.rs", "jobs/following.rs"];
/// The errors that are about work that was not done: sweepers and the launcher report them.
const ERRORS: (&str, &str) = ("// Work that was not done.", "// What came from elsewhere.");

#[test]
fn every_message_of_the_log_is_in_the_reference() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let reference = fs::read_to_string(root.join("docs/reference.md")).expect("the reference is there");
    let lines = reference.split("\n## Log lines\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let lines = lines.expect("the reference has log lines");
    let errors = fs::read_to_string(root.join("src/error/report.rs")).unwrap();
    let errors = errors.split(ERRORS.0).nth(1).and_then(|rest| rest.split(ERRORS.1).next());
    let mut messages: Vec<String> = errors.unwrap().split("\npub fn ").skip(1).filter_map(literal).collect();
    collect(&root.join("src"), &mut messages);
    assert!(messages.len() > 50, "messages are found: {messages:#?}");
    let fixed = messages.iter().map(|message| fixed_part(message)).filter(|part| part.contains(' '));
    let missing: Vec<&str> = fixed.filter(|part| !lines.contains(part)).collect();
    assert!(missing.is_empty(), "docs/reference.md, Log lines, does not have {missing:#?}");
}

/// The texts for the log in the source below a directory, its tests aside.
fn collect(directory: &Path, messages: &mut Vec<String>) {
    for entry in fs::read_dir(directory).expect("the source is there") {
        let path = entry.expect("the source can be listed").path();
        if path.is_dir() {
            collect(&path, messages);
            continue;
        }
        let text = fs::read_to_string(&path).expect("it can be read");
        let text = text.split("#[cfg(test)]").next().unwrap();
        let is_all = ALL_OF_IT.iter().any(|file| path.ends_with(file));
        let marks: &[&str] = if is_all { &["format!("] } else { &MARKS };
        for mark in marks {
            // What follows in the same statement.
            let rests = text.split(mark).skip(1).map(|rest| rest.split(';').next().unwrap());
            messages.extend(rests.filter_map(literal));
        }
    }
}

/// The first literal of a piece of source, without its quotes and escapes.
fn literal(source: &str) -> Option<String> {
    let mut letters = source.split_once('"')?.1.chars();
    let mut text = String::new();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => return Some(text),
            '\\' => match letters.next()? {
                '\n' => {
                    let rest = letters.as_str().trim_start();
                    letters = rest.chars();
                }
                escaped => text.push(escaped),
            },
            _ => text.push(letter),
        }
    }
    None
}

/// The longest part of a message that is the same each time.
fn fixed_part(message: &str) -> &str {
    let parts = message.split(['{', '}']).step_by(2);
    parts.map(str::trim).max_by_key(|part| part.len()).unwrap_or_default()
}
