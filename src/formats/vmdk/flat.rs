//! A flat extent: contiguous bytes of the disk, from an offset of its file on.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::formats::block_map::{
    Block, BlockAllocator, BlockImage, BlockTable, NewBlockTable, NewBlocks,
};
use crate::storage::Storage;
use crate::units::HostOffset;

/// The length of the pieces in which the disk is written, in bytes. The format has no such unit.
const BLOCK: u64 = 64 << 10;

/// The blocks of a flat extent, all of which are allocated.
#[derive(Debug, Clone)]
pub(super) struct FlatBlocks {
    file: Arc<dyn Storage>,
    /// The offset of the extent in the file, in bytes.
    start: u64,
    /// The length in bytes, a multiple of 512.
    size: u64,
}

impl FlatBlocks {
    /// Returns the extent of `size` bytes at byte `start` of an existing file.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the file ends before the extent does.
    pub(super) fn open(file: Arc<dyn Storage>, start: u64, size: u64) -> Result<Self> {
        let length = file.len()?;
        if start.saturating_add(size) > length {
            return Err(Error::corrupt(format!(
                "File truncated, expecting at least {} bytes",
                start.saturating_add(size)
            )));
        }
        Ok(Self { file, start, size })
    }

    /// Returns a new extent, which is the whole file. A device that is longer keeps its contents after the extent.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if a device is too small.
    pub(super) fn create(file: Arc<dyn Storage>, size: u64) -> Result<Self> {
        if file.starts_as_zeroes() {
            file.set_len(size)?;
        }
        Self::open(file, 0, size)
    }

    /// Returns the extent for reading.
    pub(super) fn image(self) -> BlockImage<Self> {
        let file = Arc::clone(&self.file);
        BlockImage::new(self, file, true)
    }

    /// Returns the extent for writing a new image.
    pub(super) fn new_image(self, flush: bool) -> NewBlocks<Self> {
        let file = Arc::clone(&self.file);
        NewBlocks::new(self, file, true, flush)
    }
}

impl BlockTable for FlatBlocks {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        BLOCK
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        Ok(Block::At(HostOffset(self.start + block * BLOCK)))
    }

    /// Returns the largest number, since QEMU's driver looks up all of the extent at once.
    fn status_step(&self) -> u64 {
        u64::MAX
    }
}

impl BlockAllocator for FlatBlocks {
    fn allocate(&self, block: u64) -> Result<HostOffset> {
        Ok(HostOffset(self.start + block * BLOCK))
    }

    fn commit(&self) -> Result<()> {
        Ok(())
    }
}

impl NewBlockTable for FlatBlocks {
    fn place(&self, block: u64) -> Result<HostOffset> {
        Ok(HostOffset(self.start + block * BLOCK))
    }

    fn finish(&self, flush: bool) -> Result<()> {
        // The last piece may have been written beyond the end of the extent.
        if self.file.starts_as_zeroes() {
            self.file.set_len(self.size)?;
        }
        self.file.flush_if(flush)
    }
}
