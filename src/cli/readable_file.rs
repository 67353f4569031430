//! The warning that a file with a password can be read by others.
//!
//! Such a file is named in two ways, by `--password-file` and by the `file=` of a secret, and is the same risk
//! in both.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Warns, at a terminal, of a file with a password that others may read. What comes through a pipe or an
/// open descriptor is of the moment, and its permissions say nothing.
pub(super) fn warn(path: &Path, file: &File) {
    const OTHERS: u32 = 0o044;
    let is_readable = file
        .metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.mode() & OTHERS != 0);
    let is_open = ["/dev/fd", "/proc/self/fd"]
        .iter()
        .any(|at| path.starts_with(at));
    if is_readable && !is_open && io::stderr().is_terminal() {
        super::warn(&format!(
            "other users may read the password in '{}' (chmod 600)",
            path.display()
        ));
    }
}
