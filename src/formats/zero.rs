//! A disk of zeroes.

use super::extent::{Extent, ExtentKind};
use super::image::{Image, check_range};
use crate::error::Result;
use crate::units::{GuestOffset, SECTOR_SIZE};

/// A disk of zeroes, the source of a new image's contents.
#[derive(Debug, Clone, Copy)]
pub struct ZeroImage {
    /// The size of the disk in bytes, not necessarily a multiple of 512.
    pub size: u64,
}

impl Image for ZeroImage {
    fn size(&self) -> u64 {
        self.size.next_multiple_of(SECTOR_SIZE)
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        Ok(Extent {
            start: offset,
            length: limit.min(self.size() - offset.0),
            kind: ExtentKind::Unallocated { kept: None },
            depth: 0,
        })
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        buf.fill(0);
        Ok(())
    }
}
