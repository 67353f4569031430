//! The search for the process that holds locks on a file.
//!
//! The kernel's list of locks names no process for locks that belong to open files. But the entry of each descriptor
//! (`/proc/*/fdinfo`) lists its locks, for users that may inspect the process. The result is only for a message, so
//! the search has a short time limit, and finding no process is no error.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::printable;

/// The time limit of the search.
const LONGEST: Duration = Duration::from_millis(200);

/// Returns a line that names another process with locks on `file`, if one is found.
pub(super) fn find(file: &File) -> Option<String> {
    let wanted = file.metadata().ok()?;
    let started = Instant::now();
    let own = std::process::id();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    for process in processes.take_while(|_| started.elapsed() < LONGEST) {
        let name = process.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if id != own && holds(&process.path(), &wanted, started) {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            // A process chooses its name, which must neither end the line nor control the terminal.
            let command = printable(command.trim_end_matches('\n'));
            return Some(format!("Process {id} ({command}) holds locks on it."));
        }
    }
    None
}

/// Returns true if the process of that folder in `/proc` has the file open with locks on it.
fn holds(process: &Path, wanted: &Metadata, started: Instant) -> bool {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten();
    let mut descriptors = descriptors
        .flatten()
        .take_while(|_| started.elapsed() < LONGEST);
    descriptors.any(|descriptor| {
        let found = fs::metadata(descriptor.path());
        let is_it =
            found.is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()));
        let info = process.join("fdinfo").join(descriptor.file_name());
        is_it && fs::read_to_string(info).is_ok_and(|info| info.contains("\nlock:"))
    })
}
