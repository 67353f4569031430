//! The description of a change of a disk's size, for all formats.

use super::new_image::Preallocation;
use crate::error::Error;

/// The new size of a disk, and the preallocation of the added space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resize {
    /// The new size in bytes.
    pub size: u64,
    /// The preallocation of added space. Must be [`Preallocation::Off`] if the disk shrinks.
    pub preallocation: Preallocation,
}

/// Returns the error for a format whose disks can't be resized, with `qemu-img`'s wording.
pub(super) fn no_resize() -> Error {
    Error::unsupported("Image format driver does not support resize")
}
