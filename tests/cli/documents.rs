//! Tests that every command in README.md and the documents works.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::commands::folder;
use crate::common::{COWHIDE, Ran};

/// The prefixes of lines that are skipped: they need something that tests don't have, or run the tests.
const OTHERS: [&str; 6] = [
    "tests/roundtrip.sh",
    "cargo test",
    "gdb ",
    "--args cowhide",
    "perf ",
    "#",
];

/// Returns the paths of the documents.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let mut all: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
        .map(|name| root.join(name))
        .into_iter()
        .chain(docs)
        .collect();
    all.sort();
    all
}

/// Returns the lines of a document's shell examples.
fn examples(text: &str) -> Vec<&str> {
    let mut inside = None;
    let mut lines = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(_), Some(_)) => inside = None,
            (Some(language), None) => inside = Some(language == "sh"),
            (None, Some(true)) if !line.is_empty() => lines.push(line.trim_start()),
            _ => {}
        }
    }
    lines
}

#[test]
fn shell_examples_run() {
    let folder = folder();
    let folder = folder.path();
    let program = Path::new(COWHIDE).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut done = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for line in examples(&text) {
            let skipped = OTHERS.iter().any(|start| line.starts_with(start));
            // A line that occurs twice is only run once.
            if skipped || done.contains(&line.to_owned()) {
                continue;
            }
            let mut command = Command::new("bash");
            command
                .args(["-c", line])
                .env("PATH", &path)
                .current_dir(folder);
            let ran: Ran = command.output().unwrap().into();
            assert_eq!(
                ran.status,
                Some(0),
                "{}: {line}: {ran:?}",
                document.display()
            );
            done.push(line.to_owned());
        }
    }
    // README.md alone has as many.
    assert!(done.len() >= 5, "{done:?}");
}
