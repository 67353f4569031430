//! The ways in which a disk is stored, run by run.

use crate::error::Result;
use crate::formats::{Chain, Image as _, Status};
use crate::units::GuestOffset;

/// A run of a disk that is stored in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageExtent {
    /// The offset on the disk at which it starts, in bytes.
    pub start: u64,
    /// Its length in bytes, above 0.
    pub length: u64,
    /// The way in which it is stored.
    pub state: ExtentState,
    /// The number of images above the one that stores it: 0 for the image itself, 1 for its backing file.
    pub depth: usize,
    /// The offset in that image's file, in bytes, where the guest's bytes are there as they are.
    pub host_offset: Option<u64>,
}

/// The way in which a run of a disk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtentState {
    /// Data, encrypted or not.
    Data,
    /// Compressed data.
    Compressed,
    /// Zeroes, which need not be read.
    Zero,
    /// Nothing in any image; it reads as zeroes.
    Unallocated,
}

impl ImageExtent {
    pub(super) fn new(start: u64, status: &Status) -> Self {
        let state = match () {
            () if status.compressed => ExtentState::Compressed,
            () if status.data && !status.zero => ExtentState::Data,
            () if status.present => ExtentState::Zero,
            () => ExtentState::Unallocated,
        };
        Self {
            start,
            length: status.length,
            state,
            depth: status.depth,
            host_offset: status.offset.map(|host| host.0),
        }
    }
}

/// The extents of a disk, in the order of the disk. It ends after an error.
pub struct ImageExtents<'a> {
    pub(super) image: &'a Chain,
    pub(super) position: u64,
}

impl Iterator for ImageExtents<'_> {
    type Item = Result<ImageExtent>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.image.size().checked_sub(self.position)?;
        if left == 0 {
            return None;
        }
        let start = self.position;
        let status = self.image.status_at(GuestOffset(start), left);
        self.position = match &status {
            Ok(status) => start.saturating_add(status.length.max(1)),
            Err(_) => self.image.size(),
        };
        Some(status.map(|status| ImageExtent::new(start, &status)))
    }
}
