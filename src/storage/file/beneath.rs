//! Files beneath devices: a loop device is a file, or a part of one.
//!
//! Writing to the one changes the other, although they are two files to the system. The kernel tells of it in
//! `/sys`. Where that is missing, nothing is known, and a device is only itself.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::storage::identity::FileIdentity;

/// The most loop devices over each other that are looked through.
const DEEPEST: usize = 8;

/// The folder of a block device in `/sys`; `None` for other files.
pub(super) fn folder_of(metadata: &Metadata) -> Option<PathBuf> {
    let device = metadata.rdev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let is_device = metadata.file_type().is_block_device();
    is_device.then(|| PathBuf::from(format!("/sys/dev/block/{major}:{minor}")))
}

/// Tells if the system refuses to write to a block device.
pub(super) fn is_read_only(metadata: &Metadata) -> bool {
    let read = folder_of(metadata).and_then(|folder| fs::read(folder.join("ro")).ok());
    read.is_some_and(|text| text.starts_with(b"1"))
}

/// The files that a device is over, from the uppermost on; none for anything but loop devices.
pub(super) fn files(metadata: &Metadata) -> Vec<FileIdentity> {
    let mut files = Vec::new();
    let mut next = loop_file(metadata);
    while let Some(metadata) = next.filter(|_| files.len() < DEEPEST) {
        files.push(FileIdentity::of(&metadata));
        next = loop_file(&metadata);
    }
    files
}

/// The file that a loop device, or the one that it is a partition of, is over.
fn loop_file(metadata: &Metadata) -> Option<Metadata> {
    let folder = folder_of(metadata)?;
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let name = read("loop/backing_file").or_else(|| read("../loop/backing_file"))?;
    // Only one newline is not the name's.
    fs::metadata(Path::new(name.strip_suffix('\n').unwrap_or(&name))).ok()
}
