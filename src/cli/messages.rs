//! Messages on standard error: errors and warnings with the program's name in front, or with `--error-format=json` an
//! object for each.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

#[cfg(not(test))]
use super::progress::beside;
use crate::error::{Error, printable};
use crate::options::list;

/// The name by which the program was called. It is the prefix of messages.
static PROGRAM: OnceLock<String> = OnceLock::new();
/// The path by which the program was called, as getopt's messages and hints have it.
static CALLED: OnceLock<String> = OnceLock::new();

pub(super) fn program() -> &'static str {
    PROGRAM.get().map_or("cowhide", String::as_str)
}

pub(super) fn called() -> &'static str {
    CALLED.get().map_or(program(), String::as_str)
}

/// Sets the path by which the program was called.
pub(super) fn called_by(name: &OsStr) {
    let _ = CALLED.set(name.to_string_lossy().into_owned());
    if let Some(name) = Path::new(name).file_name() {
        let _ = PROGRAM.set(name.to_string_lossy().into_owned());
    }
}

/// True if errors and warnings are printed as JSON.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// Sets the format of errors and warnings from the options before the subcommand. This is done first, since options
/// can have mistakes.
pub(super) fn set_form(arguments: &[OsString]) {
    let mut options = arguments.iter().skip(1);
    while let Some(option) = options
        .next()
        .filter(|word| word.as_bytes().starts_with(b"-"))
    {
        let is_json = option == "--error-format=json"
            || (option == "--error-format" && options.next().is_some_and(|form| form == "json"));
        if is_json {
            AS_JSON.store(true, Ordering::Relaxed);
        }
    }
}

fn is_json() -> bool {
    AS_JSON.load(Ordering::Relaxed)
}

/// Prints an error, and the lines of its hint, if it has one.
pub(super) fn complain_of(error: &anyhow::Error) {
    let known = error.downcast_ref::<Error>();
    let hint = known.and_then(Error::hint);
    if is_json() {
        let kind = known.map_or("other", |error| error.kind().name());
        return print_object("error", kind, &format!("{error:#}"), hint);
    }
    complain(&format!("{}: {error:#}", program()));
    hint.into_iter().flat_map(str::lines).for_each(complain);
}

/// Returns the line for a finding of `check`. With `has_prefix`, the text has the program's name in front, unless it is
/// an object.
pub(super) fn finding_line(text: &str, has_prefix: bool) -> String {
    if is_json() {
        return json!({ "finding": { "message": text } }).to_string();
    }
    match has_prefix {
        true => printable(&format!("{}: {text}", program())),
        false => printable(text),
    }
}

/// Prints a usage error. `prefix` is put in front of the message, and the lines of `hint` follow it.
pub(super) fn complain_of_misuse(prefix: &str, message: &str, hint: &str) {
    if is_json() {
        return print_object("error", "usage", message, Some(hint));
    }
    complain(&format!("{prefix}: {message}"));
    hint.lines().for_each(complain);
}

/// Prints an error or a warning as an object on one line.
fn print_object(what: &str, kind: &str, message: &str, hint: Option<&str>) {
    let hint: Vec<&str> = hint.into_iter().flat_map(str::lines).collect();
    print_line(&json!({ what: { "kind": kind, "message": message, "hint": hint } }).to_string());
}

/// Prints a line on standard error. It stays one line, since control characters in names are escaped. An error in
/// printing is ignored, since it can't be reported anywhere.
pub(super) fn complain(line: &str) {
    print_line(&printable(line));
}

fn print_line(line: &str) {
    // The line is written with one call, so that no line of another process gets into it.
    let line = format!("{line}\n");
    #[cfg(not(test))]
    beside(|| {
        drop(std::io::Write::write_all(
            &mut std::io::stderr().lock(),
            line.as_bytes(),
        ))
    });
    // The test harness captures only this way of printing, and some tests warn thousands of times.
    #[cfg(test)]
    #[expect(clippy::print_stderr, reason = "see above")]
    {
        eprint!("{line}");
    }
}

/// Prints a warning and the lines of its help. The text of the warning stays one line.
pub(super) fn warn_with_help(text: &str, help: &str) {
    if is_json() {
        return print_object("warning", "warning", text, Some(help));
    }
    warn(text);
    help.lines().for_each(complain);
}

/// Prints a warning. Callers do that only at a terminal, or if `qemu-img` prints the same warning.
pub(super) fn warn(text: &str) {
    if is_json() {
        return print_object("warning", "warning", text, None);
    }
    complain(&format!("{}: warning: {text}", program()));
}

/// Prints a warning of `qemu-img` that has no program's name in front: `first`, and the lines of `help` after it, which
/// have an indentation.
pub(super) fn warn_in_capitals(first: &str, help: &[&str]) {
    if is_json() {
        return print_object("warning", "warning", first, Some(&help.join("\n")));
    }
    complain(&format!("WARNING: {first}"));
    for line in help {
        complain(&format!("         {line}"));
    }
}

/// Warns of keys without a value in an option string, as QEMU does for those that name an existing image.
pub(super) fn warn_of_short(list: &OsStr, implied: Option<&str>) {
    for option in list::parse(list, implied) {
        if let Some(text) = option.deprecation() {
            let (text, help) = text.split_once('\n').unwrap_or((&text, ""));
            warn_with_help(text, help);
        }
    }
}
