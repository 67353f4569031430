//! Tests of the manual pages, and of the examples in them and in help texts.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{COWHIDE, cowhide, others, run, write_disk};

/// Returns every subcommand in the help text.
fn subcommands(folder: &Path) -> Vec<String> {
    let page = cowhide(folder, "--help").ok();
    let listed = page.split("\nSupported formats").next().unwrap();
    let lines = listed
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = lines.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.collect()
}

#[test]
fn each_page_is_written_and_formats_without_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    cowhide(folder, "man .").ok();
    let mut expected: Vec<String> = subcommands(folder)
        .iter()
        .map(|name| format!("cowhide-{name}.1"))
        .chain(["cowhide.1".to_owned()])
        .collect();
    expected.sort();
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, expected);
    cowhide(folder, "man missing/folder").fails(1, "Could not write 'missing/folder/cowhide.1'");
    if !others::can_run("groff", "the formatted manual") {
        return;
    }
    for name in &names {
        let formatted = run(
            folder,
            "groff",
            ["-Kutf8", "-man", "-Tutf8", "-P-cbou", "-ww", name],
        );
        let text = formatted.ok();
        assert!(text.contains("EXIT STATUS"), "{name}: {text}");
        assert_eq!(name != "cowhide.1", text.contains("EXAMPLES"), "{name}");
        if let Some(subcommand) = name.strip_prefix("cowhide-") {
            // Each command can be copied: it is on one line, whatever the width.
            let help = cowhide(
                folder,
                &format!("{} --help", &subcommand[..subcommand.len() - 2]),
            );
            let (_, examples) = help.stdout.split_once("\nExamples:\n").unwrap();
            for command in examples.lines().filter(|line| !line.contains('#')) {
                assert!(
                    text.lines().any(|line| line.trim() == command.trim()),
                    "{command}: {text}"
                );
            }
        }
    }
}

#[test]
fn every_example_runs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.img"), 20 << 20, 5);
    fs::write(folder.join("pw"), "secret").unwrap();
    cowhide(folder, "create -q -f qcow2 base.qcow2 1M").ok();
    cowhide(
        folder,
        "create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2",
    )
    .ok();
    let mut examples = Vec::new();
    for name in subcommands(folder) {
        let help = cowhide(folder, &format!("{name} --help")).ok();
        let (_, lines) = help.split_once("\nExamples:\n").expect("examples");
        let commands = lines
            .lines()
            .filter_map(|line| line.trim().strip_prefix("cowhide "));
        examples.extend(commands.map(str::to_owned));
        let short = cowhide(folder, &format!("{name} -h")).ok();
        assert!(
            help.starts_with(&short) && !short.contains("Examples:"),
            "{name}"
        );
    }
    // Examples that create files for others are run first.
    let first = |example: &String| {
        let order = [
            "create",
            "convert",
            "snapshot -c",
            "snapshot -l",
            "snapshot -a",
        ];
        order
            .iter()
            .position(|start| example.starts_with(start))
            .unwrap_or(order.len())
    };
    examples.sort_by_key(first);
    assert!(examples.len() > 20, "{examples:?}");
    for example in examples {
        let command = format!("exec {COWHIDE} {example}");
        let ran = Command::new("sh")
            .args(["-c", &command])
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{example}: {ran:?}");
        assert!(ran.stderr.is_empty(), "{example}: {ran:?}");
    }
}
