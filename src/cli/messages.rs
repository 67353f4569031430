//! Lines on standard error: errors, and warnings, with the program's name in front.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::OnceLock;

use crate::error::printable;
use crate::options::list;

/// The name by which the program was called, the prefix of its messages.
static PROGRAM: OnceLock<String> = OnceLock::new();
/// The same with the folder by which it was called, as getopt and hints have it.
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

/// Prints an error, and the lines of its hint, if it has one.
pub(super) fn complain_of(error: &anyhow::Error) {
    complain(&format!("{}: {error:#}", program()));
    let known = error.downcast_ref::<crate::error::Error>();
    if let Some(hint) = known.and_then(crate::error::Error::hint) {
        hint.lines().for_each(complain);
    }
}

/// Prints a line on standard error. It stays one line whatever is in the names that it holds. An error while
/// printing is ignored, since no one is left to tell.
pub(super) fn complain(line: &str) {
    // The line is written in one piece, so that no line of another process gets into it.
    let line = printable(line) + "\n";
    #[cfg(not(test))]
    let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), line.as_bytes());
    // The harness of the tests keeps only what is printed this way, and some tests warn thousands of times.
    #[cfg(test)]
    #[expect(clippy::print_stderr, reason = "see above")]
    {
        eprint!("{line}");
    }
}

/// Prints a warning and the lines of its help. The text of the warning stays one line.
pub(super) fn warn_with_help(text: &str, help: &str) {
    warn(text);
    help.lines().for_each(complain);
}

/// Prints a warning. Callers do so only where a person reads it, or where `qemu-img` has the same one.
pub(super) fn warn(text: &str) {
    complain(&format!("{}: warning: {text}", program()));
}

/// Warns of keys without a value in a list of options. QEMU does so wherever such a list names something that
/// exists.
pub(super) fn warn_of_short(list: &OsStr, implied: Option<&str>) {
    for option in list::parse(list, implied) {
        if let Some(text) = option.deprecation() {
            let (text, help) = text.split_once('\n').unwrap_or((&text, ""));
            warn_with_help(text, help);
        }
    }
}
