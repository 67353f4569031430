//! Blocks that two files share.
//!
//! File systems that copy when they write can have two files point to the same blocks, which costs no
//! more than metadata. It is asked for with `FICLONERANGE`, which shares or fails, and never with
//! `copy_file_range`, which copies where it can't share. Who asks gets one of two refusals: of this piece,
//! or of whatever else there may be between the two files.

use std::fs::File;

use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl, opcode};

use crate::error::Error;

/// The reason for which blocks aren't shared. Nothing has changed then.
#[derive(Debug)]
pub struct NotShared {
    /// It is no use to ask for other pieces of the two files.
    pub ever: bool,
    /// The reason.
    pub why: Error,
}

impl NotShared {
    /// The refusal of a storage that has no blocks to share.
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

/// Makes `length` bytes of `target` from `offset` on share their blocks with those of `source` from
/// `source_offset` on. All three are whole blocks of the file system, but for the end of the source.
///
/// # Errors
/// Returns the system's error if they aren't shared, and whether that goes for all of the two files.
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
        // Blocks that don't line up, and what the medium has to say when it is written to.
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

/// Returns false if the system doesn't share blocks between the two files, whichever. It is asked for those
/// from the end of the source to its end, which are none. A file system that shares finds that invalid, and
/// another one doesn't come to look at them. Nothing changes.
pub(super) fn may_share(target: &File, source: &File) -> bool {
    let end = source.metadata().map(|source| source.len());
    end.is_ok_and(|end| !matches!(share(target, 0, source, end, 0), Err((true, _))))
}
