//! Helpers that run both tools, name images for both, and compare their answers.

use std::path::Path;

use crate::common::{COWHIDE, Ran, run, same_contents};

/// The secret of encrypted images, as an object.
pub const SECRET: &str = "secret,id=s,data=correct horse battery";

/// A function that runs one of the two tools in a folder.
pub type Tool = fn(&Path, &[&str]) -> Ran;

/// Runs qemu-img.
pub fn qemu_img(folder: &Path, args: &[&str]) -> Ran {
    run(folder, "qemu-img", args)
}

/// Runs cowhide. The lines of help after a mistake, which qemu-img doesn't have, are removed; `tests/cli/mistakes.rs`
/// tests them.
pub fn ours(folder: &Path, args: &[&str]) -> Ran {
    let mut ran = run(folder, COWHIDE, args);
    let helps = |line: &&str| {
        line.starts_with("Did you mean '")
            || line.starts_with("A size is a number of bytes")
            || line.contains("was read as options; write '-- ")
    };
    let kept = ran.stderr.split_inclusive('\n').filter(|line| !helps(line));
    ran.stderr = kept.collect();
    ran
}

/// Asserts that both tools have the same output, the same status and, except for their names, the same errors.
pub fn same_answer(folder: &Path, args: &[&str]) {
    let (ours, theirs) = (ours(folder, args), qemu_img(folder, args));
    assert_eq!(ours.stdout, theirs.stdout, "{args:?}: {ours:?}");
    assert_eq!(ours.status, theirs.status, "{args:?}: {ours:?}");
    let complaint = theirs.stderr.replace("qemu-img", "cowhide");
    assert_eq!(
        without_help(&ours.stderr, &complaint),
        complaint,
        "{args:?}"
    );
}

/// Returns a complaint without the lines of help in it that another one hasn't. They follow its first line, and there
/// are two of them at most.
pub fn without_help(ours: &str, theirs: &str) -> String {
    let mut rest = theirs.lines().peekable();
    let mut left = String::new();
    let mut helped = 0;
    for (position, line) in ours.lines().enumerate() {
        let is_theirs = rest.next_if_eq(&line).is_some();
        if is_theirs || position == 0 || theirs.is_empty() || helped == 2 {
            left.push_str(line);
            left.push('\n');
        } else {
            helped += 1;
        }
    }
    left
}

/// Returns true for a line of standard error that is a finding of a check, or a repair.
pub fn is_finding(line: &str) -> bool {
    const FINDINGS: [&str; 4] = ["ERROR", "Leaked", "Rebuilding", "Repairing"];
    FINDINGS.iter().any(|start| line.starts_with(start))
}

/// Returns the lines of standard error that aren't findings.
pub fn complaints(ran: &Ran) -> Vec<&str> {
    let lines = ran.stderr.lines();
    lines.filter(|line| !is_finding(line)).collect()
}

/// Returns the words of a line, which are separated by spaces.
pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Asserts that both tools give the same answer to a line, on the same files, which they don't change.
pub fn same(folder: &Path, line: &str) {
    same_answer(folder, &words(line));
}

/// Asserts that both tools read an image as the raw file `disk`.
pub fn assert_reads_as(folder: &Path, image: &str, disk: &str) {
    for (tool, name) in [(ours as Tool, "ours.back"), (qemu_img, "theirs.back")] {
        tool(folder, &["convert", "-O", "raw", image, name]).ok();
        assert!(
            same_contents(&folder.join(disk), &folder.join(name)),
            "{image}: {name}"
        );
    }
}

/// Converts an image, named by its options, to a raw file.
pub fn to_raw(tool: Tool, folder: &Path, image: &str, raw: &str) {
    let args = ["convert", "--object", SECRET, "--image-opts", image];
    tool(folder, &[&args[..], &["-O", "raw", raw]].concat()).ok();
}

/// Asserts that both tools find an image clean.
pub fn assert_clean(folder: &Path, image: &str) {
    for tool in [ours as Tool, qemu_img] {
        let text = tool(folder, &["check", image]).ok();
        assert!(text.starts_with("No errors were found"), "{image}: {text}");
    }
}

/// Asserts that both tools give the same check of a clean image, in both formats.
pub fn checks_agree(folder: &Path, image: &str) {
    for output in ["--output=human", "--output=json"] {
        let args = ["check", output, "--object", SECRET, "--image-opts", image];
        assert_eq!(ours(folder, &args).ok(), qemu_img(folder, &args).ok());
    }
}

/// Returns the options that name an image for both tools.
pub fn spec(name: &str, format: &str, encrypted: bool) -> String {
    let key = if encrypted {
        ",encrypt.key-secret=s"
    } else {
        ""
    };
    format!("driver={format},file.filename={name}{key}")
}
