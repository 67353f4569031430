//! Lines on standard error: errors, and warnings, with the program's name in front.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::OnceLock;

use crate::error::printable;
use crate::options::list;

/// The name by which the program was called, the prefix of its messages.
static PROGRAM: OnceLock<String> = OnceLock::new();
/// The same with the folder that it was called in, as getopt and hints have it.
static CALLED: OnceLock<String> = OnceLock::new();

pub(super) fn program() -> &'static str {
    PROGRAM.get().map_or("cowhide", String::as_str)
}

pub(super) fn called() -> &'static str {
    CALLED.get().map_or(program(), String::as_str)
}

/// Notes the name by which the program was called, with the folder.
pub(super) fn called_by(name: &OsStr) {
    let _ = CALLED.set(name.to_string_lossy().into_owned());
    if let Some(name) = Path::new(name).file_name() {
        let _ = PROGRAM.set(name.to_string_lossy().into_owned());
    }
}

/// Prints an error, and the lines that help with it where there are any.
pub(super) fn complain_of(error: &anyhow::Error) {
    complain(&format!("{}: {error:#}", program()));
    let known = error.downcast_ref::<crate::error::Error>();
    if let Some(hint) = known.and_then(crate::error::Error::hint) {
        hint.lines().for_each(complain);
    }
}

/// Prints a line on standard error; when that fails, there is nobody left to tell. Messages are full of
/// names, and whatever is in those, it stays one line.
pub(super) fn complain(line: &str) {
    // In one piece, so that no line of another process gets into it.
    let line = printable(line) + "\n";
    #[cfg(not(test))]
    let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), line.as_bytes());
    // Only what is printed so is kept by the harness of the tests, of which some warn thousands of times.
    #[cfg(test)]
    #[expect(clippy::print_stderr, reason = "see above")]
    {
        eprint!("{line}");
    }
}

/// Prints a warning and lines that help with it; what is in them stays in its line.
pub(super) fn warn_with_help(text: &str, help: &str) {
    warn(text);
    help.lines().for_each(complain);
}

/// Prints a warning; callers do so only where a person reads it, or where `qemu-img` has the same one.
pub(super) fn warn(text: &str) {
    complain(&format!("{}: warning: {text}", program()));
}

/// Warns of keys without a value in a list of options, as QEMU does wherever such a list names something
/// that exists.
pub(super) fn warn_of_short(list: &OsStr, implied: Option<&str>) {
    for option in list::parse(list, implied) {
        if let Some(text) = option.deprecation() {
            let (text, help) = text.split_once('\n').unwrap_or((&text, ""));
            warn_with_help(text, help);
        }
    }
}
