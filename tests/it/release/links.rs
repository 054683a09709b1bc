//! The links of the documents: each file and each heading that one leads to is there. Needs no server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = BTreeMap::new();
    collect(root, Path::new(""), &mut documents);
    for page in ["README.md", "docs/README.md", "docs/reference.md", "SECURITY.md"] {
        assert!(documents.contains_key(Path::new(page)), "{page} is a document");
    }
    let mut problems = Vec::new();
    for (page, text) in &documents {
        let links = links(text);
        problems.extend(links.iter().filter_map(|link| problem(root, &documents, page, link)));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_index_of_the_documents_names_every_page() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut documents = BTreeMap::new();
    collect(&docs, Path::new(""), &mut documents);
    let index = links(&documents[Path::new("README.md")]);
    // A page for each queue: they are named together.
    let pages = documents.keys().filter(|page| !page.ends_with("README.md") && !page.starts_with("queues"));
    let missing: Vec<_> = pages.filter(|page| !index.iter().any(|link| Path::new(link) == *page)).collect();
    assert!(missing.is_empty(), "docs/README.md does not name {missing:?}");
}

/// All documents below a directory, by their paths from there.
fn collect(root: &Path, relative: &Path, documents: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(root.join(relative)).expect("the directory can be listed") {
        let name = entry.expect("an entry can be read").file_name();
        let path = relative.join(&name);
        let name = name.to_string_lossy();
        let hidden = name.starts_with('.') && name != ".github";
        if hidden || name == "target" || name == "node_modules" {
            continue;
        }
        if root.join(&path).is_dir() {
            collect(root, &path, documents);
        } else if name.ends_with(".md") {
            let text = fs::read_to_string(root.join(&path)).expect("the document can be read");
            documents.insert(path, text);
        }
    }
}

/// The lines that are text: no blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// Where the links of a document lead, but for those to other sites.
fn links(text: &str) -> Vec<String> {
    let text = prose(text).collect::<Vec<_>>().join("\n");
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.contains("://")).map(str::to_owned).collect()
}

/// What is wrong with a link of a page.
fn problem(root: &Path, documents: &BTreeMap<PathBuf, String>, page: &Path, link: &str) -> Option<String> {
    let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
    let target = if file.is_empty() { page.to_owned() } else { normal(&page.parent()?.join(file)) };
    let page = page.display();
    if !root.join(&target).exists() {
        return Some(format!("{page}: {link}: there is no such file"));
    }
    let heading = heading?;
    let Some(text) = documents.get(&target) else {
        return Some(format!("{page}: {link}: a heading of what is no document"));
    };
    (!anchors(text).contains(heading)).then(|| format!("{page}: {link}: there is no such heading"))
}

/// A path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts
}

/// The anchors of a document's headings: lower case, a hyphen for each space, nothing else but letters, digits, `-` and
/// `_`. Those of equal headings are numbered.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for heading in prose(text).filter(|line| line.starts_with('#')) {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        let anchor: String = words.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
        let number = (1..).find(|number| !anchors.contains(&format!("{anchor}-{number}")));
        match number {
            Some(number) if anchors.contains(&anchor) => anchors.insert(format!("{anchor}-{number}")),
            _ => anchors.insert(anchor),
        };
    }
    anchors
}
