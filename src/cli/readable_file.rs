//! The warning about a password file that other users can read.
//!
//! Two options name such a file: `--password-file`, and `file=` of a secret. The risk is the same.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Warns at a terminal of a password file that other users may read. The permissions of a pipe or an open descriptor
/// don't matter, since it can only be read once.
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
