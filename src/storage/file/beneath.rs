//! The files behind loop devices.
//!
//! Writing to a loop device changes the file behind it, although the system has two identities for them. The kernel
//! names the file in `/sys`. Without `/sys` nothing is known, and a device only equals itself.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::storage::identity::FileIdentity;

/// The greatest number of nested loop devices that are followed.
const DEEPEST: usize = 8;

/// Returns the folder of a block device in `/sys`, or `None` for other files.
pub(super) fn folder_of(metadata: &Metadata) -> Option<PathBuf> {
    let device = metadata.rdev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let is_device = metadata.file_type().is_block_device();
    is_device.then(|| PathBuf::from(format!("/sys/dev/block/{major}:{minor}")))
}

/// Returns true if the system refuses to write to a block device.
pub(super) fn is_read_only(metadata: &Metadata) -> bool {
    let read = folder_of(metadata).and_then(|folder| fs::read(folder.join("ro")).ok());
    read.is_some_and(|text| text.starts_with(b"1"))
}

/// Returns the files behind a loop device, outermost first. Other files and devices have none.
pub(super) fn files(metadata: &Metadata) -> Vec<FileIdentity> {
    let mut files = Vec::new();
    let mut next = loop_file(metadata);
    while let Some(metadata) = next.filter(|_| files.len() < DEEPEST) {
        files.push(FileIdentity::of(&metadata));
        next = loop_file(&metadata);
    }
    files
}

/// Returns the file behind a loop device, or behind the loop device that a partition is on.
fn loop_file(metadata: &Metadata) -> Option<Metadata> {
    let folder = folder_of(metadata)?;
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let name = read("loop/backing_file").or_else(|| read("../loop/backing_file"))?;
    // Only the last newline isn't a part of the name.
    fs::metadata(Path::new(name.strip_suffix('\n').unwrap_or(&name))).ok()
}
