//! An image of a format for which QEMU reports nothing but its size: all of the disk counts as data at an unknown
//! place.
//!
//! Reports and counts follow QEMU, since scripts rely on them. Copying and comparing use the real extents.

use std::sync::Arc;

use super::{Extent, Image, Plain, Status};
use crate::error::Result;
use crate::storage::Storage;
use crate::units::GuestOffset;

/// An image whose status doesn't say where its data is.
pub struct OpaqueImage(Arc<dyn Image>);

impl OpaqueImage {
    /// Wraps an image.
    pub fn new(image: impl Image + 'static) -> Self {
        Self(Arc::new(image))
    }
}

impl Image for OpaqueImage {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        self.0.extent_at(offset, limit)
    }

    fn status_at(&self, offset: GuestOffset, limit: u64) -> Result<Status> {
        super::check_range(self.size(), offset, 1)?;
        Ok(Status {
            length: limit.min(self.size() - offset.0),
            present: true,
            data: true,
            ..Status::default()
        })
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        self.0.plain_storage()
    }

    fn plain_at(&self, offset: GuestOffset, limit: u64) -> Result<Plain<'_>> {
        self.0.plain_at(offset, limit)
    }

    fn memory_to_read(&self) -> usize {
        self.0.memory_to_read()
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buf)
    }
}
