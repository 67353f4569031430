//! The backing file that a new image is to have.
//!
//! Its name is stored as it was given, and is relative to the new image. It is looked at before the
//! image is made: it must be there and of the format that was stated, the image must not replace it,
//! and how big its disk is says where the new image reads as zeroes by itself.

use std::path::Path;

use super::source::Opened;
use super::{Names, Purpose};
use crate::error::Result;
use crate::formats::qcow2::Backing;
use crate::formats::{Format, Image as _, raw::RawImage};
use crate::storage::{Access, CacheMode, FileStorage};

/// A backing file that is there.
pub(super) struct Found {
    /// The file and its format.
    pub(super) opened: Opened,
    /// The size of its disk in bytes.
    pub(super) size: u64,
}

/// Looks at the backing file that the new image at `image` is to have. Nothing below it is opened. Others may
/// write it when it is only probed: that is how a running machine's disk gets an overlay.
pub(super) fn find(
    image: &Path,
    backing: &Backing,
    names: Names,
    purpose: Purpose,
) -> Result<Found> {
    let source = names.backing_file(image, &backing.name, backing.format.as_deref())?;
    // A file that can't be opened is reported by that alone.
    FileStorage::open(&source.path, Access::Read, CacheMode::Writeback)?;
    let opened = source.open_file(purpose)?;
    let size = match opened.header()? {
        Some(header) => header.size(),
        None => RawImage::open(opened.storage.clone())?.size(),
    };
    Ok(Found { opened, size })
}

/// The size of the backing file's disk in bytes, and its format.
///
/// # Errors
/// It can't be opened, or isn't of the format that was stated.
pub fn size_and_format(image: &Path, backing: &Backing, names: Names) -> Result<(u64, Format)> {
    let found = find(image, backing, names, Purpose::Probe)?;
    Ok((found.size, found.opened.format))
}
