//! The demo: what it claims holds, and its picture in the README shows what it prints.

use crate::cluster::bindir;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

#[test]
fn the_picture_of_the_demo_shows_what_the_demo_prints() {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut demo = Command::new("scripts/as-server-user");
    demo.current_dir(root).args(["examples", "/usr/bin/python3", "demo.py", "--bindir"]).arg(bindir());
    let output = demo.output().expect("the demo can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));

    let mut draw = Command::new(format!("{root}/scripts/demo-picture"));
    let mut draw = draw.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python is installed");
    draw.stdin.take().unwrap().write_all(&output.stdout).expect("the picture is drawn");
    let drawn = draw.wait_with_output().unwrap().stdout;
    let kept = fs::read_to_string(format!("{root}/docs/demo.svg")).expect("the picture is there");
    let drawn = lines(&String::from_utf8(drawn).unwrap());
    assert!(drawn.len() > 15, "it shows something: {drawn:?}");
    assert_eq!(lines(&kept), drawn, "`make do-demo-picture` draws it anew");
}

/// The lines of a picture, in alphabetical order, since workers do not wait for each other; without what each run has
/// of its own: times and ids. A line that was too long goes on in the next one.
fn lines(picture: &str) -> Vec<String> {
    let texts = picture.lines().filter_map(|line| line.strip_suffix("</text>")?.split_once('>'));
    let mut lines: Vec<String> = Vec::new();
    for (_, text) in texts {
        match lines.last_mut() {
            Some(line) if text.starts_with("    ") => *line += text,
            _ => lines.push(text.to_owned()),
        }
    }
    let mut lines: Vec<String> =
        lines.iter().map(|line| line.split(' ').filter_map(word).collect()).collect();
    lines.sort();
    lines
}

/// A word and a space, without digits, and without the letters of an id.
fn word(word: &str) -> Option<String> {
    let word = word.split_once("worker-").map_or(word, |(start, _)| start);
    let word: String = word.chars().filter(|letter| !letter.is_ascii_digit()).collect();
    (!word.is_empty()).then(|| word + " ")
}
