//! The process that holds locks on a file.
//!
//! Locks that belong to open files have no process in the kernel's list of locks. But the entry of each
//! descriptor of each process (`/proc/*/fdinfo`) has the locks on it, for users that may look at that
//! process. It is only for a message, so little is spent on it, and not to find a process is no error.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::printable;

/// The longest time that the search takes.
const LONGEST: Duration = Duration::from_millis(200);

/// A line on another process that holds locks on `file`, if one is found.
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
            // A process chooses its name, which is to stay in this line.
            let command = printable(command.trim_end_matches('\n'));
            return Some(format!("Process {id} ({command}) holds locks on it."));
        }
    }
    None
}

/// Tells if the process of that folder in `/proc` has the file open with locks on it.
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
