//! The identity of a storage, whatever name it goes by.
//!
//! Two names can refer to the same bytes: links, two nodes of a device, or a loop device and the file behind it.
//! Writing to one changes the other. So a target must not be one of the sources under any name, and a backing chain
//! must not contain an image twice.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use rustix::fs::Stat;

/// The identity of an open storage.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The file or device, or `None` if nothing else can read or write these bytes.
    file: Option<FileIdentity>,
    /// The files behind the device, outermost first.
    beneath: Vec<FileIdentity>,
}

impl Identity {
    /// Returns the identity of a storage that shares its bytes with no other.
    pub fn unshared() -> Self {
        Self {
            file: None,
            beneath: Vec::new(),
        }
    }

    /// Returns the identity of a storage that is made of others: it is the first of them, with all others behind it.
    pub fn of_parts(parts: &[Self]) -> Self {
        let files = parts.iter().filter_map(|part| part.file);
        let beneath = parts.iter().flat_map(|part| part.beneath.iter().copied());
        Self {
            file: parts.first().and_then(|first| first.file),
            beneath: files.chain(beneath).collect(),
        }
    }

    /// Returns the identity of a file or device, with the files behind it.
    pub(super) fn of_file(file: FileIdentity, beneath: Vec<FileIdentity>) -> Self {
        Self {
            file: Some(file),
            beneath,
        }
    }

    /// Returns true if both are the same file or device.
    pub fn is(&self, other: &Self) -> bool {
        self.file.is_some() && self.file == other.file
    }

    /// Returns true if writing to one can change the other: they are the same, or one is behind the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_over = |upper: &Self, lower: &Self| {
            let file = lower.file.as_ref();
            file.is_some_and(|file| upper.beneath.contains(file))
        };
        self.is(other) || is_over(self, other) || is_over(other, self)
    }
}

/// The identity of a file under any name: device and inode number, or the number of the block device itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: Option<u64>,
}

impl FileIdentity {
    /// Returns the identity of the file with this metadata.
    pub(super) fn of(meta: &Metadata) -> Self {
        if meta.file_type().is_block_device() {
            return Self {
                device: meta.rdev(),
                inode: None,
            };
        }
        Self {
            device: meta.dev(),
            inode: Some(meta.ino()),
        }
    }

    /// Returns the identity of a file that isn't a block device.
    pub(super) fn of_file(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: Some(stat.st_ino),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64, beneath: &[u64]) -> Identity {
        let identity = |inode: u64| FileIdentity {
            device: 1,
            inode: Some(inode),
        };
        Identity::of_file(
            identity(inode),
            beneath.iter().copied().map(identity).collect(),
        )
    }

    #[test]
    fn a_device_overlaps_the_files_that_it_is_over() {
        let (device, lower, other) = (file(1, &[2, 3]), file(3, &[]), file(4, &[]));
        assert!(device.overlaps(&lower) && lower.overlaps(&device));
        assert!(!device.is(&lower) && !device.overlaps(&other));
        assert!(device.is(&file(1, &[])));
    }

    #[test]
    fn what_belongs_to_one_storage_alone_is_no_other() {
        let one = Identity::unshared();
        assert!(!one.is(&Identity::unshared()) && !one.overlaps(&file(1, &[])));
    }
}
