//! Sharing of blocks between two files.
//!
//! Copy-on-write file systems can let two files refer to the same blocks, which takes only metadata. The call is
//! `FICLONERANGE`, which shares or fails, and not `copy_file_range`, which copies if it can't share. An error says if
//! it is for this range only or for all of the two files.

use std::fs::File;

use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl, opcode};

use crate::error::Error;

/// The least unit in which file systems share blocks, in bytes.
pub const SHARED_UNIT: u64 = 4096;

/// The reason why blocks weren't shared. Nothing has changed then.
#[derive(Debug)]
pub struct NotShared {
    /// True if other ranges of the two files can't be shared either.
    pub ever: bool,
    /// The reason.
    pub why: Error,
}

impl NotShared {
    /// Returns the error of a storage that can't share blocks.
    pub(in crate::storage) fn unsupported() -> Self {
        Self {
            ever: true,
            why: Error::unsupported("blocks are shared between files only"),
        }
    }
}

/// `struct file_clone_range` of the kernel's `linux/fs.h`.
#[repr(C)]
struct FileCloneRange {
    source: i64,
    source_offset: u64,
    source_length: u64,
    offset: u64,
}

/// `FICLONERANGE` of the kernel's `linux/fs.h`.
const CLONE_RANGE: rustix::ioctl::Opcode = opcode::write::<FileCloneRange>(0x94, 13);

/// Makes `length` bytes of `target` from `offset` on share their blocks with those of `source` from `source_offset`
/// on. All three must be multiples of the file system's block size, except at the end of the source.
///
/// # Errors
/// Returns the system's error if they aren't shared, with true if that applies to all of the two files.
pub(super) fn share(
    target: &File,
    offset: u64,
    source: &File,
    source_offset: u64,
    length: u64,
) -> Result<(), (bool, Errno)> {
    use std::os::fd::AsRawFd as _;
    let range = FileCloneRange {
        source: i64::from(source.as_raw_fd()),
        source_offset,
        source_length: length,
        offset,
    };
    let share = || {
        let range = FileCloneRange { ..range };
        // SAFETY: the kernel reads one `file_clone_range`, as which `FileCloneRange` is laid out, and
        // writes no memory of ours. The descriptor in it is open for as long as `source` is borrowed.
        #[expect(unsafe_code)]
        unsafe {
            ioctl(target, Setter::<CLONE_RANGE, FileCloneRange>::new(range))
        }
    };
    rustix::io::retry_on_intr(share).map_err(|error| {
        // These are for unaligned ranges, and for failures of the medium.
        let here = [
            Errno::INVAL,
            Errno::IO,
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::AGAIN,
        ];
        (!here.contains(&error), error)
    })
}

/// Returns false if the system can't share any blocks between the two files. It tries an empty range at the end of
/// the source, which changes nothing. A file system that can share blocks rejects the range as invalid, and any other
/// has another error.
pub(super) fn may_share(target: &File, source: &File) -> bool {
    let end = source.metadata().map(|source| source.len());
    end.is_ok_and(|end| !matches!(share(target, 0, source, end, 0), Err((true, _))))
}
