//! A flat extent: a part of the disk, byte by byte, from some offset of its file on.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::formats::block_map::{
    Block, BlockAllocator, BlockImage, BlockTable, NewBlockTable, NewBlocks,
};
use crate::storage::Storage;
use crate::units::HostOffset;

/// The length of a block in bytes: a piece in which the disk is written, of no meaning to the format.
const BLOCK: u64 = 64 << 10;

/// The blocks of a flat extent, which all have their places.
#[derive(Debug, Clone)]
pub(super) struct FlatBlocks {
    file: Arc<dyn Storage>,
    /// The start in the file, in bytes.
    start: u64,
    /// The length in bytes, a multiple of 512.
    size: u64,
}

impl FlatBlocks {
    /// The extent of `size` bytes at `start` of a file that exists.
    ///
    /// # Errors
    /// Returns the system's error, or an error if the file ends before the extent.
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

    /// A new extent, which is all of its file. A file that is longer keeps what is behind the extent.
    ///
    /// # Errors
    /// Returns the system's error, or an error if a device is too small.
    pub(super) fn create(file: Arc<dyn Storage>, size: u64) -> Result<Self> {
        if file.starts_as_zeroes() {
            file.set_len(size)?;
        }
        Self::open(file, 0, size)
    }

    /// The extent, to be read.
    pub(super) fn image(self) -> BlockImage<Self> {
        let file = Arc::clone(&self.file);
        BlockImage::new(self, file, true)
    }

    /// The extent, to be written for the first time.
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

    /// All at once, as QEMU's driver does.
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
        // The last piece may have been written as a whole.
        if self.file.starts_as_zeroes() {
            self.file.set_len(self.size)?;
        }
        self.file.flush_if(flush)
    }
}
