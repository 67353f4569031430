//! Another size for a disk that exists, whatever the format.

use super::new_image::Preallocation;
use crate::error::Error;

/// The size that a disk is to have, and the way in which the space that is added is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resize {
    /// The new size in bytes.
    pub size: u64,
    /// The way in which added space is taken. Anything but [`Preallocation::Off`] goes with growing only.
    pub preallocation: Preallocation,
}

/// Returns the error for a format whose disks can't be resized, in `qemu-img`'s words.
pub(super) fn no_resize() -> Error {
    Error::unsupported("Image format driver does not support resize")
}
