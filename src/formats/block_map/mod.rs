//! Formats that divide a disk into blocks of one size and map them with tables.
//!
//! VDI, VHD, VHDX, Parallels, QED and qcow version 1 are such formats. They differ in the header, in the encoding of
//! a table entry, and in the place of the table. The parts that depend only on the table are here: reading
//! ([`BlockImage`]), writing in place ([`WritableBlocks`]), and writing a new image ([`NewBlocks`]).
//!
//! A table may leave a block to the backing file, and may have compressed blocks. Only [`BlockImage`] determines the
//! contents of a block that isn't stored contiguously.

mod entries;
mod image;
mod new;
mod pages;
mod sector_bitmap;
mod space_at_end;
#[cfg(test)]
mod tests;
mod two_level;
mod used;
mod write;

pub use entries::{EntryForm, EntryTable, Fresh};
pub use image::BlockImage;
pub use new::{NewBlockTable, NewBlocks};
pub use sector_bitmap::LastBitmap;
pub use space_at_end::{SpaceAtEnd, copy_block};
pub use two_level::{TableShape, TwoLevelTable};
pub use used::ClusterSet;
pub use write::{BlockAllocator, WritableBlocks};

use std::ops::Range;

use crate::error::{Error, Result};
use crate::units::HostOffset;

/// The place of a block of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Not allocated: it reads as zeroes.
    Zero,
    /// Not allocated: it reads from the backing file, or as zeroes without one.
    Absent,
    /// In the file, at this offset.
    At(HostOffset),
    /// In the file, compressed.
    Compressed {
        /// The host offset of the compressed bytes.
        host: HostOffset,
        /// The number of compressed bytes, or an upper bound of it.
        length: u64,
    },
}

impl Block {
    /// Returns the place of the bytes that are `bytes` bytes later, if they are contiguous with these.
    fn after(self, bytes: u64) -> Option<Self> {
        match self {
            Self::Zero | Self::Absent => Some(self),
            Self::At(host) => Some(Self::At(HostOffset(host.0.saturating_add(bytes)))),
            Self::Compressed { .. } => None,
        }
    }
}

/// The table that maps a disk's blocks.
pub trait BlockTable: Send + Sync {
    /// Returns the size of the disk in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// Returns the size of a block in bytes, a multiple of 512.
    fn block_size(&self) -> u64;

    /// Returns the unit of writing in bytes: the largest power of two that divides the block size.
    fn unit(&self) -> u64 {
        1 << self.block_size().trailing_zeros().min(62)
    }

    /// Returns the place of a block.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the entry is invalid.
    fn lookup(&self, block: u64) -> Result<Block>;

    /// Returns true if an entry can mark a block as zero whatever the backing file holds.
    fn stores_zeroes(&self) -> bool {
        false
    }

    /// Marks a block that isn't allocated as zero, in memory.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error if the format has no such entries.
    fn set_zero(&self, block: u64) -> Result<()> {
        let _ = block;
        Err(Error::invalid("the format has no zero blocks"))
    }

    /// Returns the length in bytes of the pieces for which `qemu-img` queries the status.
    fn status_step(&self) -> u64 {
        self.block_size()
    }

    /// Decompresses a whole block from the bytes of a [`Block::Compressed`].
    ///
    /// # Errors
    /// Returns an error if they don't decompress to exactly one block.
    fn decompress(&self, compressed: &[u8], block: &mut [u8]) -> Result<()> {
        let _ = (compressed, block);
        Err(Error::invalid("the format has no compressed blocks"))
    }
}

/// Passes the byte ranges of a disk's compressed blocks to `each`.
///
/// # Errors
/// Returns an error as [`BlockTable::lookup`] does.
pub fn compressed_parts(table: &impl BlockTable, each: &mut dyn FnMut(Range<u64>)) -> Result<()> {
    for block in 0..table.size().div_ceil(table.block_size()) {
        if let Block::Compressed { host, length } = table.lookup(block)? {
            each(host.0..host.0.saturating_add(length));
        }
    }
    Ok(())
}
