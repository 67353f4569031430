//! The extents of a disk.

use std::fmt;

use crate::error::Result;
use crate::formats::{Chain, Image as _, Status};
use crate::units::GuestOffset;

/// A contiguous part of a disk with the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageExtent {
    /// Its guest offset in bytes.
    pub start: u64,
    /// Its length in bytes, above 0.
    pub length: u64,
    /// Its state.
    pub state: ExtentState,
    /// The number of overlays above the image that stores it: 0 for the image itself, 1 for its backing file.
    pub depth: usize,
    /// Its host offset in that image's file, in bytes, if the data is stored unchanged.
    pub host_offset: Option<u64>,
}

/// The state of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtentState {
    /// Data, encrypted or not.
    Data,
    /// Compressed data.
    Compressed,
    /// Zeroes that needn't be read.
    Zero,
    /// Unallocated in every image of the backing chain, so that it reads as zeroes.
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

/// An iterator over the extents of a disk, in guest order. It ends after an error.
pub struct ImageExtents<'a> {
    pub(super) image: &'a Chain,
    pub(super) position: u64,
}

impl fmt::Debug for ImageExtents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageExtents")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
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
