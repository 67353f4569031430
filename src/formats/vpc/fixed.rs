//! The disk of a fixed image: the file without its footer.
//!
//! It is divided into allocated blocks, so that it can be read and written like other disks of blocks.

use std::sync::Arc;

use super::footer::VhdFooter;
use crate::error::{Error, Result};
use crate::formats::block_map::{Block, BlockAllocator, BlockTable, NewBlockTable};
use crate::storage::Storage;
use crate::units::HostOffset;

/// The size of the blocks in bytes. In a truncated file, all whole blocks can be read.
const BLOCK_SIZE: u64 = 64 << 10;

/// The disk of a fixed image.
pub(super) struct FixedDisk {
    file: Arc<dyn Storage>,
    footer: VhdFooter,
    size: u64,
    /// The offset of the footer in bytes, before which all of the disk has to be.
    end: u64,
}

impl FixedDisk {
    /// Returns a disk of `size` bytes, in a file whose footer is at byte `end`.
    pub(super) fn new(file: Arc<dyn Storage>, footer: VhdFooter, size: u64, end: u64) -> Self {
        Self {
            file,
            footer,
            size,
            end,
        }
    }
}

impl BlockTable for FixedDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u64 {
        BLOCK_SIZE
    }

    fn lookup(&self, block: u64) -> Result<Block> {
        let start = block * BLOCK_SIZE;
        let end = (start + BLOCK_SIZE).min(self.size);
        if end > self.end {
            return Err(Error::corrupt(format!(
                "the disk has {} bytes, and the file has {} before its footer",
                self.size, self.end
            )));
        }
        Ok(Block::At(HostOffset(start)))
    }
}

impl BlockAllocator for FixedDisk {
    fn allocate(&self, block: u64) -> Result<HostOffset> {
        Err(Error::corrupt(format!(
            "block {block} of a fixed disk has no place"
        )))
    }

    fn commit(&self) -> Result<()> {
        Ok(())
    }
}

impl NewBlockTable for FixedDisk {
    fn place(&self, block: u64) -> Result<HostOffset> {
        Ok(HostOffset(block * BLOCK_SIZE))
    }

    fn finish(&self, flush: bool) -> Result<()> {
        if self.file.starts_as_zeroes() {
            self.file.set_len(self.size)?;
        }
        self.file.flush_if(flush)?;
        self.file.write_at(self.size, self.footer.bytes())?;
        self.file.flush_if(flush)
    }
}
